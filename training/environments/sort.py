"""`sort`: put a few letters in order, in one turn. The smallest task on which a tiny policy visibly improves."""

from dataclasses import dataclass
from typing import Final

from training.environments.definition import Definition, config_hash
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Observation,
    Step,
    TaskRandom,
    as_text,
    task_random,
)

VERSION: Final = "1"


@dataclass(frozen=True)
class SortConfig:
    """Say how many letters, and which."""

    length: int = 5
    letters: str = "abcdefghij"

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 64:
            raise ValueError("length is from 1 to 64")
        if not 2 <= len(self.letters) <= 64 or not (self.letters.isascii() and self.letters.isalnum()):
            raise ValueError("letters are from 2 to 64 ASCII letters or digits")
        if len(set(self.letters)) != len(self.letters):
            raise ValueError("letters name no letter twice")


class Sort:
    """Show `sort dbcaa=`; the answer is `aabcd`."""

    def __init__(self, config: SortConfig) -> None:
        self._config = config
        self._hash = config_hash(config)
        self.spec = EnvSpec(
            "sort",
            VERSION,
            max_turns=1,
            max_tokens=config.length + 1,
            components=(ComponentSpec("sorted"),),
            max_action_bytes=64 * (config.length + 1),
        )
        self.player = 0
        self._wanted = ""
        self._sorted = False

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw the letters."""
        random = task_random(self.spec, self._hash, seed)
        letters = [random.choice(self._config.letters) for _ in range(self._config.length)]
        self._wanted = "".join(sorted(letters))
        self._sorted = False
        return f"sort {''.join(letters)}=", {"letters": self._config.letters, "length": self._config.length}

    def step(self, action: str) -> Step:
        """Take the answer."""
        self._sorted = action == self._wanted
        return "", float(self._sorted), True, False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `sorted`: 1 if the answer is exactly the letters in order."""
        return (Component("sorted", float(self._sorted)),)


class Clerk:
    """Sort, or make one of the four systematic mistakes."""

    def __init__(self, random: TaskRandom, good: bool) -> None:
        self._random = random
        self._good = good

    def act(self, observation: Observation, info: Info) -> str:
        """Answer what is written between `sort ` and `=`."""
        letters = as_text(observation).removeprefix("sort ").removesuffix("=")
        if self._good:
            return "".join(sorted(letters))
        match self._random.below(4):
            case 0:
                return letters
            case 1:
                return letters[::-1]
            case 2:
                return "".join(sorted(letters, reverse=True))
            case _:
                return "".join(self._random.shuffled(letters))


SORT: Final = Definition(
    "sort", VERSION, "put five letters in order (one turn)", SortConfig, Sort, Clerk, good_share=0.35
)
