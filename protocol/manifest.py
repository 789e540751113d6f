"""The run manifest: everything that defines a run, frozen. Its canonical-JSON BLAKE3 hash is the run id."""

from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from protocol.beacon_config import BeaconConfig, BlockBeacon
from protocol.canonical import canonical_json, digest, parse_canonical_json
from protocol.errors import Malformed
from protocol.frozen import Address, Arithmetic, Digest, Frozen, ProfileName, Wei
from protocol.model_config import ModelConfig
from protocol.rollout_config import JudgeConfig, RolloutConfig

MAX_MANIFEST_BYTES = 64 * 1024
MAX_UNIT_SAMPLES = 1 << 20
MAX_UNIT_TOKENS = 1 << 26
LOCAL_CHAIN_ID = 31337
"""The chain that anvil and its like run on one machine, where nobody's money is at stake."""


class MuonConfig(Frozen):
    """Have matrices of blocks take Muon's steps (`training.muon`), on AdamW's schedule and with its weight decay."""

    lr: float = Field(default=2e-2, gt=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)


class InnerConfig(Frozen):
    """Set inner steps, AdamW's (Loshchilov and Hutter, arXiv 1711.05101) or Muon's too, and their schedule."""

    steps: int = Field(default=15, ge=1, le=10_000)  # H, inner steps a round
    batch: int = Field(
        default=8, ge=1, le=65_536
    )  # sequences a step; groups of rollouts where a policy learns
    lr: float = Field(default=4e-3, gt=0, le=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-5, gt=0, le=1)  # 1e-8 drowns in rounding: see training.distance
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    clip_norm: float = Field(default=1.0, gt=0)
    muon: MuonConfig | None = None  # None: every parameter takes AdamW's steps
    # Into a round: its peer's own, or what is public alone (`training.inner`); published: second ones that updates say.
    moments: Literal["carried", "fresh", "published"] = "carried"
    slices: int = Field(default=128, ge=1, le=65_536)  # of the second moments, of which an update says one
    warmup_steps: int = Field(default=40, ge=0)
    min_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    # Blocks that learn, from the last, and what is behind them; None: every parameter.
    last_layers: int | None = Field(default=None, ge=1, le=256)

    @property
    def fresh(self) -> bool:
        """Tell whether a round's moments follow from what is public, not from its peer's own past."""
        return self.moments != "carried"


class TierConfig(Frozen):
    """Set the unit of slower machines: steps and batch of which neither is larger than `inner`'s."""

    steps: int = Field(ge=1, le=10_000)
    batch: int = Field(ge=1, le=65_536)


MAX_WEIGHT = 128  # of one update, so that those of a record sum to no more than the outer step takes


class OuterConfig(Frozen):
    """Set the outer step on the clipped mean of updates (SGD, Nesterov when momentum is not zero)."""

    lr: float = Field(default=2.0, gt=0, le=16)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    delay: int = Field(default=0, ge=0, lt=1000)  # segments that a unit takes before the last outer step


class MergingConfig(Frozen):
    """Set which of a round's updates move the parameters (`training.merging`)."""

    gate_windows: int = Field(default=32, ge=0, le=65_536)  # on which updates are judged; 0: there is no gate
    similarity: float = Field(
        default=0.25, ge=0, le=1
    )  # least share of the median cosine; 0: none is compared
    # Entries of every chunk that a round's joint update keeps, which contributors fetch in the place of everybody's
    # updates (`training.joint`); 0: they fetch everybody's.
    joint_k: int = Field(default=0, ge=0, le=4096)

    @property
    def judges(self) -> bool:
        """Tell whether updates are judged at all."""
        return bool(self.gate_windows or self.similarity)

    @property
    def weighs(self) -> bool:
        """Tell whether anything is computed of a round's updates before its record is said."""
        return self.judges or self.joint_k > 0


UNJUDGED: Final = MergingConfig(gate_windows=0, similarity=0)
"""Take every merged update as it is: clipped, and no more."""


