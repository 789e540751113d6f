"""An OpenEnv server, over its WebSocket.

The operator says where the server is, in MURMUR_OPENENV: a run's configuration names no address. Who does not
run the same server cannot replay what it says, so its reward counts as a judge's, unless the run declares the server
deterministic; then a replay really asks a server again.
"""

import contextlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from protocol.canonical import check_depth
from protocol.errors import Malformed, NetworkError
from training.environments.adapters import clamp, load
from training.environments.definition import Definition, config_hash
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Observation,
    Source,
    Step,
    task_random,
)

VERSION: Final = "1"
REQUIRES: Final = "websockets>=13"
ADDRESS: Final = "MURMUR_OPENENV"
DEFAULT_ADDRESS: Final = "ws://127.0.0.1:8000"
MAX_ANSWER: Final = 1 << 20
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class OpenEnvConfig:
    """Say which field of the server's action and observation is text, and the range of the sum of rewards."""

    action_field: str = "message"
    observation_field: str = ""  # empty: the whole observation as JSON
    turns: int = 8
    tokens: int = 512
    low: float = 0.0
    high: float = 1.0
    deterministic: bool = False
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in (self.action_field, self.observation_field or "x"):
            if not _FIELD.fullmatch(name):
                raise ValueError("fields are names")
        if not (1 <= self.turns <= 1000 and 1 <= self.tokens <= 1 << 20 and 0 < self.timeout_s <= 600):
            raise ValueError("turns are from 1 to 1000, tokens to a million, the timeout to 600 seconds")


class OpenEnv:
    """Hold one session of a server; it is opened by the first reset."""

    def __init__(self, config: OpenEnvConfig) -> None:
        self._library = load("websockets.sync.client", "openenv", REQUIRES)
        self._errors = load("websockets.exceptions", "openenv", REQUIRES)
        self._config = config
        self._hash = config_hash(config)
        self._source = Source.VERIFIABLE if config.deterministic else Source.AI_JUDGE
        self._session = contextlib.ExitStack()
        self._socket: Any = None
        self._sum = 0.0
        self.player = 0
        self.spec = EnvSpec(
            "openenv",
            VERSION,
            max_turns=config.turns,
            max_tokens=config.tokens,
            components=(ComponentSpec("reward", self._source, low=config.low, high=config.high),),
            deterministic=config.deterministic,
            max_action_bytes=min(65_536, 64 * config.tokens),
            stop="",
        )

    def close(self) -> None:
        """End the session: servers count them, and free a lost one late."""
        if self._socket is not None:
            with contextlib.suppress(OSError, self._errors.WebSocketException):
                self._socket.send('{"type": "close"}')
                self._session.close()
            self._socket = None

    def __del__(self) -> None:
        if getattr(self, "_socket", None) is not None:
            self.close()

    def _ask(self, kind: str, data: dict[str, object]) -> dict[str, Any]:
        address = os.environ.get(ADDRESS, DEFAULT_ADDRESS).rstrip("/") + "/ws"
        try:
            if self._socket is None:
                connection = self._library.connect(
                    address, max_size=MAX_ANSWER, open_timeout=self._config.timeout_s, proxy=None
                )
                self._socket = self._session.enter_context(connection)
            self._socket.send(json.dumps({"type": kind, "data": data}))
            text = self._socket.recv(timeout=self._config.timeout_s)
        except (OSError, self._errors.WebSocketException) as error:  # a timeout is an OSError
            self.close()
            raise NetworkError(
                f"no OpenEnv server answers at {address}: {error}", hint=f"start one, or set {ADDRESS}"
            ) from error
        raw = text.encode() if isinstance(text, str) else text
        check_depth(raw)
        try:
            answer = json.loads(raw)
            found = answer["data"]
        except (ValueError, LookupError, TypeError) as error:
            raise Malformed("the OpenEnv server's answer is not of its protocol") from error
        if answer.get("type") != "observation" or not isinstance(found, dict):
            why = found.get("message", "") if isinstance(found, dict) else ""
            raise Malformed(f"the OpenEnv server refused: {why!s:.200}")
        return found

    def _text(self, found: dict[str, Any]) -> str:
        observation = found.get("observation")
        if self._config.observation_field and isinstance(observation, dict):
            observation = observation.get(self._config.observation_field, "")
        return observation if isinstance(observation, str) else json.dumps(observation, sort_keys=True)

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Set the server's task."""
        self._sum = 0.0
        drawn = task_random(self.spec, self._hash, seed).below(2**31)
        return self._text(self._ask("reset", {"seed": drawn})) + "\n", {}

    def step(self, action: str) -> Step:
        """Send the action."""
        found = self._ask("step", {self._config.action_field: action})
        reward = found.get("reward")
        given = clamp(reward, self._config.low, self._config.high) if reward is not None else 0.0
        self._sum += given
        return self._text(found) + "\n", given, found.get("done") is True, False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `reward`, the sum over the episode."""
        return (Component("reward", clamp(self._sum, self._config.low, self._config.high), self._source),)


OPENENV: Final = Definition(
    "openenv",
    VERSION,
    f"an OpenEnv server, whose address {ADDRESS} gives",
    OpenEnvConfig,
    OpenEnv,
    requires=REQUIRES,
)
