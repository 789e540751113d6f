"""Every adapter plays real episodes of its library, and another instance replays them."""

from __future__ import annotations

import random
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from protocol.errors import ConfigError, Malformed
from training.environments.adapters.gymnasium import GYMNASIUM
from training.environments.adapters.openenv import ADDRESS, OPENENV
from training.environments.adapters.reasoning_gym import REASONING_GYM
from training.environments.adapters.textarena import TEXTARENA
from training.environments.adapters.tools import tool_definition
from training.environments.adapters.verifiers import taskset_definition
from training.environments.definition import Definition
from training.environments.demonstration import RandomPolicy
from training.environments.episode import Episode, Outcome, play, replay
from training.environments.protocol import Environment, Source, TaskRandom, as_text
from training.environments.registry import full_version


def make(definition: Definition, **config: Any) -> Environment:
    return definition.make(definition.configure(config))


def values(outcome: Outcome, player: int = 0) -> dict[str, float]:
    return {one.name: one.value for one in outcome.components[player]}


def replayed(definition: Definition, outcome: Outcome, **config: Any) -> bool:
    return replay(make(definition, **config), outcome.seed, [one.action for one in outcome.turns]) == outcome


def finish(environment: Environment, seed: int, actions: Sequence[str]) -> Outcome:
    episode = Episode(environment, seed)
    for action in actions:
        episode.act(action)
    return episode.outcome()


@pytest.mark.parametrize("definition", [GYMNASIUM, REASONING_GYM, TEXTARENA, OPENENV], ids=lambda one: one.id)
def test_the_version_of_the_library_is_part_of_the_pin(definition: Definition) -> None:
    assert re.fullmatch(r"1\+[0-9.]+", full_version(definition))


# ---------------------------------------------------------------- reasoning-gym

SHORT = {"task": "chain_sum", "options": {"min_terms": 2, "max_terms": 2, "max_digits": 1}}


def test_reasoning_gym_scores_an_answer() -> None:
    environment = make(REASONING_GYM, **SHORT)
    for seed in range(20):
        question = as_text(environment.reset(seed)[0])
        match = re.search(r"(\d+) ([+-]) (\d+) =", question)
        assert match is not None, question
        left, right = int(match[1]), int(match[3])
        result = left + right if match[2] == "+" else left - right
        right_one = finish(environment, seed, [f" {result}\n"])
        assert values(right_one) == {"score": 1.0}
        assert replayed(REASONING_GYM, right_one, **SHORT)
        assert values(finish(environment, seed, ["nobody knows"]))["score"] < 0.1


def test_reasoning_gym_draws_another_task_for_another_seed_or_option() -> None:
    tasks = {as_text(make(REASONING_GYM, **SHORT).reset(seed)[0]) for seed in range(20)}
    assert len(tasks) > 10


@pytest.mark.parametrize(
    "config", [{"task": "no_such_task"}, {"options": {"no_such": 1}}, {"options": {"min_terms": 9}}]
)
def test_reasoning_gym_refuses_what_it_does_not_know(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="reasoning-gym refuses"):
        make(REASONING_GYM, **config)


# ---------------------------------------------------------------- gymnasium

LAKE = {"id": "FrozenLake-v1", "options": {"is_slippery": False}}


def test_gymnasium_walks_over_the_lake() -> None:
    outcome = finish(make(GYMNASIUM, **LAKE), 3, list("112122"))
    assert outcome.terminated
    assert values(outcome) == {"reward": 1.0}
    assert replayed(GYMNASIUM, outcome, **LAKE)
    assert values(finish(make(GYMNASIUM, **LAKE), 3, list("21"))) == {"reward": 0.0}  # a hole


def test_gymnasium_slips_the_same_way_every_time() -> None:
    seen = set()
    for seed in range(20):
        outcome = play(make(GYMNASIUM), seed, [RandomPolicy(TaskRandom(1))])
        assert replayed(GYMNASIUM, outcome)
        seen.add(tuple(as_text(one.observation) for one in outcome.turns))
    assert len(seen) > 10


@pytest.mark.parametrize("action", ["4", "-1", "one", "", "1" * 20])
def test_gymnasium_ends_at_what_is_no_action(action: str) -> None:
    outcome = finish(make(GYMNASIUM, **LAKE), 3, [action])
    assert outcome.terminated
    assert values(outcome) == {"reward": 0.0}


@pytest.mark.parametrize("id_", ["CartPole-v1", "NoSuch-v0"])
def test_gymnasium_environments_without_text_are_refused(id_: str) -> None:
    with pytest.raises(ConfigError):
        make(GYMNASIUM, id=id_)


# ---------------------------------------------------------------- textarena


class Taker:
    """Take one object from the first heap that has any."""

    def act(self, observation: Any, info: Any) -> str:
        piles = re.findall(r"pile (\d+): (\d+)", as_text(observation))[-3:]
        return next(f"[{number} 1]" for number, size in piles if size != "0")


def test_textarena_plays_against_itself() -> None:
    environment = make(TEXTARENA, game="Nim-v0")
    for seed in range(5):
        outcome = play(environment, seed, [Taker()])
        assert [one.player for one in outcome.turns[:4]] == [0, 1, 0, 1]
        assert sorted(values(outcome, one)["reward"] for one in (0, 1)) == [-1.0, 1.0]
        assert replayed(TEXTARENA, outcome, game="Nim-v0")