class CodecConfig(Frozen):
    """Choose how a pseudo-gradient becomes symbols. `k` is for sparse, `bits` and `block` are for dense."""

    kind: Literal["sparse", "dense"] = "sparse"
    chunk: int = Field(default=4096, ge=64, le=65_536)
    k: int = Field(default=256, ge=1, le=4096)
    bits: int = Field(default=4, ge=2, le=8)
    block: int = Field(default=256, ge=16, le=4096)
    decay: float = Field(default=0.95, ge=0, le=1)  # of the error-feedback residual

    @model_validator(mode="after")
    def _k_fits_chunk(self) -> "CodecConfig":
        if self.k > self.chunk:
            raise ValueError("k exceeds the chunk")
        return self


class DatasetConfig(Frozen):
    """Pin the token shard: raw unsigned bytes, one a token; the last `heldout` share is never assigned."""

    name: str = Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9.-]*$")
    root: Digest  # BLAKE3 of the token bytes
    tokens: int = Field(gt=0)
    heldout: float = Field(default=0.05, gt=0, lt=1)


class NumericProfile(Frozen):
    """Pin how a peer computes, and how far an honest replay of it may be away.

    Distances are relative to the change over one segment, for each tensor of parameters and moments alone
    (`training.distance`). In exact arithmetic every honest machine computes the same bits, so the tolerance is zero.
    """

    name: ProfileName
    device: Literal["cpu", "cuda"]
    torch: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]  # release the tolerances were measured with
    arithmetic: Arithmetic
    flags: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")], ...] = ()
    tolerance: float = Field(ge=0, lt=1)  # of a replay under a profile that may judge this one
    fresh_tolerance: float = Field(ge=0, lt=1)  # the same where the segment starts from zero moments
    slash_tolerance: float = Field(ge=0, lt=10)  # of the exact reference: a fault is proven beyond
    judged_by: Annotated[tuple[ProfileName, ...], Field(max_length=8)] = ()  # others that may judge it

    @model_validator(mode="after")
    def _tolerances_rise(self) -> "NumericProfile":
        if not self.tolerance <= self.fresh_tolerance or not self.tolerance <= self.slash_tolerance:
            raise ValueError("tolerance exceeds fresh_tolerance or slash_tolerance")
        if (self.arithmetic == "exact") != (self.tolerance == 0):
            raise ValueError("exact arithmetic, and nothing else, has tolerance 0")
        return self

    def bound(self, fresh: bool) -> float:
        """Return the tolerance of a segment; `fresh` ones start from zero moments."""
        return self.fresh_tolerance if fresh else self.tolerance

    def slash_bound(self, fresh: bool) -> float:
        """Return the distance from the exact reference beyond which a fault is proven.

        From zero moments AdamW's first steps are as long for small gradients as for large ones, and rounding weighs
        more; the bound is then wider by as much as the tolerance is.
        """
        if not self.tolerance:
            return 0.0
        return self.slash_tolerance * (self.fresh_tolerance / self.tolerance if fresh else 1.0)


FP32_FLAGS: Final = ("deterministic", "no-tf32")
CPU_FP32: Final = NumericProfile(
    name="cpu-fp32",
    device="cpu",
    torch="2.13.0",
    arithmetic="fp32",
    flags=FP32_FLAGS,
    tolerance=1e-4,
    fresh_tolerance=8e-4,
    slash_tolerance=5e-4,
)
CPU_BF16: Final = NumericProfile(
    name="cpu-bf16",
    device="cpu",
    torch="2.13.0",
    arithmetic="bf16",
    flags=FP32_FLAGS,
    tolerance=0.37,
    fresh_tolerance=0.56,
    slash_tolerance=1.5,
)
"""Rounding to eight bits weighs: honest replays differ by up to 0.064 (0.11 from zero moments) between instruction
sets, and by 0.14 (0.16) from exact arithmetic, so that hardly anything but other work is proven false.
"""
CPU_EXACT: Final = NumericProfile(
    name="cpu-exact",
    device="cpu",
    torch="2.13.0",
    arithmetic="exact",
    tolerance=0,
    fresh_tolerance=0,
    slash_tolerance=0,
)
CPU_PROFILES: Final = (CPU_FP32, CPU_BF16, CPU_EXACT)
"""Those that this release carries a calibration of."""
CUDA_FP32: Final = CPU_FP32.model_copy(update={"name": "cuda-fp32", "device": "cuda"})
"""Not calibrated: no GPU was there to measure on."""
BUILT_IN_PROFILES: Final = (*CPU_PROFILES, CUDA_FP32)


