"""The environment that a run's manifest pins, opened once a process."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from protocol.canonical import parse_canonical_json
from protocol.errors import ConfigError, Malformed
from protocol.manifest import RunManifest
from protocol.rollout_config import EnvironmentConfig, RewardWeight, RolloutConfig
from protocol.rollouts import MAX_REWARD
from training.environments.protocol import ComponentSpec, Environment, EnvSpec, Source
from training.environments.registry import Pin, open_pinned
from training.environments.signals import Signalled
from training.judging import check_judge

_MAX_SETTINGS_BYTES = 16_384


@dataclass(frozen=True)
class Pinned:
    """Hold a run's environment, with the components that judges and people add to its own."""

    environment: Environment
    # Gives one more instance, for an episode that is played at the same time.
    another: Callable[[], Environment]


@lru_cache(maxsize=16)
def open_environment_of(rollouts: RolloutConfig) -> Pinned:
    """Open the environment of a run; play on an instance of your own (`Pinned.another`).

    Raises:
        ConfigError: this machine lacks exactly this one, it cannot be replayed, or the manifest states other
            components or players than it has.
    """
    pinned = rollouts.environment
    opened = open_pinned(Pin(pinned.name, pinned.version, pinned.settings_hash), _settings(pinned))
    spec = opened.environment.spec
    if not spec.deterministic:
        raise ConfigError(
            f"environment {spec.id} is not deterministic: nobody could check its rollouts",
            hint="`murmur env list --json` says which ones are",
        )
    own, added = rollouts.rewards[: len(spec.components)], rollouts.rewards[len(spec.components) :]
    _check(
        f"weighs {', '.join(f'{one.component} ({one.source})' for one in own)}",
        [(one.component, one.source) for one in own] == [(one.name, one.source) for one in spec.components],
        f"{spec.id} gives {', '.join(f'{one.name} ({one.source})' for one in spec.components)}",
    )
    for one in added:
        _check(f"weighs {one.component}", one.source != "verifiable", f"{spec.id} does not give it")
    _check(
        f"states {pinned.players} players", pinned.players == spec.players, f"{spec.id} has {spec.players}"
    )
    _check_range(spec)
    signals = [_component(rollouts, one) for one in added]
    if not signals and all(one.source is Source.VERIFIABLE for one in spec.components):
        return Pinned(opened.environment, opened.another)
    return Pinned(Signalled(opened.environment, signals), lambda: Signalled(opened.another(), signals))


def _component(rollouts: RolloutConfig, weighed: RewardWeight) -> ComponentSpec:
    source, judge = Source(weighed.source), rollouts.judge
    low, high = (judge.low, judge.high) if judge and source is Source.AI_JUDGE else (0.0, 1.0)
    # Zero stands for what nobody has said yet.
    return ComponentSpec(weighed.component, source, weighed.weight, min(low, 0.0), max(high, 0.0))


def check_environment(manifest: RunManifest) -> None:
    """Refuse a run whose rollouts nobody could check here.

    Raises:
        ConfigError: as `open_environment_of`, or nobody can ask its judge here.
    """
    if manifest.rollouts is not None:
        open_environment_of(manifest.rollouts)
        check_judge(manifest)


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
