"""The shape of a model."""

from pydantic import Field, model_validator

from protocol.frozen import Frozen


class ModelConfig(Frozen):
    """Shape a LLaMA-style decoder over tokens.

    The defaults from `key_heads` on are a small model trained from nothing; pretrained ones differ in them
    (`training.pretrained`).
    """

    vocab: int = Field(default=256, ge=2, le=2**16)
    width: int = Field(default=64, ge=16, le=16384)
    layers: int = Field(default=3, ge=1, le=256)
    heads: int = Field(default=4, ge=1, le=256)
    feed_forward: int = Field(default=192, ge=16, le=65536)
    context: int = Field(default=64, ge=8, le=65536)
    key_heads: int | None = Field(default=None, ge=1, le=256)  # of keys and values; None: as many as heads
    rotary_base: float = Field(default=10_000.0, ge=10, le=1e9)
    norm_eps: float = Field(default=1e-5, gt=0, le=1e-3)
    tied: bool = True  # the head is the embedding

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % (2 * self.heads):
            raise ValueError("width must be a multiple of twice the heads (rotary halves)")
        if self.heads % self.keys:
            raise ValueError("heads must be a multiple of key_heads")
        return self

    @property
    def head(self) -> int:
        """Return the width of one head."""
        return self.width // self.heads

    @property
    def keys(self) -> int:
        """Return the heads of keys, and of values; each serves heads / keys queries (arXiv 2305.13245)."""
        return self.heads if self.key_heads is None else self.key_heads