class SamplingSchedule(Frozen):
    """Set how often a committed unit is drawn: newcomers often, then a floor, and more again after a doubt."""

    fresh_probability: float = Field(default=0.2, ge=0, le=1)  # of a number's first units
    fresh_units: int = Field(default=20, ge=0, le=10_000)
    floor_probability: float = Field(default=0.05, ge=0, le=1)  # of every later one
    suspicion_factor: float = Field(default=4.0, ge=1, le=100)  # after a void or false unit
    suspicion_units: int = Field(default=20, ge=0, le=10_000)  # for so many units

    def probability(self, earlier: int, suspect: int) -> float:
        """Return how likely a unit is drawn.

        Args:
            earlier: units of the same number listed before.
            suspect: units left under suspicion, this one included.
        """
        calm = self.fresh_probability if earlier < self.fresh_units else self.floor_probability
        return min(1.0, calm * self.suspicion_factor) if suspect else calm


class VerificationConfig(Frozen):
    """Set what is sampled, who judges, and under which arithmetic."""

    segment_steps: int = Field(default=3, ge=1, le=1000)  # k, inner steps between state hashes
    schedule: SamplingSchedule = SamplingSchedule()
    verifiers: int = Field(default=2, ge=2, le=16)  # a drawn unit is judged by
    witnesses: int = Field(default=3, ge=0, le=16)  # of a round's updates, drawn from its roster
    profiles: Annotated[tuple[NumericProfile, ...], Field(min_length=1, max_length=16)] = (CPU_FP32,)

    @model_validator(mode="after")
    def _profiles_differ(self) -> "VerificationConfig":
        if len({profile.name for profile in self.profiles}) != len(self.profiles):
            raise ValueError("two profiles of one name")
        return self

    def profile(self, name: str) -> NumericProfile | None:
        """Return a profile by its name."""
        return next((profile for profile in self.profiles if profile.name == name), None)


class DeadlineConfig(Frozen):
    """Set phase lengths in blocks of the chain."""

    ready: int = Field(default=240, ge=1)  # from the run's creation until it opens with who is there
    commit: int = Field(default=40, ge=2)  # from the assignment beacon
    reveal: int = Field(default=20, ge=2)  # from the commitment root
    receipt: int = Field(default=5, ge=1)  # from the end of the reveals, for the witnesses' receipts to come
    record: int = Field(default=200, ge=2)  # from the end of the reveals; a record anchored later is void
    verify: int = Field(default=60, ge=2)  # from the sampling beacon, for each rank of verifiers
    appeal: int = Field(
        default=60, ge=1
    )  # in which a unit can be accused, or its verdicts contested, for its pay


class PayConfig(Frozen):
    """Set what work earns. What is not earned stays in the pot."""

    unit_wei: Wei = 10**18  # a merged unit that passed or was not drawn
    verdict_wei: Wei = 2 * 10**17  # a verdict of a drawn verifier
    epoch_rounds: int = Field(default=10, ge=1)
    # Between an epoch and the reward table that pays it; until then a proven fault forfeits it.
    vest_epochs: int = Field(default=1, ge=0, le=1000)
    refusal_percent: int = Field(
        default=100, ge=0, le=100
    )  # of the epoch's pay, lost by each unit not opened
    wrong_percent: int = Field(
        default=200, ge=0, le=10_000
    )  # of a verdict's pay, lost by each verdict that a majority proves wrong; what an epoch paid is all there is


