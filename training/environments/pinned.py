"""The environment that a run's manifest pins, opened once a process."""

from functools import lru_cache

from protocol.canonical import parse_canonical_json
from protocol.errors import ConfigError, Malformed
from protocol.manifest import RunManifest
from protocol.rollout_config import EnvironmentConfig, RolloutConfig
from protocol.rollouts import MAX_REWARD
from training.environments.protocol import EnvSpec, Source
from training.environments.registry import Opened, Pin, open_pinned

_MAX_SETTINGS_BYTES = 16_384


@lru_cache(maxsize=16)
def open_environment_of(rollouts: RolloutConfig) -> Opened:
    """Open the environment of a run; play on an instance of your own (`Opened.another`).

    Raises:
        ConfigError: this machine lacks exactly this one, it cannot be replayed, or the manifest states other
            components or players than it has, or gives weight to one that no replay gives.
    """
    pinned = rollouts.environment
    opened = open_pinned(Pin(pinned.name, pinned.version, pinned.settings_hash), _settings(pinned))
    spec = opened.environment.spec
    if not spec.deterministic:
        raise ConfigError(
            f"environment {spec.id} is not deterministic: nobody could check its rollouts",
            hint="`murmur env list --json` says which ones are",
        )
    _check(
        f"weighs {', '.join(one.component for one in rollouts.rewards)}",
        tuple(one.component for one in rollouts.rewards) == tuple(one.name for one in spec.components),
        f"{spec.id} gives {', '.join(one.name for one in spec.components)}",
    )
    _check(
        f"states {pinned.players} players", pinned.players == spec.players, f"{spec.id} has {spec.players}"
    )
    _check_range(spec)
    _check_sources(spec, rollouts)
    return opened


def check_environment(manifest: RunManifest) -> None:
    """Refuse a run whose rollouts nobody could check here.

    Raises:
        ConfigError: as `open_environment_of`.
    """
    if manifest.rollouts is not None:
        open_environment_of(manifest.rollouts)


def _settings(pinned: EnvironmentConfig) -> dict[str, object]:
    try:
        return parse_canonical_json(pinned.settings.encode(), max_bytes=_MAX_SETTINGS_BYTES)
    except Malformed as error:
        raise ConfigError(
            f"the settings of environment {pinned.name} are not canonical JSON: {error.message}",
            hint="`murmur env show NAME --json` prints them",
        ) from error


def _check(says: str, holds: bool, truth: str) -> None:
    if not holds:
        raise ConfigError(f"the manifest {says}, and environment {truth}", hint="`murmur env show NAME`")


def _check_range(spec: EnvSpec) -> None:
    for one in spec.components:
        if max(abs(one.low), abs(one.high)) > MAX_REWARD:
            raise ConfigError(
                f"environment {spec.id}: {one.name} may be beyond {MAX_REWARD:g}, which no sample holds"
            )


def _check_sources(spec: EnvSpec, rollouts: RolloutConfig) -> None:
    """Refuse rewards that a worker would only claim: of what a judge or a person says there is no record."""
    for announced, weighed in zip(spec.components, rollouts.rewards, strict=True):
        if announced.source is not Source.VERIFIABLE and weighed.weight:
            raise ConfigError(
                f"environment {spec.id}: nobody could check {announced.name}, which is of source {announced.source}",
                hint=f"give {announced.name} the weight 0 in the manifest",
            )
