"""What a run on a shipped environment uses: figures that were found to learn in a swarm of a few peers.

`python -m tests.bench swarm --env NAME` shows how far they get, through the codec and the outer step, without network.
Of nim it has not been measured yet: its figures are those of shop, with room for its games.
"""

from typing import Any, Final

from pydantic import Field

from protocol.canonical import canonical_json
from protocol.errors import UsageError
from protocol.frozen import Frozen
from protocol.manifest import CPU_FP32, UNJUDGED, CodecConfig, InnerConfig, OuterConfig
from protocol.model_config import ModelConfig
from protocol.rollout_config import (
    EnvironmentConfig,
    JudgeConfig,
    PeopleConfig,
    PolicyConfig,
    RewardWeight,
    RolloutConfig,
    SamplingConfig,
)
from training.environments.definition import config_values
from training.environments.registry import Opened, open_environment
from training.tuning import TuningConfig

PROFILE: Final = CPU_FP32.model_copy(
    update={"tolerance": 9e-3, "fresh_tolerance": 9e-2, "slash_tolerance": 1e-1}
)
"""A policy's steps are noisier than those on a text. Over 900 segments of `sort` honest replays on other instruction
sets differ by 1.5e-5 in the median and by 1.7e-3 once, from zero moments by 1.2e-4 and by 1.7e-2 once, and from exact
arithmetic by up to 3.5e-3: tolerances are five times the largest, and what is slashed is far beyond. Steps that are
left out are at least 0.47 away; TF32 passes (`murmur verifier calibrate --kind rollout`).
"""


INNER: Final = InnerConfig(
    steps=8, batch=16, lr=1e-3, eps=1e-6, weight_decay=0.0, warmup_steps=0, min_lr_fraction=0.2
)


JUDGED: Final = "judged"
PREFERRED: Final = "preferred"
PEOPLE_LAG: Final = 4
"""Rounds between sampling and learning where people are asked: they have all but one of them to compare in."""


class Signals(Frozen):
    """Say whose word on a sample counts beside the environment's, and how much."""

    judge: JudgeConfig | None = None
    judge_weight: float = 1.0
    people: PeopleConfig | None = None
    people_weight: float = 1.0
    own_weight: float = 1.0  # factor of the environment's own weights

    def rewards(self) -> tuple[RewardWeight, ...]:
        """Return the components that are not the environment's."""
        judged = RewardWeight(component=JUDGED, weight=self.judge_weight, source="ai_judge")
        preferred = RewardWeight(component=PREFERRED, weight=self.people_weight, source="human")
        return (judged,) * (self.judge is not None) + (preferred,) * (self.people is not None)


class Preset(Frozen):
    """Hold everything about a run on an environment that does not follow from who takes part."""

    environment: str
    model: ModelConfig
    tuning: TuningConfig
    sampling: SamplingConfig
    rounds: int
    inner: InnerConfig = INNER
    segment_steps: int = 2
    outer: OuterConfig = OuterConfig(lr=1.5)
    codec: CodecConfig = CodecConfig()
    policy: PolicyConfig = PolicyConfig()
    lag: int = 2  # rounds
    settings: dict[str, Any] = Field(default_factory=dict)

    def open(self) -> Opened:
        """Open the environment.

        Raises:
            ConfigError: it is not installed.
        """
        return open_environment(self.environment, self.settings)

    def fields(self, signals: Signals | None = None) -> dict[str, Any]:
        """Return the manifest's fields; rewards weigh what the environment says, and judges or people.

        Raises:
            ConfigError: the environment is not installed.
        """
        signals = signals or Signals()
        opened = self.open()
        spec = opened.environment.spec
        rollouts = RolloutConfig(
            environment=EnvironmentConfig(
                name=opened.pin.name,
                version=opened.pin.version,
                settings=canonical_json(config_values(opened.config)).decode(),
                settings_hash=opened.pin.config_hash,
                players=spec.players,
            ),
            sampling=self.sampling,
            policy=self.policy,
            rewards=(
                *(
                    RewardWeight(
                        component=one.name, weight=one.weight * signals.own_weight, source=one.source.value
                    )
                    for one in spec.components
                ),
                *signals.rewards(),
            ),
            judge=signals.judge,
            people=signals.people,
            lag=self.lag if signals.people is None else max(self.lag, PEOPLE_LAG),
        )
        return {
            "model": self.model,
            "inner": self.inner,
            "outer": self.outer,
            "codec": self.codec,
            "merging": UNJUDGED,
            "rounds": self.rounds,
            "rollouts": rollouts,
            "verification": {"segment_steps": self.segment_steps, "profiles": [PROFILE]},
        }


def preset(environment: str) -> Preset:
    """Return what a run on this environment uses.

    Raises:
        UsageError: nobody has tried what makes it learn.
    """
    for one in PRESETS:
        if one.environment == environment:
            return one
    raise UsageError(
        f"there is no preset for environment {environment!r:.80}",
        hint=f"choose {', '.join(one.environment for one in PRESETS)}, or write the manifest's fields yourself",
    )


def _small(context: int) -> ModelConfig:
    """Return a model of 0.1 M parameters over ASCII."""
    return ModelConfig(vocab=128, width=64, layers=2, heads=2, feed_forward=160, context=context)


PRESETS: Final = (
    Preset(
        environment="sort",
        model=_small(context=24),
        tuning=TuningConfig(demonstrations=16_384, observation_weight=0.0, steps=400),
        sampling=SamplingConfig(groups=16, group_size=8, turns=1, turn_tokens=6, tokens=24),
        rounds=28,
    ),
    Preset(
        environment="shop",
        model=_small(context=64),
        tuning=TuningConfig(demonstrations=16_384, observation_weight=0.0, steps=450),
        sampling=SamplingConfig(groups=16, group_size=8, turns=6, turn_tokens=8, tokens=64),
        inner=INNER.model_copy(update={"steps": 6}),
        rounds=20,
    ),
    Preset(
        environment="nim",
        model=_small(context=160),
        tuning=TuningConfig(demonstrations=16_384, observation_weight=0.2, steps=450),
        sampling=SamplingConfig(groups=16, group_size=8, turns=15, turn_tokens=4, tokens=160),
        rounds=28,
    ),
)
