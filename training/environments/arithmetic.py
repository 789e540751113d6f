"""`arithmetic`: sums and differences for a real language model, in one message.

The last number of the answer counts, so that a model may think aloud. A curriculum is a list of bounds: every task
draws one, so that easy tasks go on giving a signal while hard ones are not solved yet.
"""

import re
from dataclasses import dataclass
from typing import Final

from training.environments.definition import Definition, config_hash
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Message,
    Observation,
    Step,
    TaskRandom,
    as_text,
    task_random,
)

VERSION: Final = "1"
MAX_DIGITS: Final = 12
_NUMBER = re.compile(r"-?[0-9]+")  # not \d, which other scripts' digits match
_QUESTION = re.compile(r"What is ([0-9]+) ([+-]) ([0-9]+)\?")


@dataclass(frozen=True)
class ArithmeticConfig:
    """Say how large numbers may be (one bound a level), which operators there are, and how long an answer."""

    bounds: tuple[int, ...] = (10, 20)
    operators: str = "+"
    tokens: int = 24

    def __post_init__(self) -> None:
        if not 1 <= len(self.bounds) <= 16 or not all(2 <= one <= 10**9 for one in self.bounds):
            raise ValueError("bounds are up to 16 numbers from 2 to a thousand million")
        if self.operators not in ("+", "-", "+-"):
            raise ValueError("operators are +, - or +-")
        if not 4 <= self.tokens <= 4096:
            raise ValueError("tokens are from 4 to 4096")


class Arithmetic:
    """Ask one question."""

    def __init__(self, config: ArithmeticConfig) -> None:
        self._config = config
        self._hash = config_hash(config)
        self.spec = EnvSpec(
            "arithmetic",
            VERSION,
            max_turns=1,
            max_tokens=config.tokens,
            components=(ComponentSpec("correct"),),
            max_action_bytes=512 * config.tokens,
            stop="",
        )
        self.player = 0
        self._wanted = 0
        self._correct = False

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw the level, the numbers and the operator."""
        random = task_random(self.spec, self._hash, seed)
        bound = random.choice(self._config.bounds)
        left, right = random.between(1, bound), random.between(1, bound)
        operator = random.choice(self._config.operators)
        if operator == "-" and right > left:
            left, right = right, left
        self._wanted = left + right if operator == "+" else left - right
        self._correct = False
        question = f"What is {left} {operator} {right}? Answer with just the number."
        return (Message("user", question),), {"letters": "0123456789", "length": 2}

    def step(self, action: str) -> Step:
        """Take the answer."""
        self._correct = last_number(action) == self._wanted
        return "", float(self._correct), True, False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `correct`: 1 if the answer's last number is the result."""
        return (Component("correct", float(self._correct)),)


def last_number(text: str) -> int | None:
    """Return the last whole number of a text in ASCII digits; None if there is none, or one of too many digits."""
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return int(found[0]) if found is not None and len(found[0]) <= MAX_DIGITS else None


class Pupil:
    """Answer with the number, or as pupils do: off by a little, or with the question again."""

    def __init__(self, random: TaskRandom, good: bool) -> None:
        self._random = random
        self._good = good

    def act(self, observation: Observation, info: Info) -> str:
        """Return an answer."""
        question = _QUESTION.match(as_text(observation))
        if question is None:
            return ""
        left, right = int(question[1]), int(question[3])
        result = left + right if question[2] == "+" else left - right
        if self._good:
            return str(result)
        off = self._random.between(1, 3) * self._random.choice((-1, 1))
        return self._random.choice((str(result + off), str(left), f"{left} {question[2]} {right}"))


ARITHMETIC: Final = Definition(
    "arithmetic",
    VERSION,
    "sums in one message, for a language model with a chat template",
    ArithmeticConfig,
    Arithmetic,
    Pupil,
    good_share=0.35,
)
