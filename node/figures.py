"""What a researcher wants to know of a unit: speed, use of the device, norms, and where the time between units went.

The trainer measures its own part. The daemon adds the time from the unit before, or from its own start: *transfer* is
when a job waited for blobs, *waiting* is what is left after making the unit, transfer and aggregation. Fetches that
nothing waits for, as a witness's, count in bytes and not in time.
"""

from typing import Annotated, Any

from pydantic import Field

from protocol.frozen import Frozen
from training.flops import utilisation

Seconds = Annotated[float, Field(ge=0, le=1e9)]
Norm = Annotated[float, Field(ge=0, le=1e30)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]


class Figures(Frozen):
    """Hold what was measured of one unit, on this machine's clock and by nobody else."""

    at: float = 0.0  # Unix time of its end
    steps: int
    tokens: int | None  # trained on, repeated ones as often as they were; None: of a policy
    train_s: Seconds  # wall time of the inner steps
    unit_s: Seconds  # wall time of the whole unit: hashes, compression, and a policy's samples too
    gradient_norm: Norm | None  # mean over the steps, before clipping; None: not finite
    gradient_norm_max: Norm | None
    pseudo_gradient_norm: Norm | None  # of the parameters' change over the unit
    update_norm: Norm | None  # of what is published of it, error feedback included
    flops: Annotated[float, Field(ge=0)] | None = None  # the model's, of all tokens
    peak_flops: Annotated[float, Field(gt=0)] | None = None  # a second, configured or measured
    interval_s: Seconds = 0.0  # since the end of the unit before
    transfer_s: Seconds = 0.0
    aggregate_s: Seconds = 0.0
    bytes_up: Bytes = 0
    bytes_down: Bytes = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Return the tokens a second while training."""
        return None if self.tokens is None or not self.train_s else self.tokens / self.train_s

    @property
    def round_tokens_per_s(self) -> float | None:
        """Return the tokens a second from unit to unit, with everything between."""
        return None if self.tokens is None or not self.interval_s else self.tokens / self.interval_s

    @property
    def mfu(self) -> float | None:
        """Return the model FLOPs utilisation while training (`training.flops.utilisation`)."""
        if self.flops is None or self.peak_flops is None or not self.train_s:
            return None
        return utilisation(self.flops, self.train_s, self.peak_flops)

    @property
    def communication_share(self) -> float | None:
        """Return the share of the time from unit to unit in which a job waited for blobs."""
        return self.transfer_s / self.interval_s if self.interval_s else None

    @property
    def wait_s(self) -> float:
        """Return the time from unit to unit in which there was nothing to do: others, blocks, deadlines."""
        return max(0.0, self.interval_s - self.unit_s - self.transfer_s - self.aggregate_s)

    @property
    def waiting_share(self) -> float | None:
        """Return the share of the time from unit to unit in which there was nothing to do."""
        return self.wait_s / self.interval_s if self.interval_s else None

    def to_json(self) -> dict[str, Any]:
        """Return what was measured and what follows from it, as plain JSON data."""
        derived = (
            "tokens_per_s",
            "round_tokens_per_s",
            "mfu",
            "communication_share",
            "wait_s",
            "waiting_share",
        )
        return {**self.model_dump(mode="json"), **{name: getattr(self, name) for name in derived}}
