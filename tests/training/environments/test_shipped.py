"""The shipped environments: what earns a reward, what does not, and that everybody gets the same."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from typing import Any

import pytest

from protocol.errors import Malformed
from training.environments.arithmetic import ARITHMETIC, last_number
from training.environments.definition import Definition
from training.environments.demonstration import RandomPolicy, corpus, demonstrate
from training.environments.episode import Episode, Outcome, play, replay
from training.environments.nim import NIM
from training.environments.protocol import MAX_SEED, Environment, TaskRandom, as_text, total
from training.environments.shop import SHOP
from training.environments.sort import SORT

SHIPPED = (SORT, SHOP, NIM, ARITHMETIC)


def make(definition: Definition, **config: Any) -> Environment:
    return definition.make(definition.configure(config))


def values(outcome: Outcome, player: int = 0) -> dict[str, float]:
    return {one.name: one.value for one in outcome.components[player]}


def played(environment: Environment, seed: int, actions: Sequence[str]) -> dict[str, float]:
    return values(replay(environment, seed, actions))


@pytest.fixture(params=SHIPPED, ids=lambda one: one.id)
def shipped(request: pytest.FixtureRequest) -> Definition:
    definition: Definition = request.param
    return definition


def test_an_episode_replays_to_the_same_outcome(shipped: Definition) -> None:
    one, other = make(shipped), make(shipped)
    for seed in (*range(40), MAX_SEED):
        for policy in (RandomPolicy(TaskRandom(seed)), None):
            outcome = demonstrate(shipped, one, seed).outcome if policy is None else play(one, seed, [policy])
            assert replay(other, seed, [turn.action for turn in outcome.turns]) == outcome, seed


def test_a_task_hangs_on_the_configuration(shipped: Definition) -> None:
    other = {
        "sort": {"length": 6},
        "shop": {"turns": 7},
        "nim": {"heaps": 4},
        "arithmetic": {"tokens": 25},
    }[shipped.id]
    first, second = make(shipped), make(shipped, **other)
    tasks = [[as_text(one.reset(seed)[0]) for seed in range(20)] for one in (first, second)]
    assert tasks[0] != tasks[1]
    assert len(set(tasks[0])) > 10


def test_good_demonstrations_earn_more_than_bad_ones(shipped: Definition) -> None:
    environment = make(shipped)
    rewards: dict[bool, list[float]] = {True: [], False: []}
    for one in itertools.islice(corpus(shipped, environment, 0), 400):
        rewards[one.good].append(total(environment.spec, one.outcome.components[0]))
    share = len(rewards[True]) / 400
    assert abs(share - shipped.good_share) < 0.1
    good, bad = (sum(rewards[one]) / len(rewards[one]) for one in (True, False))
    assert good > bad
    if environment.spec.players == 1:
        assert good == 1.0  # a good clerk makes no mistake
        assert 0 <= bad < 0.6


def test_a_demonstration_hangs_on_its_seed_alone(shipped: Definition) -> None:
    environment = make(shipped)
    forward = [demonstrate(shipped, environment, seed) for seed in range(10)]
    backward = [demonstrate(shipped, make(shipped), seed) for seed in reversed(range(10))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("action", ["", "\0", "\x1b[2J", "🦜" * 9, "__import__('os')", "$-1", "+", "?", "²"])
def test_odd_actions_only_lose(shipped: Definition, action: str) -> None:
    environment = make(shipped)
    episode = Episode(environment, 7)
    while not episode.over:
        episode.act(action)
    assert episode.rewards()[0] <= 0


def test_an_action_is_bounded_before_it_is_read(shipped: Definition) -> None:
    environment = make(shipped)
    limit = environment.spec.max_action_bytes
    for action in ("x" * (limit + 1), "é" * (limit // 2 + 1), "\ud800", b"x"):
        with pytest.raises(Malformed):
            Episode(environment, 0).act(action)  # type: ignore[arg-type]
    Episode(environment, 0).act("x" * limit)


# ---------------------------------------------------------------- sort


def test_sort_wants_exactly_the_letters_in_order() -> None:
    environment = make(SORT)
    letters = as_text(environment.reset(3)[0])[5:-1]
    wanted = "".join(sorted(letters))
    assert played(environment, 3, [wanted]) == {"sorted": 1.0}
    for wrong in (wanted[::-1], wanted + " ", wanted[:-1], wanted.upper(), ""):
        assert played(environment, 3, [wrong]) == {"sorted": 0.0}


# ---------------------------------------------------------------- shop


def order(environment: Environment, seed: int) -> tuple[int, list[str], dict[str, tuple[int, int]]]:
    """Return the quantity, the goods and what a look-up says of each."""
    text = as_text(environment.reset(seed)[0])
    goods = [text[7], text[9]]
    known = {}
    for good in goods:
        price, stock = as_text(environment.step(f"?{good}")[0]).split()
        known[good] = int(price[1:]), int(stock[1:])
    return int(text[5]), goods, known


def choices(environment: Environment, seed: int) -> tuple[str, str | None, int, int]:
    """Return the good to buy, the other one if it is in stock, and both totals."""
    quantity, goods, known = order(environment, seed)
    able = sorted((one for one in goods if known[one][1] >= quantity), key=lambda one: known[one][0])
    other = next((one for one in goods if one != able[0]), "")
    return (
        able[0],
        able[1] if len(able) > 1 else None,
        quantity * known[able[0]][0],
        quantity * known[other][0],
    )


def test_serving_an_order_takes_both_prices_the_cheaper_good_and_the_total() -> None:
    environment = make(SHOP)
    for seed in range(50):
        best, dear, due, much = choices(environment, seed)
        other = next(one for one in order(environment, seed)[1] if one != best)
        right = [f"?{best}", f"?{other}", f"+{best}", f"${due}"]
        assert played(environment, seed, right) == {"paid": 1, "cheapest": 1, "served": 1}, seed
        if dear:
            bought = [f"?{best}", f"?{other}", f"+{dear}", f"${much}"]
            assert played(environment, seed, bought) == {"paid": 1, "cheapest": 0, "served": 0}, seed


def test_shortcuts_do_not_pay() -> None:
    environment = make(SHOP)
    best, _, due, _ = choices(environment, 11)
    other = next(one for one in order(environment, 11)[1] if one != best)
    nothing = {"paid": 0, "cheapest": 0, "served": 0}
    assert played(environment, 11, [f"${due}"]) == nothing  # an empty cart
    assert played(environment, 11, ["$0"]) == nothing
    assert played(environment, 11, [f"+{best}", f"${due}"]) == {**nothing, "paid": 1}  # a lucky guess
    underpaid = [f"?{best}", f"?{other}", f"+{best}", f"${due - 1}"]
    assert played(environment, 11, underpaid) == {**nothing, "cheapest": 1}
    loitering = [f"?{best}"] * 5 + [f"+{best}"]
    outcome = replay(environment, 11, loitering)
    assert outcome.truncated
    assert values(outcome) == nothing


def test_a_guess_counts_where_the_configuration_says_so() -> None:
    environment = make(SHOP, compare=False)
    best, _, due, _ = choices(environment, 11)
    assert played(environment, 11, [f"+{best}", f"${due}"])["served"] == 1


def test_what_is_out_of_stock_is_not_sold_and_something_always_is_in_stock() -> None:
    environment = make(SHOP)
    refused = 0
    for seed in range(100):
        quantity, goods, known = order(environment, seed)
        assert any(stock >= quantity for _, stock in known.values()), seed
        assert known[goods[0]][0] != known[goods[1]][0], seed
        for good in goods:
            if known[good][1] < quantity:
                environment.reset(seed)
                assert environment.step(f"+{good}")[0] == "no\n"
                refused += 1
    assert refused > 10


def test_the_reward_of_the_last_step_is_the_sum_of_the_components() -> None:
    environment = make(SHOP)
    best, _, due, _ = choices(environment, 4)
    episode = Episode(environment, 4)
    assert [episode.act(one) for one in (f"+{best}", f"${due}")] == [0.0, 0.4]
    assert episode.rewards() == (0.4,)


# ---------------------------------------------------------------- nim


def test_a_good_player_who_can_win_wins() -> None:
    environment = make(NIM)
    assert NIM.demonstrator is not None
    won = 0
    for seed in range(100):
        sizes = [int(one) for one in as_text(environment.reset(seed)[0]) if one in string.digits]
        good, bad = (NIM.demonstrator(TaskRandom(seed), one) for one in (True, False))
        outcome = play(environment, seed, [good, bad])
        assert values(outcome, 0)["won"] + values(outcome, 1)["won"] == 1, seed
        if sizes[0] ^ sizes[1] ^ sizes[2]:
            assert values(outcome, 0) == {"won": 1, "illegal": 0}, seed
            won += 1
    assert won > 50


def test_players_take_turns_and_an_illegal_move_loses() -> None:
    environment = make(NIM)
    episode = Episode(environment, 0)
    assert episode.player == 0
    assert episode.act(str(episode.info["legal"][0])) == 0.0
    assert episode.player == 1
    assert episode.act("a9") == -0.5
    assert episode.over
    outcome = episode.outcome()
    assert values(outcome, 0) == {"won": 1, "illegal": 0}
    assert values(outcome, 1) == {"won": 0, "illegal": 1}
    assert [turn.player for turn in outcome.turns] == [0, 1]
    with pytest.raises(Malformed, match="after the end"):
        episode.act("a1")


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        ("7 + 5 = 12.", 12),
        ("I think it is 13. No: 12", 12),
        ("-3", -3),
        ("012", 12),
        ("", None),
        ("twelve", None),
        ("١٢", None),
        ("9" * 5000, None),
        ("12" + " " * 4000, 12),
    ],
)
def test_the_last_number_counts(text: str, number: int | None) -> None:
    assert last_number(text) == number


def test_arithmetic_asks_within_its_bounds_and_knows_the_answer() -> None:
    environment = make(ARITHMETIC, bounds=[5, 9], operators="+-")
    signs = set()
    for seed in range(60):
        _, _, left, sign, right, *_ = as_text(environment.reset(seed)[0]).replace("?", "").split()
        a, b = int(left), int(right)
        assert 1 <= min(a, b) <= max(a, b) <= 9
        signs.add(sign)
        wanted = a + b if sign == "+" else a - b
        assert wanted >= 0
        assert played(environment, seed, [f"{a} {sign} {b} is {wanted}"]) == {"correct": 1}
        assert played(environment, seed, [f"{wanted} or {wanted + 1}"]) == {"correct": 0}
    assert signs == {"+", "-"}
