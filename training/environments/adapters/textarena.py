"""Games of textarena, for one player or several by self-play.

Its games draw from Python's global generator. Each instance therefore keeps that generator's state for itself and puts
it in place for the length of a call, so that games played at the same time do not disturb each other.
"""

import random
import re
from collections.abc import Callable
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
REQUIRES: Final = "textarena>=0.7.4"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True)
class TextArenaConfig:
    """Name a game, its options, and how many play."""

    game: str = "Nim-v0"
    options: dict[str, Any] = field(default_factory=dict)
    players: int = 2
    turns: int = 40
    tokens: int = 2048
    deterministic: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.game):
            raise ValueError("game is the name of a game of textarena")
        if not (1 <= self.players <= 16 and 1 <= self.turns <= 1000 and 1 <= self.tokens <= 1 << 20):
            raise ValueError("players are from 1 to 16, turns from 1 to 1000, tokens from 1 to a million")


class TextArena:
    """Play one game."""

    def __init__(self, config: TextArenaConfig) -> None:
        self._library = load("textarena", "textarena", REQUIRES)
        self._config = config
        self._hash = config_hash(config)
        self._state = random.Random(0).getstate()
        self._inner: Any = None
        self._over = False
        self._rewards: dict[int, float] = {}
        self.player = 0
        self.spec = EnvSpec(
            "textarena",
            VERSION,
            max_turns=config.turns,
            max_tokens=config.tokens,
            components=(ComponentSpec("reward", low=-1.0, high=1.0),),
            players=config.players,
            deterministic=config.deterministic,
            max_action_bytes=min(65_536, 64 * config.tokens),
            stop="",
        )
        if config.game not in self._library.envs.registration.ENV_REGISTRY:
            raise ConfigError(
                f"textarena has no game {config.game}",
                hint="`python -c 'import textarena; textarena.pprint_registry_detailed()'` lists them",
            )

    def _alone(self, act: Callable[[], Any]) -> Any:
        outside = random.getstate()
        random.setstate(self._state)
        try:
            return act()
        finally:
            self._state = random.getstate()
            random.setstate(outside)

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Begin a game."""
        drawn = task_random(self.spec, self._hash, seed).below(2**31)
        self._state = random.Random(drawn).getstate()
        self._over, self._rewards = False, {}
        try:
            self._inner = self._alone(lambda: self._library.make(self._config.game, **self._config.options))
            self._alone(lambda: self._inner.reset(num_players=self._config.players, seed=drawn))
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"textarena cannot play {self._config.game}: {error!s:.200}") from error
        return self._observe(), {}

    def _observe(self) -> Observation:
        self.player, text = self._alone(self._inner.get_observation)
        return (Message("user", text if isinstance(text, str) else "\n".join(one[1] for one in text)),)

    def step(self, action: str) -> Step:
        """Let the player whose turn it is act."""
        mover = self.player
        self._over, _ = self._alone(lambda: self._inner.step(action))
        if not self._over:
            return self._observe(), 0.0, False, False, {}
        rewards, _ = self._alone(self._inner.close)
        self._rewards = {int(one): clamp(value, -1.0, 1.0) for one, value in (rewards or {}).items()}
        return "", self._rewards.get(mover, 0.0), True, False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `reward`: what the game gave this player at its end, between -1 and 1."""
        return (Component("reward", self._rewards.get(player, 0.0)),)


TEXTARENA: Final = Definition(
    "textarena",
    VERSION,
    "any game of textarena, by self-play",
    TextArenaConfig,
    TextArena,
    requires=REQUIRES,
)
