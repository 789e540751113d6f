"""Tasks of reasoning-gym: one question, one answer, a score from 0 to 1.

Its tasks are a function of name, options and seed, and its score of answer and task, so everybody can replay them.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from protocol.errors import ConfigError
from training.environments.adapters import clamp, load
from training.environments.definition import Definition, config_hash
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Message,
    Observation,
    Step,
    task_random,
)

VERSION: Final = "1"
REQUIRES: Final = "reasoning-gym>=0.1.25"


@dataclass(frozen=True)
class ReasoningGymConfig:
    """Name a task of reasoning-gym, its options, and how long an answer may be."""

    task: str = "chain_sum"
    options: dict[str, Any] = field(default_factory=dict)
    tokens: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= 1 << 16:
            raise ValueError("tokens are from 1 to 65536")
        if {"seed", "size"} & set(self.options):
            raise ValueError("seed and size are not options: every episode has its own task")


class ReasoningGym:
    """Ask one question."""

    def __init__(self, config: ReasoningGymConfig) -> None:
        self._library = load("reasoning_gym", "reasoning-gym", REQUIRES)
        self._config = config
        self._hash = config_hash(config)
        self.player = 0
        self.spec = EnvSpec(
            "reasoning-gym",
            VERSION,
            max_turns=1,
            max_tokens=config.tokens,
            components=(ComponentSpec("score"),),
            max_action_bytes=64 * config.tokens,
            stop="",
        )
        self._dataset: Any = None
        self._score = 0.0
        self._create(0)

    def _create(self, seed: int) -> None:
        try:
            self._dataset = self._library.create_dataset(
                self._config.task, seed=seed, size=1, **self._config.options
            )
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(
                f"reasoning-gym refuses task {self._config.task!r:.80}: {error!s:.200}",
                hint="`python -c 'from reasoning_gym.factory import DATASETS; print(*DATASETS)'` lists its tasks",
            ) from error

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw the task."""
        self._create(task_random(self.spec, self._hash, seed).below(2**31))
        self._score = 0.0
        return (Message("user", str(self._dataset[0]["question"])),), {}

    def step(self, action: str) -> Step:
        """Score the answer."""
        self._score = clamp(self._dataset.score_answer(answer=action.strip(), entry=self._dataset[0]))
        return "", self._score, True, False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `score`."""
        return (Component("score", self._score),)


REASONING_GYM: Final = Definition(
    "reasoning-gym",
    VERSION,
    "any task of reasoning-gym (one turn)",
    ReasoningGymConfig,
    ReasoningGym,
    requires=REQUIRES,
)
