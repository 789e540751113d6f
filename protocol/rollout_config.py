"""What makes a run one of reinforcement learning: environment, sampling, objective, rewards and tolerances."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from protocol.frozen import Address, Digest, Frozen, ProfileName
from protocol.model_config import ModelConfig

MAX_PLAYERS = 8
SAMPLE: Final = "{sample}"
"""Where a judge's prompt holds what it is to judge."""


class SamplingConfig(Frozen):
    """Say how episodes are sampled, and when a turn and an episode end (`training.rollout`)."""

    groups: int = Field(default=4, ge=1, le=4096)  # a unit; one task each
    group_size: int = Field(default=8, ge=2, le=256)  # G, samples a task
    temperature: float = Field(default=1.0, ge=0.01, le=100)
    end_token: int = Field(default=10, ge=0, lt=2**16)  # ends a turn; a newline among bytes
    turns: int = Field(default=8, ge=1, le=255)
    turn_tokens: int = Field(default=32, ge=1, le=65_535)  # a turn cut off here ends the episode unseen
    tokens: int = Field(default=64, ge=2, le=65_535)  # an episode, prompt and observations included


class PolicyConfig(Frozen):
    """Set the policy's objective: GRPO (Shao et al., arXiv 2402.03300), clipped on both sides.

    A higher upper clip is DAPO's (Yu et al., arXiv 2503.14476), the bound of what the clip leaves open for negative
    advantages INTELLECT-2's (arXiv 2505.07291). At each of these limits a token's gradient fades over `edge` instead
    of ending at once: else the rounding of one machine would decide whether it counts, and honest replays would differ.
    """

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.28, gt=0, le=10)
    bound: float = Field(default=4.0, gt=1, le=100)
    edge: float = Field(default=0.02, ge=1e-3, le=0.2)  # in the ratio, half of it on either side

    @model_validator(mode="after")
    def _bound_above_clip(self) -> "PolicyConfig":
        if self.bound <= 1 + self.clip_high:
            raise ValueError("bound must lie above 1 + clip_high")
        if self.edge > self.clip_low:
            raise ValueError("edge exceeds clip_low")
        return self


class EnvironmentConfig(Frozen):
    """Pin an environment: peers that lack exactly this one refuse the run."""

    name: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9]([a-z0-9_.-]*[a-z0-9])?$")]
    version: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")]
    settings: str = Field(default="{}", max_length=16_384)  # its configuration, canonical JSON
    settings_hash: Digest  # of the whole configuration, with every default
    players: int = Field(default=1, ge=1, le=MAX_PLAYERS)  # who all are the policy


class RewardWeight(Frozen):
    """Weigh one component of a sample's reward, and say who stands behind it."""

    component: Annotated[str, Field(max_length=64, pattern=r"^[ -~]+$")]
    weight: float = Field(ge=-1000, le=1000)
    source: Literal["verifiable", "ai_judge", "human"] = "verifiable"


class JudgeConfig(Frozen):
    """Have samples scored by a pinned model that peers drawn by the beacon sample from, as they do from the policy.

    Its answer is one turn; the first decimal number in it is the score, cut to `low` and `high`, and where there is
    none the score is `low`. The median of a group's judges counts.
    """

    model: ModelConfig
    parameters: Digest  # content address of its canonical parameter file
    tokenizer: Digest | None = None  # as the policy's; None: bytes are tokens
    prompt: Annotated[str, Field(max_length=8192)] = SAMPLE
    judges: int = Field(default=3, ge=1, le=15)  # k, of each group; fewer where fewer peers are there
    temperature: float = Field(default=1.0, ge=0.01, le=100)
    end_token: int = Field(default=10, ge=0, lt=2**16)
    answer_tokens: int = Field(default=4, ge=1, le=1024)  # an answer cut off here is none
    tokens: int = Field(default=64, ge=2, le=65_535)  # prompt and answer; a longer sample is cut
    low: float = Field(default=0.0, ge=-1e6, le=1e6)
    high: float = Field(default=1.0, ge=-1e6, le=1e6)

    @model_validator(mode="after")
    def _makes_sense(self) -> "JudgeConfig":
        if self.prompt.count(SAMPLE) != 1:
            raise ValueError(f"the judge's prompt holds {SAMPLE} once")
        if self.low >= self.high:
            raise ValueError("the judge's scores have no range")
        if self.answer_tokens >= self.tokens:
            raise ValueError("the judge's answer leaves its prompt no room")
        return self


