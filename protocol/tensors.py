"""Canonical safetensors: the header is a function of the layout alone, so hostile bytes are compared, never parsed.

A file is valid for a layout exactly when it starts with that layout's header and has its exact length. Tensors lie in
layout order as little-endian values, so the body of a float file is also one flat vector.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.model_config import ModelConfig

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """Name the float32 tensors of a file in order, with their shapes.

    Attributes:
        steps: one int64 scalar follows.
        codes: so many unsigned bytes follow; 0: none do.
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    steps: bool = False
    codes: int = 0

    @cached_property
    def size(self) -> int:
        """Return the number of float32 values."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Return where each tensor lies in the flat vector."""
        found, offset = {}, 0
        for name, shape in self.tensors:
            found[name] = slice(offset, offset + math.prod(shape))
            offset += math.prod(shape)
        return found

    @cached_property
    def header(self) -> bytes:
        """Return the safetensors header: u64 length and space-padded JSON, 8-byte aligned."""
        entries: dict[str, object] = {}
        offset = 0
        for name, shape in self.tensors:
            end = offset + 4 * math.prod(shape)
            entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        if self.steps:
            entries["steps"] = {"dtype": "I64", "shape": [1], "data_offsets": [offset, offset + 8]}
            offset += 8
        if self.codes:
            entries["codes"] = {
                "dtype": "U8",
                "shape": [self.codes],
                "data_offsets": [offset, offset + self.codes],
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def file_bytes(self) -> int:
        """Return the exact length of a file of this layout."""
        return len(self.header) + 4 * self.size + (8 if self.steps else 0) + self.codes


def pieces(
    layout: Layout, vectors: Sequence[Floats], steps: int | None = None, codes: Codes | None = None
) -> tuple[bytes | memoryview, ...]:
    """Serialise flat vectors, [layout.size] together, the step count and the codes as a canonical file in pieces.

    The pieces of little-endian vectors share their memory, so that hashing a state copies nothing.
    """
    found = [f"{vector.dtype}{list(vector.shape)}" for vector in vectors]
    flat = all(vector.ndim == 1 and vector.dtype == np.float32 for vector in vectors)
    if not flat or sum(vector.size for vector in vectors) != layout.size:
        raise ValueError(f"expected float32[{layout.size}], got {', '.join(found)}")
    if (steps is not None) != layout.steps:
        raise ValueError("a step count belongs to layouts with steps, and only to them")
    if (0 if codes is None else codes.size) != layout.codes:
        raise ValueError(f"expected {layout.codes} codes")
    tail = b"" if steps is None else steps.to_bytes(8, "little", signed=True)
    bodies = (np.ascontiguousarray(vector, "<f4").data.cast("B") for vector in vectors)
    return (layout.header, *bodies, tail, b"" if codes is None else codes.tobytes())


def pack(layout: Layout, vector: Floats, steps: int | None = None) -> bytes:
    """Serialise a flat vector [layout.size] (and the step count) as a canonical file."""
    return b"".join(pieces(layout, (vector,), steps))


def unpack(layout: Layout, data: bytes) -> tuple[Floats, int]:
    """Read a canonical file: the flat vector (read-only view, float32[layout.size]) and the step count (0 without).

    Raises:
        Malformed: other length, other header, a value that is not finite, or a negative step count.
    """
    if len(data) != layout.file_bytes:
        raise Malformed(f"tensor file of {len(data)} bytes, expected {layout.file_bytes}")
    if not data.startswith(layout.header):
        raise Malformed("tensor file with another header")
    vector = np.frombuffer(data, dtype="<f4", count=layout.size, offset=len(layout.header))
    if not np.isfinite(vector).all():
        raise Malformed("tensor file with values that are not finite")
    after = data[len(layout.header) + 4 * layout.size :]
    steps = int.from_bytes(after[:8], "little", signed=True) if layout.steps else 0
    if steps < 0:
        raise Malformed("tensor file with a negative step count")
    return vector, steps


def unpack_codes(layout: Layout, data: bytes) -> Codes:
    """Read the codes of a file that `unpack` has read: a read-only view, uint8[layout.codes]."""
    return np.frombuffer(data, np.uint8, layout.codes, len(data) - layout.codes)


@lru_cache(maxsize=32)
def parameter_layout(model: ModelConfig) -> Layout:
    """Return the parameters of the model in the order of its flat vector; also the layout of residuals."""
    width = model.width
    projected = (model.heads + 2 * model.keys) * model.head
    tensors: list[tuple[str, tuple[int, ...]]] = [("embedding", (model.vocab, width))]
    for layer in range(model.layers):
        tensors += [
            (f"blocks.{layer}.qkv", (projected, width)),
            (f"blocks.{layer}.attention_out", (width, width)),
            (f"blocks.{layer}.gate_up", (2 * model.feed_forward, width)),
            (f"blocks.{layer}.down", (width, model.feed_forward)),
            (f"blocks.{layer}.attention_norm", (width,)),
            (f"blocks.{layer}.feed_forward_norm", (width,)),
        ]
    head = [] if model.tied else [("head", (model.vocab, width))]
    return Layout((*tensors, ("norm", (width,)), *head))


def frozen(manifest: RunManifest) -> int:
    """Return how many parameters a run leaves as they are, from the first of the flat vector on."""
    last = manifest.inner.last_layers
    if last is None:
        return 0
    first = f"blocks.{manifest.model.layers - last}.qkv"
    return int(parameter_layout(manifest.model).slices[first].start)


@lru_cache(maxsize=32)
def moment_layout(model: ModelConfig) -> Layout:
    """Return both moments of every parameter (first all `exp_avg`, then all `exp_avg_sq`) and the step count.

    Where matrices take Muon's steps their `exp_avg` is its momentum, and their `exp_avg_sq` is zero.
    """
    parameters = parameter_layout(model).tensors
    moments = [
        (f"{moment}.{name}", shape) for moment in ("exp_avg", "exp_avg_sq") for name, shape in parameters
    ]
    return Layout(tuple(moments), steps=True)
