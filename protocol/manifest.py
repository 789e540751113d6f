"""The run manifest: everything that defines a run, frozen. Its canonical-JSON BLAKE3 hash is the run id."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from protocol.canonical import canonical_json, digest, parse_canonical_json
from protocol.errors import Malformed

MAX_MANIFEST_BYTES = 64 * 1024

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]


def _parse_wei(value: Any) -> Any:
    if isinstance(value, str):
        if not (
            value.isascii() and value.isdigit() and len(value) <= 78 and (value == "0" or value[0] != "0")
        ):
            raise ValueError("not a decimal amount")
        return int(value)
    return value


Wei = Annotated[
    int, BeforeValidator(_parse_wei), Field(ge=0, lt=2**256), PlainSerializer(str, return_type=str)
]
"""An amount in the token's smallest unit: an int in Python, a decimal string in JSON."""


class Frozen(BaseModel):
    """Base of every value that travels: immutable, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Frozen):
    """Shape a LLaMA-style decoder over tokens."""

    vocab: int = Field(default=256, ge=2, le=2**16)
    width: int = Field(default=64, ge=16, le=16384)
    layers: int = Field(default=3, ge=1, le=256)
    heads: int = Field(default=4, ge=1, le=256)
    feed_forward: int = Field(default=192, ge=16, le=65536)
    context: int = Field(default=64, ge=8, le=65536)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % (2 * self.heads):
            raise ValueError("width must be a multiple of twice the heads (rotary halves)")
        return self


class InnerConfig(Frozen):
    """Set AdamW's inner steps (Loshchilov and Hutter, arXiv 1711.05101) and their schedule."""

    steps: int = Field(default=15, ge=1, le=10_000)  # H, inner steps a round
    batch: int = Field(default=8, ge=1, le=65_536)  # sequences a step
    lr: float = Field(default=4e-3, gt=0, le=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-5, gt=0, le=1)  # 1e-8 drowns in rounding: see training.distance
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=40, ge=0)
    min_lr_fraction: float = Field(default=0.1, ge=0, le=1)


class OuterConfig(Frozen):
    """Set the outer step on the clipped mean of updates (SGD, Nesterov when momentum is not zero)."""

    lr: float = Field(default=2.0, gt=0, le=16)
    momentum: float = Field(default=0.0, ge=0, lt=1)


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


class VerificationConfig(Frozen):
    """Set what is sampled and how far an honest replay may differ."""

    segment_steps: int = Field(default=3, ge=1, le=1000)  # k, inner steps between state hashes
    draw_probability: float = Field(default=0.2, ge=0, le=1)  # that a committed unit is drawn
    verifiers: int = Field(default=2, ge=2, le=16)  # a drawn unit is judged by
    tolerance: float = Field(default=1e-4, gt=0, lt=1)  # relative distance per tensor over a segment
    slash_factor: float = Field(default=10.0, ge=1)  # a proven fault is beyond tolerance times this


class DeadlineConfig(Frozen):
    """Set phase lengths in blocks of the chain."""

    ready: int = Field(default=240, ge=1)  # from the run's creation until it opens with who is there
    commit: int = Field(default=40, ge=2)  # from the assignment beacon
    reveal: int = Field(default=20, ge=2)  # from the commitment root
    verify: int = Field(default=60, ge=2)  # from the sampling beacon, for each rank of verifiers


class PayConfig(Frozen):
    """Set what work earns. What is not earned stays in the pot."""

    unit_wei: Wei = 10**18  # a merged unit that passed or was not drawn
    verdict_wei: Wei = 2 * 10**17  # a verdict of a drawn verifier
    epoch_rounds: int = Field(default=10, ge=1)


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
    outer: OuterConfig = OuterConfig()
    codec: CodecConfig = CodecConfig()
    dataset: DatasetConfig
    verification: VerificationConfig = VerificationConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    pay: PayConfig = PayConfig()
    initial_parameters: Digest  # content address of the canonical parameter file of round 0
    program: Digest  # golden vector of codec and aggregation, which a node must reproduce before it joins

    @model_validator(mode="after")
    def _segments_fill_the_round(self) -> "RunManifest":
        if self.inner.steps % self.verification.segment_steps:
            raise ValueError("inner steps must be a multiple of the segment length")
        return self

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

    def to_bytes(self) -> bytes:
        """Return the canonical JSON whose BLAKE3 hash is the run id; also the blob that peers fetch by that id."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """Return the run id: 64 hex digits."""
        return digest(self.to_bytes())

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
