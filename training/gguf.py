"""Read GGUF, the file format of llama.cpp: metadata and tensors, F32, F16, BF16, Q8_0, Q4_0 and Q4_1.

A file is somebody else's: every length is held against what is left of the file before anything is made of it, and a
tensor is only located when the file is opened. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Own code, since the gguf package is for files one trusts: it iterates as often as a count says, and what would lie
beyond the end is silently shorter.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from protocol.errors import ConfigError, Malformed
from protocol.tensors import Floats

Value = int | float | bool | str | list[Any]
Bytes = npt.NDArray[np.uint8]

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_KEYS: Final = 4096
MAX_TENSORS: Final = 65_536
MAX_TEXT_BYTES: Final = 1 << 20
MAX_ITEMS: Final = 1 << 21  # of a list; merges of a large vocabulary are its longest
MAX_VALUES: Final = 1 << 40  # of a tensor

_SCALARS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _LIST = 8, 9
_BLOCK: Final = 32  # values of a quantised block


@dataclass(frozen=True)
class _Kind:
    """Say how values lie in a file: `bytes` for each `values` of them."""

    name: str
    values: int
    bytes: int


_F32, _F16, _BF16 = _Kind("F32", 1, 4), _Kind("F16", 1, 2), _Kind("BF16", 1, 2)
_Q4_0, _Q4_1, _Q8_0 = _Kind("Q4_0", _BLOCK, 18), _Kind("Q4_1", _BLOCK, 20), _Kind("Q8_0", _BLOCK, 34)
_KINDS: Final = {0: _F32, 1: _F16, 2: _Q4_0, 3: _Q4_1, 8: _Q8_0, 30: _BF16}


@dataclass(frozen=True)
class _Place:
    """Say where a tensor lies."""

    kind: _Kind
    shape: tuple[int, ...]  # rows first
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.start + self.size // self.kind.values * self.kind.bytes


class Gguf:
    """Hold an open file.

    Attributes:
        metadata: by key; lists hold values of one kind.
        shapes: of the tensors by name, rows first.
    """

    def __init__(self, data: bytes | mmap.mmap) -> None:
        """Read the header.

        Raises:
            Malformed: not GGUF, a length beyond the file or the bounds above, or a name twice.
            ConfigError: a kind of tensor that is not read here.
        """
        self._data = data
        cursor = _Cursor(data)
        if cursor.bytes(4) != MAGIC or cursor.number("<I") not in VERSIONS:
            raise Malformed("not a GGUF file of version 2 or 3")
        tensors, keys = cursor.count(MAX_TENSORS, "tensors"), cursor.count(MAX_KEYS, "keys")
        self.metadata: dict[str, Value] = {}
        for _ in range(keys):
            key = cursor.text()
            if key in self.metadata:
                raise Malformed(f"GGUF file with key {key!r:.80} twice")
            self.metadata[key] = cursor.value(cursor.number("<I"))
        heads = [_tensor_head(cursor) for _ in range(tensors)]
        self._places = _placed(heads, self.metadata, cursor.at, len(data))
        self.shapes = {name: place.shape for name, place in self._places.items()}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map a file into memory and read its header.

        Raises:
            ConfigError: it cannot be read.
            Malformed: it is not GGUF.
        """
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:  # an empty file cannot be mapped
            raise Malformed("not a GGUF file: it is empty") from error
        return cls(data)

    def read(self, name: str) -> Floats:
        """Return a tensor as float32 in its shape.

        Raises:
            KeyError: there is none of this name.
        """
        place = self._places[name]
        raw = np.frombuffer(self._data, np.uint8, place.end - place.start, place.start)
        with np.errstate(all="ignore"):  # what is not finite is for whoever uses the values to find
            return _values(place.kind, raw).reshape(place.shape)


class _Cursor:
    """Read a header from its start on, never beyond the file."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def bytes(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise Malformed("GGUF file is truncated")
        found = self._data[self.at : end]
        self.at = end
        return found

    def number(self, form: str) -> Any:
        (found,) = struct.unpack(form, self.bytes(struct.calcsize(form)))
        return found

    def count(self, most: int, what: str) -> int:
        found: int = self.number("<Q")
        if found > most:
            raise Malformed(f"GGUF file of {found} {what}, more than {most}")
        return found

    def text(self) -> str:
        try:
            return self.bytes(self.count(MAX_TEXT_BYTES, "bytes in a text")).decode()
        except UnicodeDecodeError as error:
            raise Malformed("GGUF file with a text that is not UTF-8") from error

    def value(self, kind: int) -> Value:
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            found: Value = self.number(_scalar(kind))
            return found
        inner, count = self.number("<I"), self.count(MAX_ITEMS, "items in a list")
        if inner == _TEXT:
            if count > (len(self._data) - self.at) // 8:  # each has its length at least
                raise Malformed("GGUF file is truncated")
            return [self.text() for _ in range(count)]
        form = _scalar(inner)
        return [item for (item,) in struct.iter_unpack(form, self.bytes(count * struct.calcsize(form)))]


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise Malformed(f"GGUF file with a value of kind {kind}")
    return _SCALARS[kind]


def _tensor_head(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Return a tensor's name, shape, kind and place behind the header."""
    name = cursor.text()
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= 4:
        raise Malformed(f"GGUF file with a tensor of {dimensions} dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))[
        ::-1
    ]  # the file names the shortest stride first
    if not 0 < math.prod(shape) <= MAX_VALUES:
        raise Malformed(f"GGUF file with a tensor of shape {shape}")
    return name, shape, cursor.number("<I"), cursor.number("<Q")


def _placed(
    heads: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Value], end: int, size: int
) -> dict[str, _Place]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise Malformed("GGUF file with an alignment that is none")
    base = -(-end // alignment) * alignment
    found: dict[str, _Place] = {}
    for name, shape, code, offset in heads:
        if code not in _KINDS:
            known = ", ".join(kind.name for kind in _KINDS.values())
            raise ConfigError(
                f"GGUF tensor {name!r:.80} is of kind {code}, which is not read here",
                hint=f"convert the model to one of {known}, or take its safetensors",
            )
        place = _Place(_KINDS[code], shape, base + offset)
        if name in found:
            raise Malformed(f"GGUF file with tensor {name!r:.80} twice")
        if shape[-1] % place.kind.values:
            raise Malformed(f"GGUF tensor {name!r:.80} ends inside of a block")
        if place.end > size:
            raise Malformed(f"GGUF tensor {name!r:.80} lies beyond the end of the file")
        found[name] = place
    return found


def _values(kind: _Kind, raw: Bytes) -> Floats:
    """Return the float32 values that bytes stand for, flat."""
    if kind is _F32:
        return raw.view("<f4").astype(np.float32)
    if kind is _F16:
        return raw.view("<f2").astype(np.float32)
    if kind is _BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    blocks = raw.reshape(-1, kind.bytes)
    scale = _halves(blocks[:, :2])
    if kind is _Q8_0:
        return (blocks[:, 2:].view(np.int8) * scale).ravel()
    nibbles = blocks[:, -_BLOCK // 2 :]
    steps = np.concatenate((nibbles & 15, nibbles >> 4), axis=1).astype(np.float32)
    if kind is _Q4_0:
        return ((steps - 8) * scale).ravel()
    return (steps * scale + _halves(blocks[:, 2:4])).ravel()


def _halves(pairs: Bytes) -> Floats:
    """Return float32[blocks, 1] for two bytes a block."""
    return np.ascontiguousarray(pairs).view("<f2").astype(np.float32)