class PenaltyConfig(Frozen):
    """Set what the jury's rulings cost, within the ledger's bounds; the ledger holds the same."""

    fault_percent: int = Field(
        default=100, ge=50, le=100
    )  # of all stake: a proven fault, or a segment not opened
    equivocation_percent: int = Field(default=10, ge=1, le=100)  # a first and a second; from the third all
    window: int = Field(
        default=1200, ge=1, lt=2**32
    )  # blocks from a record's anchor, for cases about its round


class RunManifest(Frozen):
    """Define a run. Two manifests that differ in anything are two runs."""

    version: Literal[1] = 1
    name: str = Field(max_length=64, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9 ._-]*$")
    chain_id: int = Field(ge=1, lt=2**53)
    ledger: Address
    coordinator: Address  # of the hot key that signs for the coordinator
    rounds: int = Field(ge=1, le=1_000_000)
    min_peers: int = Field(default=1, ge=1)
    model: ModelConfig = ModelConfig()
    inner: InnerConfig = InnerConfig()
    # Tiers below the full one, which is tier 0: each of fewer samples than the one before.
    tiers: Annotated[tuple[TierConfig, ...], Field(max_length=7)] = ()
    outer: OuterConfig = OuterConfig()
    codec: CodecConfig = CodecConfig()
    merging: MergingConfig = MergingConfig()
    rollouts: RolloutConfig | None = None
    dataset: DatasetConfig  # of a policy: what it was tuned on before
    verification: VerificationConfig = VerificationConfig()
    beacon: BeaconConfig = BlockBeacon()
    deadlines: DeadlineConfig = DeadlineConfig()
    pay: PayConfig = PayConfig()
    penalties: PenaltyConfig = PenaltyConfig()
    initial_parameters: Digest  # content address of the canonical parameter file of round 0
    program: Digest  # golden vector of codec and aggregation, which a node must reproduce before it joins

    @model_validator(mode="after")
    def _segments_fill_the_round(self) -> "RunManifest":
        if self.inner.steps % self.verification.segment_steps:
            raise ValueError("inner steps must be a multiple of the segment length")
        return self

    @model_validator(mode="after")
    def _tiers_shrink(self) -> "RunManifest":
        if self.tiers and self.rollouts is not None:
            raise ValueError("a policy's units are all of one tier")
        before = self.inner.steps * self.inner.batch
        for tier in self.tiers:
            larger = tier.steps > self.inner.steps or tier.batch > self.inner.batch
            if larger or tier.steps * tier.batch >= before:
                raise ValueError(
                    "each tier is to have fewer samples a unit than the one before, and within inner's"
                )
            if tier.steps % self.verification.segment_steps:
                raise ValueError("a tier's steps must be a multiple of the segment length")
            before = tier.steps * tier.batch
        if self.tier_weights[0] > MAX_WEIGHT:
            raise ValueError(f"the tiers' samples are no whole multiples of each other up to {MAX_WEIGHT}")
        return self

    @model_validator(mode="after")
    def _outer_steps_are_taken_within_a_unit(self) -> "RunManifest":
        shortest = min((self.inner.steps, *(tier.steps for tier in self.tiers)))
        late = self.outer.delay >= shortest // self.verification.segment_steps
        if self.outer.delay and (late or self.rollouts is not None):
            raise ValueError("outer.delay must be below every tier's segments, and 0 for a policy")
        return self

    @model_validator(mode="after")
    def _layers_that_learn_are_there(self) -> "RunManifest":
        if self.inner.last_layers is not None and self.inner.last_layers > self.model.layers:
            raise ValueError(f"inner.last_layers exceeds the model's {self.model.layers} layers")
        return self

    @model_validator(mode="after")
    def _fresh_moments_see_every_step(self) -> "RunManifest":
        # A round's last step ends what its moments began; a policy skips steps that have nothing to teach.
        if self.rollouts is not None and self.inner.moments != "carried":
            raise ValueError("a policy carries its moments: inner.moments must be carried")
        return self

    @model_validator(mode="after")
    def _second_moments_can_be_published(self) -> "RunManifest":
        if self.inner.moments != "published":
            return self
        # A unit that goes on from its own state has its own moments, and a joint update says nobody's.
        if self.codec.kind != "sparse" or self.outer.delay or self.merging.joint_k:
            raise ValueError("inner.moments: published needs sparse updates, and no outer.delay or joint_k")
        return self

    @model_validator(mode="after")
    def _a_unit_is_assigned_quickly(self) -> "RunManifest":
        # Everybody draws the samples of every unit one by one, whoever wrote the manifest.
        if self.inner.steps * self.inner.batch > MAX_UNIT_SAMPLES:
            raise ValueError(f"a unit has more than {MAX_UNIT_SAMPLES} samples")
        return self

    @model_validator(mode="after")
    def _rollouts_fit_the_model(self) -> "RunManifest":
        if self.rollouts is None:
            return self
        if self.merging.gate_windows:
            raise ValueError("no text says what a policy's update is worth: merging.gate_windows is to be 0")
        sampling = self.rollouts.sampling
        if sampling.tokens > self.model.context:
            raise ValueError(
                f"episodes of {sampling.tokens} tokens do not fit a context of {self.model.context}"
            )
        if sampling.end_token >= self.model.vocab:
            raise ValueError("the end token is outside of the vocabulary")
        if sampling.groups * sampling.group_size * sampling.tokens > MAX_UNIT_TOKENS:
            raise ValueError(f"a unit's rollouts may hold more than {MAX_UNIT_TOKENS} tokens")
        judge = self.rollouts.judge
        if judge is not None:
            answers = sampling.groups * judge.judges
            if judge.tokens > judge.model.context or not judge.end_token < judge.model.vocab:
                raise ValueError("the judge's context or vocabulary does not hold its tokens")
            if judge.tokenizer is None and judge.model.vocab < 128:
                raise ValueError("a judge that reads bytes has a vocabulary of at least 128")
            if answers > 4096 or answers * sampling.group_size * judge.tokens > MAX_UNIT_TOKENS:
                raise ValueError("a unit would have to judge too much")
        names = [one.component for one in self.rollouts.rewards]
        if len(set(names)) != len(names):
            raise ValueError("two weights of one reward component")
        missing = [p.name for p in self.verification.profiles if self.rollouts.tolerance(p.name) is None]
        if missing:
            raise ValueError(f"no tolerance of rollouts under profile {missing[0]}")
        return self

    @model_validator(mode="after")
    def _joint_updates_can_be_served(self) -> "RunManifest":
        if self.merging.joint_k > self.codec.chunk:
            raise ValueError(f"merging.joint_k exceeds the codec's chunk of {self.codec.chunk}")
        if self.merging.joint_k and not self.verification.witnesses:
            raise ValueError("merging.joint_k needs verification.witnesses, who check joint updates")
        if self.merging.joint_k and self.rollouts is not None:
            raise ValueError("a policy learns from everybody's rollouts: merging.joint_k is to be 0")
        return self

    @model_validator(mode="after")
    def _beacon_suits_the_chain(self) -> "RunManifest":
        if isinstance(self.beacon, BlockBeacon) and self.chain_id != LOCAL_CHAIN_ID:
            raise ValueError(
                f"beacon: whoever makes the blocks of chain {self.chain_id} could choose a block's hash; only the "
                f"local chain ({LOCAL_CHAIN_ID}) takes it, any other takes kind drand"
            )
        return self

    @property
    def judge(self) -> JudgeConfig | None:
        """Return the model that scores the run's rollouts; None: there is none."""
        return None if self.rollouts is None else self.rollouts.judge

    @property
    def carries_moments(self) -> bool:
        """Tell whether a peer takes AdamW's moments from a round into the next."""
        return not self.inner.fresh

    @property
    def moment_slices(self) -> int:
        """Return the slices of the second moments, of which an update says one; 0: it says none."""
        return self.inner.slices if self.inner.moments == "published" else 0

    @property
    def tier_samples(self) -> tuple[int, ...]:
        """Return the samples that a unit of each tier is trained on."""
        lower = (tier.steps * tier.batch for tier in self.tiers)
        return (self.inner.steps * self.inner.batch, *lower)

    @property
    def tier_weights(self) -> tuple[int, ...]:
        """Return the weight of each tier's updates in a round's mean: in proportion to their samples."""
        return tuple(samples // gcd(*self.tier_samples) for samples in self.tier_samples)

    @property
    def smallest_tier(self) -> int:
        """Return the tier of a peer that has not declared one."""
        return len(self.tiers)

    def unit_pay(self, tier: int) -> int:
        """Return what a unit of a tier earns, in wei."""
        return self.pay.unit_wei * self.tier_samples[tier] // self.tier_samples[0]

    def at(self, tier: int) -> "RunManifest":
        """Return the run as a unit of a tier has it: with its steps and batch, and the run's own id.

        The learning-rate schedule spans the tier's own steps, so that all tiers have the same rate at a round's start.

        Raises:
            Malformed: the run has no such tier.
        """
        if tier == 0:
            return self
        if not 0 < tier <= len(self.tiers):
            raise Malformed(f"tier {tier}, which the run does not have")
        return _at(self, tier)

    @property
    def ahead(self) -> int:
        """Return how many rounds before its own opening a round's batches are assigned: units may begin then."""
        return 1 if self.outer.delay else 0

    @property
    def segments(self) -> int:
        """Return the number of segments a unit has."""
        return self.inner.steps // self.verification.segment_steps

    @property
    def total_steps(self) -> int:
        """Return the inner steps one peer takes in the whole run, which the learning-rate schedule spans."""
        return self.rounds * self.inner.steps

    @property
    def epochs(self) -> int:
        """Return the number of settlement epochs; the last may be short."""
        return -(-self.rounds // self.pay.epoch_rounds)

    def epoch_of(self, round_: int) -> int:
        """Return the settlement epoch of a round."""
        return round_ // self.pay.epoch_rounds

    def rounds_of(self, epoch: int) -> range:
        """Return the rounds of a settlement epoch."""
        length = self.pay.epoch_rounds
        return range(epoch * length, min((epoch + 1) * length, self.rounds))

    def to_bytes(self) -> bytes:
        """Return the canonical JSON whose BLAKE3 hash is the run id; also the blob that peers fetch by that id."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """Return the run id: 64 hex digits."""
        return _run_id(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "RunManifest":
        """Parse a manifest.

        Raises:
            Malformed: not canonical JSON, a field out of bounds, or defaults left out (a manifest spells all).
        """
        value = parse_canonical_json(data, max_bytes=MAX_MANIFEST_BYTES)
        try:
            manifest = cls.model_validate(value)
        except ValidationError as error:
            raise Malformed(f"manifest: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
        if manifest.to_bytes() != data:
            raise Malformed("manifest does not spell every field canonically")
        return manifest

    @classmethod
    def read(cls, path: Path) -> "RunManifest":
        """Read a manifest file.

        Raises:
            OSError: there is none, or it cannot be read.
            Malformed: it is not a manifest.
        """
        with path.open("rb") as file:
            return cls.from_bytes(file.read(MAX_MANIFEST_BYTES + 1))


@lru_cache(maxsize=64)  # serialising takes milliseconds, and every draw of a replay asks
def _run_id(manifest: RunManifest) -> str:
    return digest(manifest.to_bytes())


class _TierView(RunManifest):
    """Show a run with a tier's steps and batch; it is written as the whole run, and so has its id."""

    _whole: RunManifest = PrivateAttr()

    def to_bytes(self) -> bytes:
        return self._whole.to_bytes()

    def at(self, tier: int) -> RunManifest:
        return self._whole.at(tier)


@lru_cache(maxsize=64)
def _at(manifest: RunManifest, tier: int) -> RunManifest:
    own, inner = manifest.tiers[tier - 1], manifest.inner
    warmup = ceil(inner.warmup_steps * own.steps / inner.steps)
    own_inner = inner.model_copy(update={"steps": own.steps, "batch": own.batch, "warmup_steps": warmup})
    fields = {name: getattr(manifest, name) for name in RunManifest.model_fields}
    view = _TierView.model_construct(**(fields | {"inner": own_inner}))
    view._whole = manifest
    return view