def test_textarena_instances_do_not_disturb_each_other_or_anybody_else() -> None:
    game = {"game": "Mastermind-v0", "players": 1, "turns": 6}
    guesses = ["[1 2 3 4]", "[4 3 2 1]", "[1 3 5 6]", "[6 5 2 1]", "[2 4 6 1]", "[3 6 1 5]"]
    alone = finish(make(TEXTARENA, **game), 4, guesses)
    outside = random.getstate()
    one, other = (Episode(make(TEXTARENA, **game), seed) for seed in (4, 5))
    for guess in guesses:
        one.act(guess)
        other.act(guess)
    assert one.outcome() == alone
    assert other.outcome() != alone
    assert random.getstate() == outside


def test_textarena_gives_a_cheat_nothing() -> None:
    outcome = play(make(TEXTARENA, game="Nim-v0", turns=6), 1, [_Cheat()])
    assert values(outcome, 0)["reward"] <= 0


class _Cheat:
    def act(self, observation: Any, info: Any) -> str:
        return "[9 9]"


def test_textarena_refuses_a_game_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match="no game"):
        make(TEXTARENA, game="NoSuch-v0")


# ---------------------------------------------------------------- verifiers


def riddles() -> Any:
    import verifiers.v1 as vf

    class RiddleData(vf.TaskData):
        answer: str = ""

    class Riddle(vf.Task[RiddleData, vf.State, vf.TaskConfig]):
        @vf.reward(weight=0.75)
        async def correct(self, trace: vf.Trace) -> float:
            return float(trace.last_reply == self.data.answer)

        @vf.reward(weight=0.25)
        async def brief(self, trace: vf.Trace) -> float:
            return float(len(trace.last_reply) <= 2)

    class Riddles(vf.Taskset[Riddle, vf.TasksetConfig]):
        def load(self) -> Iterator[Any]:
            for number in range(30):
                data = RiddleData(prompt=f"twice {number}?", answer=str(2 * number))
                yield Riddle(data, self.config.task)

    return Riddles(vf.TasksetConfig())


RIDDLES = taskset_definition("riddles", "1", "twice a number", riddles)


def test_a_taskset_of_verifiers_scores_with_its_own_functions() -> None:
    environment = make(RIDDLES)
    assert {one.name: one.weight for one in environment.spec.components} == {"correct": 0.75, "brief": 0.25}
    tasks = set()
    for seed in range(10):
        question = as_text(environment.reset(seed)[0])
        tasks.add(question)
        answer = str(2 * int(question.split()[1].rstrip("?\n")))
        outcome = finish(environment, seed, [answer])
        assert values(outcome) == {"correct": 1.0, "brief": 1.0}
        assert replayed(RIDDLES, outcome)
        assert values(finish(environment, seed, [f"it is {answer}"])) == {"correct": 0.0, "brief": 0.0}
    assert len(tasks) > 5


# ---------------------------------------------------------------- OpenEnv


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    import uvicorn
    from openenv.core.env_server import Action, Observation, State, create_fastapi_app
    from openenv.core.env_server.interfaces import Environment as Base

    class Guess(Action):
        message: str

    class Hint(Observation):
        text: str = ""

    class Guessing(Base):  # type: ignore[misc]
        """Guess a digit."""

        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self.secret = 0

        def reset(self, seed: int | None = None, episode_id: str | None = None, **more: Any) -> Hint:
            self.secret = (seed or 0) % 10
            return Hint(text="a digit?", done=False, reward=0.0)

        def step(self, action: Guess, timeout_s: float | None = None, **more: Any) -> Hint:
            hit = action.message == str(self.secret)
            higher = action.message < str(self.secret)
            text = "yes" if hit else "higher" if higher else "lower"
            return Hint(text=text, done=hit, reward=float(hit))

        @property
        def state(self) -> State:
            return State()

    listener = socket.create_server(("127.0.0.1", 0))
    app = create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=4)
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)
    listener.close()


GUESS = {"observation_field": "text", "turns": 12}


def test_openenv_plays_over_its_websocket(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, server)
    for seed in range(3):
        environment = make(OPENENV, **GUESS, deterministic=True)
        episode = Episode(environment, seed)
        guess = 0
        assert as_text(episode.observation) == "a digit?\n"
        while not episode.over:
            episode.act(str(guess))
            guess += 1
        outcome = episode.outcome()
        assert outcome.terminated
        assert values(outcome) == {"reward": 1.0}
        assert replayed(OPENENV, outcome, **GUESS, deterministic=True)


def test_openenv_counts_as_a_judge_unless_declared_deterministic(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, server)
    assert make(OPENENV, **GUESS).spec.components[0].source is Source.AI_JUDGE
    with pytest.raises(Malformed, match="refused"):
        Episode(make(OPENENV, **GUESS, action_field="nonsense"), 1).act("1")


# ---------------------------------------------------------------- TRL


class Counter:
    """The shape that TRL's `environment_factory` documents."""

    def __init__(self) -> None:
        self.count = 0

    def reset(self, **columns: Any) -> str | None:
        self.count = 0
        return "count to two"

    def increment(self, step: int) -> int:
        """
        Increment the counter.

        Args:
            step: how much

        Returns:
            the count
        """
        self.count += step
        return self.count

    def get_reward(self) -> float:
        return float(self.count == 2)


def test_a_class_in_the_style_of_trl_needs_no_change() -> None:
    definition = tool_definition("counter", "1", "count", Counter)
    outcome = finish(make(definition), 1, ['{"name": "increment", "arguments": {"step": 2}}', "done"])
    assert values(outcome) == {"reward": 1.0}
