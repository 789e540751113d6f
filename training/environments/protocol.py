"""What an environment is: gymnasium's five values over text, with rewards whose every component says where it is from.

An environment plays one episode at a time. `reset` and `step` give the observation of whoever acts next, whose number
`player` tells; with one player that is always 0. An action is the text of a peer: it is compared and parsed, never
evaluated, and it arrives through `training.environments.episode`, which bounds it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Protocol, TypeVar

from protocol.canonical import tagged_digest

T = TypeVar("T")
MAX_SEED: Final = 2**64 - 1
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?")

Info = Mapping[str, Any]
"""What a person or a policy by hand may want to know; `legal` lists the actions the rules allow now. Never rewarded."""


class Source(StrEnum):
    """Say who stands behind a component of a reward."""

    VERIFIABLE = "verifiable"
    """A pure function of task and actions: whoever replays the episode gets the same value."""
    AI_JUDGE = "ai_judge"
    HUMAN = "human"


@dataclass(frozen=True)
class Message:
    """Hold one turn of a conversation, for policies that have a chat template."""

    role: Literal["system", "user", "tool"]
    content: str


Observation = str | tuple[Message, ...]
Step = tuple[Observation, float, bool, bool, Info]
"""Observation of whoever acts next, reward of who acted, terminated, truncated, info."""


@dataclass(frozen=True)
class ComponentSpec:
    """Announce a component of the reward; a run's manifest may give it another weight."""

    name: str
    source: Source = Source.VERIFIABLE
    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Component:
    """Hold the value that one component had at the end, before any weight."""

    name: str
    value: float
    source: Source = Source.VERIFIABLE


@dataclass(frozen=True)
class EnvSpec:
    """State the limits of an environment under one configuration.

    `max_turns` counts the actions of all players. `max_tokens` bounds what the policy writes in one episode, and
    `max_action_bytes` one action in UTF-8. An action ends before `stop`, or with the policy's end-of-text token. A task
    counts as done where the components that `success` names have the best value they can have, which is the highest
    for a weight above zero and the lowest for one below; where it names none, all that weigh anything.
    """

    id: str
    version: str
    max_turns: int
    max_tokens: int
    components: tuple[ComponentSpec, ...]
    deterministic: bool = True
    players: int = 1
    max_action_bytes: int = 4096
    stop: str = "\n"
    success: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: a name, a limit or a component's range makes no sense.
        """
        if not NAME.fullmatch(self.id):
            raise ValueError(f"environment name {self.id!r}: small letters, digits, '-', '_' and '.' only")
        if min(self.max_turns, self.max_tokens, self.players, self.max_action_bytes) < 1:
            raise ValueError(f"environment {self.id}: limits start at 1")
        names = [one.name for one in self.components]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"environment {self.id}: components need distinct names, and there is at least one"
            )
        if not set(self.success) <= set(names):
            raise ValueError(f"environment {self.id}: success names a component that there is not")
        for one in self.components:
            if not (math.isfinite(one.low) and math.isfinite(one.high) and one.low < one.high):
                raise ValueError(f"environment {self.id}: component {one.name} has no range")
            if not math.isfinite(one.weight):
                raise ValueError(f"environment {self.id}: component {one.name} has no finite weight")


class Environment(Protocol):
    """Play one episode at a time."""

    @property
    def spec(self) -> EnvSpec:
        """Return the limits under this configuration."""
        ...

    @property
    def player(self) -> int:
        """Return who acts next, from 0."""
        ...

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Set the task of this seed, from 0 to `MAX_SEED`; return the first observation."""
        ...

    def step(self, action: str) -> Step:
        """Let `player` act. What the rules forbid has a consequence in the episode and raises nothing."""
        ...

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return every announced component, in the order of the spec, as it stands for a player."""
        ...


class Policy(Protocol):
    """Answer observations with actions; what stands behind it does not matter here."""

    def act(self, observation: Observation, info: Info) -> str:
        """Return the next action."""
        ...


def total(
    spec: EnvSpec, components: Sequence[Component], weights: Mapping[str, float] | None = None
) -> float:
    """Return the weighted sum of components; a weight that is not given is the spec's own."""
    own = {one.name: one.weight for one in spec.components}
    return math.fsum((weights or {}).get(one.name, own[one.name]) * one.value for one in components)


def succeeded(spec: EnvSpec, values: Sequence[float]) -> bool:
    """Tell whether a player's components, in the spec's order, mean that the task was done (`EnvSpec.success`)."""
    return all(
        value == (one.high if one.weight > 0 else one.low)
        for one, value in zip(spec.components, values, strict=True)
        if (one.name in spec.success if spec.success else one.weight)
    )


def as_text(observation: Observation) -> str:
    """Return an observation as plain text, for policies without a chat template and for people."""
    if isinstance(observation, str):
        return observation
    return "".join(f"{one.content}\n" for one in observation)


class TaskRandom:
    """Draw the same numbers on every machine and in every version of Python: BLAKE3 in counter mode."""

    def __init__(self, *parts: bytes | int) -> None:
        self._key = tagged_digest("murmur/environment/v1", *parts)
        self._block = 0

    def below(self, bound: int) -> int:
        """Return an integer from 0 to `bound` - 1, without bias.

        Raises:
            ValueError: `bound` is not from 1 to 2**64.
        """
        if not 0 < bound <= 2**64:
            raise ValueError(f"cannot draw below {bound}")
        limit = 2**64 - 2**64 % bound
        while True:
            number = int(tagged_digest("murmur/environment/block", self._key, self._block)[:16], 16)
            self._block += 1
            if number < limit:
                return number % bound

    def between(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return self.below(2**53) < share * 2**53

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in another order (Fisher and Yates)."""
        rest = list(items)
        for last in range(len(rest) - 1, 0, -1):
            other = self.below(last + 1)
            rest[last], rest[other] = rest[other], rest[last]
        return rest


def task_random(spec: EnvSpec, config_hash: str, seed: int) -> TaskRandom:
    """Return the numbers a task is made of: a function of name, version, configuration and seed alone."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is not an unsigned 64-bit number")
    return TaskRandom(spec.id.encode(), spec.version.encode(), bytes.fromhex(config_hash), seed)