class PeopleConfig(Frozen):
    """Name whose signed preferences between two samples of a group count (Bradley and Terry, 1952)."""

    addresses: Annotated[tuple[Address, ...], Field(min_length=1, max_length=256)]

    @model_validator(mode="after")
    def _differ(self) -> "PeopleConfig":
        if len({one.lower() for one in self.addresses}) < len(self.addresses):
            raise ValueError("a person is named twice")
        return self


class RolloutTolerance(Frozen):
    """Say how far an honest check of a sample may be away from what its worker computed under a numeric profile.

    Regret is in units of logit / temperature, log-probabilities in nats beyond what quantising takes
    (`training.prefill`).
    """

    profile: ProfileName
    regret: float = Field(ge=0, le=100)  # of any token
    median_off: float = Field(ge=0, le=100)  # of a group's log-probabilities
    max_off: float = Field(ge=0, le=100)
    fingerprint: float = Field(ge=0, le=10)  # relative distance of a group's activations
    slash_regret: float = Field(ge=0, le=100)  # of the exact reference: a fault is proven beyond

    @model_validator(mode="after")
    def _slash_above(self) -> "RolloutTolerance":
        if self.slash_regret < self.regret:
            raise ValueError("slash_regret lies below regret")
        return self


_CPU = RolloutTolerance(
    profile="cpu-fp32", regret=1e-3, median_off=1e-4, max_off=1e-3, fingerprint=1e-4, slash_regret=1e-2
)
_ROUNDED = RolloutTolerance(
    profile="cpu-bf16", regret=0.5, median_off=0.02, max_off=1.0, fingerprint=0.2, slash_regret=2.0
)
CPU_ROLLOUTS: Final = (_CPU, _ROUNDED, _CPU.model_copy(update={"profile": "cpu-exact"}))
"""An exact profile samples in float32 and is judged exactly. `python -m tests.bench rollouts` measures honest ones: on
seven emulated machines regret 0, log-probability 5e-6 and fingerprint 6e-6; in bfloat16 at most 0.11, 0.2 and 0.04.
"""


class RolloutConfig(Frozen):
    """Make a run one of reinforcement learning: units hold rollouts, and inner steps learn from earlier ones."""

    environment: EnvironmentConfig
    tokenizer: Digest | None = None  # vocabulary and format (`training.tokenizer`); None: bytes are tokens
    sampling: SamplingConfig = SamplingConfig()
    policy: PolicyConfig = PolicyConfig()
    # The environment's in its order, then those of judges or people that it does not announce.
    rewards: Annotated[tuple[RewardWeight, ...], Field(min_length=1, max_length=16)]
    judge: JudgeConfig | None = None
    people: PeopleConfig | None = None
    lag: int = Field(default=2, ge=1, le=4)  # rounds between sampling and learning
    tolerances: Annotated[tuple[RolloutTolerance, ...], Field(min_length=1, max_length=16)] = CPU_ROLLOUTS

    @model_validator(mode="after")
    def _signals_are_there(self) -> "RolloutConfig":
        for source, given in (("ai_judge", self.judge), ("human", self.people)):
            weighed = [one.component for one in self.rewards if one.source == source and one.weight]
            if len(weighed) > 1:
                raise ValueError(f"{' and '.join(weighed)}: a run has one component of source {source}")
            if bool(weighed) != (given is not None):
                name = "judge" if source == "ai_judge" else "people"
                raise ValueError(f"a weight for a component of source {source} and `{name}` come together")
        if (self.judge or self.people) and self.lag < 2:
            raise ValueError(
                "what judges or people say of a round is known a round later: the lag is at least 2"
            )
        if self.judge and self.environment.players > 1:
            raise ValueError("a judge scores samples of one player")
        return self

    def signal(self, source: Literal["ai_judge", "human"]) -> int | None:
        """Return the place among `rewards` of what judges or people say; None where the run does not ask them."""
        found = (place for place, one in enumerate(self.rewards) if one.source == source and one.weight)
        return next(found, None)

    def tolerance(self, profile: str) -> RolloutTolerance | None:
        """Return what holds under a numeric profile."""
        return next((one for one in self.tolerances if one.profile == profile), None)
