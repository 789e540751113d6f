"""An episode keeps peers within their limits, and environments to their word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.errors import Malformed, OwnFault
from training.environments.episode import Episode, Outcome, replay
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Observation,
    Source,
    Step,
    TaskRandom,
    total,
)

SPEC = EnvSpec(
    "echo", "1", max_turns=3, max_tokens=9, components=(ComponentSpec("said"),), max_action_bytes=8
)


class Echo:
    """Say what was said; `end` ends it."""

    def __init__(self, spec: EnvSpec = SPEC, reward: float = 1.0, source: Source = Source.VERIFIABLE) -> None:
        self.spec = spec
        self.player = 0
        self._reward = reward
        self._source = source

    def reset(self, seed: int) -> tuple[Observation, Info]:
        return f"{seed}\n", {}

    def step(self, action: str) -> Step:
        return action, self._reward, action == "end", False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        return (Component("said", self._reward, self._source),)


def test_the_limit_of_turns_truncates_what_the_rules_do_not_end() -> None:
    outcome = replay(Echo(), 1, ["a", "b", "c"])
    assert (outcome.terminated, outcome.truncated) == (False, True)
    outcome = replay(Echo(), 1, ["a", "b", "end"])
    assert (outcome.terminated, outcome.truncated) == (True, False)


@pytest.mark.parametrize("actions", [[], ["a"], ["end", "a"], ["a"] * 4, ["end"] * 10**5])
def test_too_few_or_too_many_actions_are_no_episode(actions: list[str]) -> None:
    with pytest.raises(Malformed):
        replay(Echo(), 1, actions)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_is_an_unsigned_64_bit_number(seed: int) -> None:
    with pytest.raises(Malformed):
        Episode(Echo(), seed)


def test_what_is_not_deterministic_decides_nothing() -> None:
    with pytest.raises(OwnFault, match="cannot be replayed"):
        replay(Echo(replace(SPEC, deterministic=False)), 1, ["end"])


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), 1.5, -0.1])
def test_a_reward_outside_its_range_is_the_environments_fault(reward: float) -> None:
    with pytest.raises(OwnFault):
        replay(Echo(reward=reward), 1, ["end"])


def test_a_component_of_another_source_is_the_environments_fault() -> None:
    with pytest.raises(OwnFault, match="announced"):
        replay(Echo(source=Source.HUMAN), 1, ["end"])


def test_somebody_who_does_not_play_cannot_act() -> None:
    environment = Echo()
    environment.player = 1
    with pytest.raises(OwnFault, match="player 1"):
        Episode(environment, 0).act("a")


def test_weights_come_from_the_spec_unless_given() -> None:
    spec = replace(SPEC, components=(ComponentSpec("said", weight=0.5), ComponentSpec("meant", weight=2)))
    parts = (Component("said", 1.0), Component("meant", 0.25))
    assert total(spec, parts) == 1.0
    assert total(spec, parts, {"meant": 0.0}) == 0.5


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "Upper"},
        {"id": "../x"},
        {"max_turns": 0},
        {"players": 0},
        {"components": ()},
        {"components": (ComponentSpec("a"), ComponentSpec("a"))},
        {"components": (ComponentSpec("a", low=1.0),)},
        {"components": (ComponentSpec("a", weight=float("nan")),)},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="environment"):
        replace(SPEC, **fields)  # type: ignore[arg-type]


def test_the_numbers_of_a_task_are_frozen() -> None:
    random = TaskRandom(b"frozen", 7)
    found = [random.below(1000) for _ in range(4)], random.shuffled("abcdef"), random.chance(0.5)
    assert found == FROZEN
    assert sorted(TaskRandom(1).shuffled(range(50))) == list(range(50))
    for bound in (0, 2**64 + 1):
        with pytest.raises(ValueError, match="cannot draw"):
            TaskRandom(1).below(bound)


def test_draws_are_even() -> None:
    random = TaskRandom(b"even")
    counts = [0] * 6
    for _ in range(6000):
        counts[random.below(6)] += 1
    assert max(abs(one - 1000) for one in counts) < 150


FROZEN = ([152, 503, 745, 632], ["c", "d", "e", "f", "a", "b"], False)


def test_an_outcome_compares_by_value() -> None:
    assert replay(Echo(), 1, ["end"]) == replay(Echo(), 1, ["end"])
    assert isinstance(replay(Echo(), 1, ["end"]), Outcome)


class Broken(Echo):
    """Fail on a text that its author did not think of."""

    def step(self, action: str) -> Step:
        return super().step(str(int(action)))


def test_an_environment_that_fails_is_our_own_fault_whatever_it_raises() -> None:
    episode = Episode(Broken(), 1)
    episode.act("7")
    with pytest.raises(OwnFault, match="environment echo failed: ValueError: invalid literal"):
        episode.act("seven")
