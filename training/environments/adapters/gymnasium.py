"""Environments of gymnasium whose observations and actions are text, or numbers that can be written down.

Text spaces pass as they are, a discrete action is its number. What an action space does not contain ends the episode.
"""

import re
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
    Observation,
    Step,
    task_random,
)

VERSION: Final = "1"
REQUIRES: Final = "gymnasium>=1.2"
_NAME = re.compile(r"[A-Za-z0-9_/.-]{1,100}")  # no colon, behind which gymnasium would import a module
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class GymnasiumConfig:
    """Name a registered environment and its options; the sum of its rewards lies between `low` and `high`."""

    id: str = "FrozenLake-v1"
    options: dict[str, Any] = field(default_factory=dict)
    turns: int = 100
    tokens: int = 1024
    low: float = 0.0
    high: float = 1.0
    deterministic: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.id):
            raise ValueError("id is the name of a registered environment")
        if not (1 <= self.turns <= 10_000 and 1 <= self.tokens <= 1 << 20):
            raise ValueError("turns are from 1 to 10000, tokens from 1 to a million")


class Gymnasium:
    """Play one environment of gymnasium."""

    def __init__(self, config: GymnasiumConfig) -> None:
        library = load("gymnasium", "gymnasium", REQUIRES)
        self._hash = config_hash(config)
        self._config = config
        try:
            self._inner = library.make(config.id, **config.options)
        except (library.error.Error, TypeError, ValueError, ImportError) as error:
            raise ConfigError(
                f"gymnasium cannot make {config.id}: {error!s:.200}",
                hint="`python -c 'import gymnasium; gymnasium.pprint_registry()'` lists what it has",
            ) from error
        spaces = library.spaces
        self._discrete = isinstance(self._inner.action_space, spaces.Discrete)
        readable = isinstance(self._inner.observation_space, spaces.Text | spaces.Discrete)
        if not readable or not (self._discrete or isinstance(self._inner.action_space, spaces.Text)):
            raise ConfigError(
                f"{config.id} is no text environment: {self._inner.observation_space}, {self._inner.action_space}",
                hint="wrap its observations and actions in Text or Discrete spaces",
            )
        self.player = 0
        self.spec = EnvSpec(
            "gymnasium",
            VERSION,
            max_turns=config.turns,
            max_tokens=config.tokens,
            components=(ComponentSpec("reward", low=config.low, high=config.high),),
            deterministic=config.deterministic,
            max_action_bytes=min(65_536, 64 * config.tokens),
        )
        self._sum = 0.0

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw the task."""
        random = task_random(self.spec, self._hash, seed)
        observation, _ = self._inner.reset(seed=random.below(2**31))
        self._sum = 0.0
        return f"{observation}\n", self._info()

    def _info(self) -> Info:
        space = self._inner.action_space
        if not self._discrete or space.n > 1000:
            return {}
        return {"legal": tuple(str(int(space.start) + one) for one in range(int(space.n)))}

    def step(self, action: str) -> Step:
        """Act, if the action space contains the action."""
        taken: Any = action
        if self._discrete:
            taken = int(action) if _NUMBER.fullmatch(action) else -1
        if (self._discrete and taken < 0) or not self._inner.action_space.contains(taken):
            return "err\n", 0.0, True, False, {}
        observation, reward, terminated, truncated, _ = self._inner.step(taken)
        self._sum += float(reward)
        return f"{observation}\n", float(reward), bool(terminated), bool(truncated), self._info()

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `reward`, the sum over the episode."""
        return (Component("reward", clamp(self._sum, self._config.low, self._config.high)),)


GYMNASIUM: Final = Definition(
    "gymnasium",
    VERSION,
    "any registered text environment of gymnasium",
    GymnasiumConfig,
    Gymnasium,
    requires=REQUIRES,
)
