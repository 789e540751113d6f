"""Which environments this machine has, and whether they are the ones that a run pins.

Entry points are the hub: `pip install` of a package with an entry point in the group `murmur.environments` makes its
environment known under that name. A run pins a name, a version and the hash of a configuration, and a peer that does
not have exactly these refuses.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any, Final, Self

from protocol.errors import ConfigError
from training.environments.definition import Definition, config_hash
from training.environments.protocol import NAME, Environment

GROUP: Final = "murmur.environments"
_PIN = re.compile(r"([^=\s]+)==([A-Za-z0-9][A-Za-z0-9.+_-]{0,63})")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """Name one environment so exactly that all who have it get the same tasks and rewards."""

    name: str
    version: str
    config_hash: str  # 64 hex digits

    @classmethod
    def parse(cls, text: str, config_hash: str) -> Self:
        """Read `name==version`.

        Raises:
            ConfigError: of another form.
        """
        match = _PIN.fullmatch(text)
        if match is None or not NAME.fullmatch(match[1]) or not _DIGEST.fullmatch(config_hash):
            raise ConfigError(
                f"{text!r:.80} does not pin an environment", hint="write NAME==VERSION, as in sort==1"
            )
        return cls(match[1], match[2], config_hash)

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Opened:
    """Hold an environment that is ready, what defines it and what pins it."""

    definition: Definition
    config: Any
    pin: Pin
    environment: Environment

    def another(self) -> Environment:
        """Return one more instance, for an episode that is played at the same time."""
        return self.definition.make(self.config)


def offered() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points by name, without importing what they lead to."""
    found: dict[str, list[EntryPoint]] = {}
    for one in entry_points(group=GROUP):
        found.setdefault(one.name, []).append(one)
    return {name: tuple(found[name]) for name in sorted(found)}


def provider(point: EntryPoint) -> str:
    """Return the distribution that offers an environment, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"


def find(name: str) -> Definition:
    """Load the definition of this name.

    Raises:
        ConfigError: nobody offers it, several do, or what is offered cannot be loaded.
    """
    everything = offered()
    points = everything.get(name, ())
    if not points:
        known = ", ".join(everything) or "none; `make setup` registers the shipped ones"
        raise ConfigError(
            f"no environment {name!r:.80} is installed here (installed: {known})",
            hint="pip install the package that offers it, then `murmur env list`",
        )
    if len(points) > 1:
        raise ConfigError(
            f"environment {name} is offered by {' and '.join(provider(one) for one in points)}",
            hint="uninstall all but one: a name must mean one environment",
        )
    (point,) = points
    try:
        definition = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"environment {name} of {provider(point)} cannot be loaded: {error}",
            hint="reinstall that package",
        ) from error
    if not isinstance(definition, Definition) or definition.id != name:
        raise ConfigError(
            f"entry point {name} of {provider(point)} leads to no definition of that name",
            hint="report it to that package; see docs/environments.md",
        )
    return definition


def full_version(definition: Definition) -> str:
    """Return a definition's version; behind an adapter the version of the foreign package is part of it.

    Raises:
        ConfigError: the foreign package is not installed.
    """
    if not definition.requires:
        return definition.version
    name = re.split(r"[=<>~!\[ ]", definition.requires)[0]
    try:
        return f"{definition.version}+{version(name)}"
    except PackageNotFoundError:
        raise missing(definition.id, definition.requires) from None


def missing(environment: str, requires: str) -> ConfigError:
    """Return the error for a foreign package that an adapter needs and this machine lacks."""
    return ConfigError(
        f"environment {environment} needs a package that is not installed: {requires}",
        hint=f"pip install '{requires}'",
    )


def open_environment(name: str, config: Mapping[str, object] | None = None) -> Opened:
    """Open an environment as it is installed here, and say what pins it.

    Raises:
        ConfigError: not installed, or a configuration that does not fit.
    """
    definition = find(name)
    found = full_version(definition)
    settings = definition.configure(config)
    environment = definition.make(settings)
    if (environment.spec.id, environment.spec.version) != (name, definition.version):
        spec = environment.spec
        raise ConfigError(
            f"environment {name}=={definition.version} calls itself {spec.id}=={spec.version}",
            hint="report it to the package that offers it",
        )
    return Opened(definition, settings, Pin(name, found, config_hash(settings)), environment)


def open_pinned(pin: Pin, config: Mapping[str, object] | None = None) -> Opened:
    """Open exactly the environment that a run pins.

    Raises:
        ConfigError: this machine lacks the name, the version or the configuration; which one, and what to do.
    """
    found = full_version(find(pin.name))
    if found != pin.version:
        raise ConfigError(
            f"the run pins environment {pin}, and version {found} is installed here",
            hint=f"install the package that offers {pin}, then `murmur env show {pin.name}`",
        )
    opened = open_environment(pin.name, config)
    if opened.pin.config_hash != pin.config_hash:
        raise ConfigError(
            f"the run pins {pin} with configuration {pin.config_hash[:12]}, and this one is "
            f"{opened.pin.config_hash[:12]}",
            hint="use the settings that the run was made with",
        )
    return dataclasses.replace(opened, pin=pin)
