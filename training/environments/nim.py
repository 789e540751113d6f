"""`nim`: two players take from heaps, and whoever takes the last object wins. For self-play.

    nim a3 b5 c4>   the heaps, as whoever acts next sees them
    b2              take two from heap b

A move that the rules do not allow loses at once. Who should win, and how, is known (Bouton, 1901): the exclusive or
of the heaps is zero for whoever is about to lose.
"""

import re
from dataclasses import dataclass
from functools import reduce
from operator import xor
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
    total,
)

VERSION: Final = "1"
NAMES: Final = "abcdefgh"
_MOVE = re.compile(r"([a-h])([1-9])")
_HEAP = re.compile(r"([a-h])([0-9])")


@dataclass(frozen=True)
class NimConfig:
    """Say how many heaps there are, and how large they may be."""

    heaps: int = 3
    most: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.heaps <= len(NAMES):
            raise ValueError(f"heaps are from 1 to {len(NAMES)}")
        if not 1 <= self.most <= 9:
            raise ValueError("most is from 1 to 9")


class Nim:
    """Play one game."""

    def __init__(self, config: NimConfig) -> None:
        self._config = config
        self._hash = config_hash(config)
        moves = config.heaps * config.most
        self.spec = EnvSpec(
            "nim",
            VERSION,
            max_turns=moves,
            max_tokens=3 * moves,
            components=(ComponentSpec("won"), ComponentSpec("illegal", weight=-0.5)),
            players=2,
            max_action_bytes=1024,
        )
        self.player = 0
        self._heaps: dict[str, int] = {}
        self._winner: int | None = None
        self._offender: int | None = None

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw the heaps; player 0 begins."""
        random = task_random(self.spec, self._hash, seed)
        self._heaps = {name: random.between(1, self._config.most) for name in NAMES[: self._config.heaps]}
        self.player = 0
        self._winner = self._offender = None
        return self._shown(), self._info()

    def _shown(self) -> str:
        return f"nim {' '.join(f'{name}{size}' for name, size in self._heaps.items())}>"

    def _info(self) -> Info:
        return {
            "legal": tuple(
                f"{name}{take}" for name, size in self._heaps.items() for take in range(1, size + 1)
            )
        }

    def step(self, action: str) -> Step:
        """Take from a heap, or lose by a move that the rules do not allow."""
        mover, other = self.player, 1 - self.player
        move = _MOVE.fullmatch(action)
        if move is None or not int(move[2]) <= self._heaps.get(move[1], 0):
            self._winner, self._offender = other, mover
        else:
            self._heaps[move[1]] -= int(move[2])
            if not any(self._heaps.values()):
                self._winner = mover
        self.player = other
        over = self._winner is not None
        reward = total(self.spec, self.components(mover)) if over else 0.0
        return ("" if over else self._shown()), reward, over, False, self._info()

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `won`, and `illegal` for who lost by breaking the rules."""
        return (
            Component("won", float(self._winner == player)),
            Component("illegal", float(self._offender == player)),
        )


class Player:
    """Play perfectly where the position allows it, or take anything; plays both sides."""

    def __init__(self, random: TaskRandom, good: bool) -> None:
        self._random = random
        self._good = good

    def act(self, observation: Observation, info: Info) -> str:
        """Return a move; a bad player forgets the rules now and then."""
        heaps = {name: int(size) for name, size in _HEAP.findall(as_text(observation))}
        moves = [(name, take) for name, size in heaps.items() for take in range(1, size + 1)]
        balance = reduce(xor, heaps.values(), 0)
        winning = [(name, take) for name, take in moves if heaps[name] - take == heaps[name] ^ balance]
        if self._good and winning:
            moves = winning
        elif not self._good and self._random.chance(0.1):
            moves = [(name, size + 1) for name, size in heaps.items()]
        name, take = self._random.choice(moves)
        return f"{name}{take}"


NIM: Final = Definition(
    "nim",
    VERSION,
    "take from heaps, the last object wins (two players, self-play)",
    NimConfig,
    Nim,
    Player,
    good_share=0.35,
)
