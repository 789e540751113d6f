"""How an environment is offered: a definition behind an entry point, and its configuration as plain JSON."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.canonical import canonical_json, digest
from protocol.errors import ConfigError
from training.environments.protocol import Environment, Policy, TaskRandom

MAX_CONFIG_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Definition:
    """Offer an environment. An entry point of the group `murmur.environments` leads to one of these.

    `version` changes whenever any seed would give another task, or any action another reward. `config` is a frozen
    dataclass of JSON values in which everything has a default; its `__post_init__` raises ValueError for values that
    make no sense. `demonstrator` gives a policy that shows a task done well or badly, from observations alone;
    `good_share` is the mixture from which reinforcement learning was found to improve.
    """

    id: str
    version: str
    summary: str
    config: type
    make: Callable[[Any], Environment]
    demonstrator: Callable[[TaskRandom, bool], Policy] | None = None
    good_share: float = 0.35
    requires: str = ""
    """The foreign distribution behind an adapter, as pip is told to install it."""

    def configure(self, values: Mapping[str, object] | None = None) -> Any:
        """Return a configuration: the defaults, with these values instead.

        Raises:
            ConfigError: an unknown name, a value of another type, or one that makes no sense.
        """
        fields = {one.name: one for one in dataclasses.fields(self.config)}
        types = typing.get_type_hints(self.config)
        given = dict(values or {})
        if unknown := sorted(set(given) - set(fields)):
            known = ", ".join(fields) or "none"
            raise ConfigError(
                f"environment {self.id} has no setting {', '.join(unknown)!s:.80}",
                hint=f"its settings: {known}; `murmur env show {self.id}`",
            )
        for name, value in given.items():
            if not _fits(value, types[name]):
                raise ConfigError(
                    f"environment {self.id}: {name} is {value!r:.80}, not {_spell(types[name])}",
                    hint=f"`murmur env show {self.id}`",
                )
            if typing.get_origin(types[name]) is tuple:
                given[name] = tuple(typing.cast("list[object]", value))
        try:
            return self.config(**given)
        except ValueError as error:
            raise ConfigError(
                f"environment {self.id}: {error}", hint=f"`murmur env show {self.id}`"
            ) from error


def _fits(value: object, wanted: Any) -> bool:
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)[0]
        return isinstance(value, list | tuple) and all(_fits(one, inner) for one in value)
    if typing.get_origin(wanted) is dict:
        return isinstance(value, dict) and all(isinstance(one, str) for one in value)
    return type(value) is wanted


def _spell(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if typing.get_origin(wanted) is tuple:
        return "a list"
    return names.get(wanted, "an object")


def config_values(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON data, everything that has a default included."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def config_hash(config: Any) -> str:
    """Return the BLAKE3 digest of a configuration in canonical JSON.

    Raises:
        ConfigError: longer than `MAX_CONFIG_BYTES`, or not JSON.
    """
    try:
        data = canonical_json(config_values(config))
    except (ValueError, RecursionError) as error:  # what rfc8785 raises is a ValueError
        raise ConfigError("an environment's configuration is plain JSON data") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"a configuration of {len(data)} bytes exceeds {MAX_CONFIG_BYTES}")
    return digest(data)
