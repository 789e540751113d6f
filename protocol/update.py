"""What an update says (symbols) and how it travels (the container).

Symbols are integers: every value of an update is an integer times 2**exponent, so that all arithmetic on
updates is exact on every machine. What is committed and compared is `symbols_digest`; container bytes are
only an encoding, since zstd's output differs between versions.

Container, little-endian:

    header    magic 4s | version u8 | codec u8 | chunk or block u32 | k or bits u32 | size u64
              | exponent i16
    frame     one zstd frame with its content size, whose content is planes one after the other
    checksum  BLAKE3 of everything before it

Planes of a sparse update:

    gaps      u8 an entry: places left out since the entry before, or since its chunk's start; 255 for more
    signs     one bit an entry, the first in the highest bit: negative
    high      one bit an entry: of the high magnitude
    low       u8 a chunk: level of the low magnitude less that of the chunk before, modulo 256
    rise      u8 a chunk: level of the high magnitude less that of the low one
    excess    of each gap of 255 and more, less 255: all low bytes, then all high bytes of a u16
    moments   where the update says a slice of the second moments: its number u16, then a code u8 an entry

Planes of a dense update: code + 2**(bits-1) - 1, u8 each; then the low and the high bytes of the scales.

A plane holds one kind of symbol and is a zstd block (or several) of its own, so that it has its own Huffman table.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard
from blake3 import blake3

from protocol.canonical import DIGEST_BYTES, tagged_digest
from protocol.errors import Malformed
from protocol.manifest import CodecConfig

MAGIC: Final = b"MURU"
VERSION: Final = 2
MIN_EXPONENT: Final = -96
MAX_EXPONENT: Final = 0
"""Bounds that keep every value a normal float32 below 2**23, and sums of them far from overflow."""

_SPARSE: Final = 0
_DENSE: Final = 1
_HEADER: Final = struct.Struct("<4sBBIIQh")
_ESCAPE: Final = 255
_WORD: Final = 2  # bytes of a u16
MAX_MOMENT_CODE: Final = 254
"""Of a second moment: the largest exponent of a finite float32."""
# Huffman does the work: planes repeat nothing, and the short chance matches of higher levels cost more than they save.
_ZSTD_LEVEL: Final = 1

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]

MAGNITUDES: Final[Integers] = np.array(
    [level if level < 32 else (16 + level % 16) << level // 16 - 1 for level in range(208)], np.int64
)
"""The magnitude that each level stands for, rising: all integers below 2**16 of at most five significant bits."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Hold what an update says of a slice of AdamW's second moments: of every `slices`-th entry, from `number` on."""

    slices: int
    number: int  # below `slices`
    codes: Bytes  # [slice_length], powers of two: see training.second_moments


def slice_length(size: int, slices: int, number: int) -> int:
    """Return how many of `size` entries a slice has."""
    return max(0, -(-(size - number) // slices))


@dataclass(frozen=True, eq=False)
class SparseSymbols:
    """Hold the k largest entries of every chunk: a sign and one magnitude bit each, two magnitudes a chunk.

    The last chunk may be short; it keeps min(k, its length) entries.
    """

    size: int  # parameters
    chunk: int
    k: int
    exponent: int
    indices: Words  # [kept], position inside the chunk, strictly increasing in each chunk
    codes: Bytes  # [kept], bit 0: negative, bit 1: high magnitude
    levels: Bytes  # [chunks, 2], low <= high, indices of MAGNITUDES, which are in units of 2**exponent
    moments: SecondMoments | None = None  # said beside it, in a run whose moments are published

    @property
    def positions(self) -> Integers:
        """Return where the entries lie in the flat vector: int64[kept], strictly increasing."""
        starts = np.arange(0, self.size, self.chunk, dtype=np.int64)
        positions: Integers = np.repeat(starts, self.k)[: self.indices.size] + self.indices
        return positions

    @property
    def integers(self) -> Integers:
        """Return the values at `positions` in units of 2**exponent: int64[kept], magnitudes below 2**16."""
        magnitudes = MAGNITUDES[self.levels]
        by_code = np.concatenate((magnitudes, -magnitudes), axis=1)[:, (0, 2, 1, 3)]  # [chunks, codes]
        first = np.repeat(np.arange(0, by_code.size, 4), self.k)[: self.codes.size]
        values: Integers = by_code.reshape(-1)[first + self.codes]
        return values

    @property
    def span(self) -> int:
        """Return how many parameters hang together: an update can be taken apart at multiples."""
        return self.chunk

    def part(self, start: int, stop: int) -> "SparseSymbols":
        """Return the update of the parameters from `start` up to `stop`, multiples of `span` (or the end).

        It says nothing of second moments.
        """
        first, last = start // self.chunk, chunk_count(stop, self.chunk)
        kept = slice(first * self.k, last * self.k)
        parts = self.indices[kept], self.codes[kept], self.levels[first:last]
        return SparseSymbols(stop - start, self.chunk, self.k, self.exponent, *parts)


@dataclass(frozen=True, eq=False)
class DenseSymbols:
    """Hold every entry as a signed few-bit code times its block's scale."""

    size: int  # parameters
    block: int
    bits: int
    exponent: int
    codes: npt.NDArray[np.int8]  # [size], magnitudes at most 2**(bits-1) - 1
    scales: Words  # [blocks], in units of 2**exponent

    @property
    def positions(self) -> slice:
        """Return the whole flat vector."""
        return slice(None)

    @property
    def integers(self) -> Integers:
        """Return the values in units of 2**exponent: int64[size], magnitudes below 2**23."""
        scales: Integers = np.repeat(self.scales.astype(np.int64), self.block)[: self.size]
        return scales * self.codes

    @property
    def span(self) -> int:
        """Return how many parameters hang together: an update can be taken apart at multiples."""
        return self.block

    def part(self, start: int, stop: int) -> "DenseSymbols":
        """Return the update of the parameters from `start` up to `stop`, multiples of `span` (or the end)."""
        scales = self.scales[start // self.block : chunk_count(stop, self.block)]
        return DenseSymbols(
            stop - start, self.block, self.bits, self.exponent, self.codes[start:stop], scales
        )


Symbols = SparseSymbols | DenseSymbols


def chunk_count(size: int, chunk: int) -> int:
    """Return how many chunks (or blocks) cover `size` values."""
    return -(-size // chunk)


def kept_count(codec: CodecConfig, size: int) -> int:
    """Return how many entries a sparse update of `size` parameters keeps."""
    full = chunk_count(size, codec.chunk) - 1
    return full * codec.k + min(codec.k, size - full * codec.chunk)


def symbols_digest(symbols: Symbols) -> str:
    """Return the identity of an update: BLAKE3 over codec, size, exponent and every symbol, 64 hex digits."""
    moments: tuple[bytes, ...] = ()
    match symbols:
        case SparseSymbols():
            parts = (_le16(symbols.indices), symbols.codes.tobytes(), symbols.levels.tobytes())
            if symbols.moments is not None:
                moments = (_moments_plane(symbols.moments).tobytes(),)
        case DenseSymbols():
            parts = (symbols.codes.tobytes(), _le16(symbols.scales), b"")
    return tagged_digest("murmur/symbols", _header(symbols), *parts, *moments)


def max_update_bytes(codec: CodecConfig, size: int, slices: int = 0) -> int:
    """Return the largest container that `decode` reads for this codec, number of parameters and slices of moments."""
    return _HEADER.size + _compressed_bound(_max_planes(codec, size, slices)) + DIGEST_BYTES


def encode(symbols: Symbols) -> bytes:
    """Write symbols as a container. `decode` gives the same symbols back."""
    planes = _sparse_planes(symbols) if isinstance(symbols, SparseSymbols) else _dense_planes(symbols)
    frame = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj(size=sum(plane.size for plane in planes))
    parts = [_header(symbols)]
    for plane in planes:
        parts += (frame.compress(plane.data), frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    body = b"".join((*parts, frame.flush()))
    return body + blake3(body).digest()


def decode(data: bytes, *, codec: CodecConfig, size: int, slices: int = 0) -> Symbols:
    """Read a container that must carry an update of `size` parameters under `codec`.

    Every length is bounded before anything is allocated, and every symbol before it is used.

    Args:
        slices: of the second moments, of which the update must say one; 0: it says nothing of them.

    Raises:
        Malformed: anything but a container that `encode` could have written for this codec and size.
    """
    if len(data) > max_update_bytes(codec, size, slices):
        raise Malformed(f"update of {len(data)} bytes exceeds {max_update_bytes(codec, size, slices)}")
    if len(data) < _HEADER.size + DIGEST_BYTES:
        raise Malformed("update is truncated")
    exponent = _read_header(data, codec, size)
    if blake3(memoryview(data)[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise Malformed("update with a wrong checksum")
    planes = np.frombuffer(_decompress(data[_HEADER.size : -DIGEST_BYTES], codec, size, slices), np.uint8)
    if codec.kind == "dense":
        return _read_dense(planes, codec, size, exponent)
    return _read_sparse(planes, codec, size, exponent, slices)


def _header(symbols: Symbols) -> bytes:
    match symbols:
        case SparseSymbols(size=size, chunk=chunk, k=k, exponent=exponent):
            return _HEADER.pack(MAGIC, VERSION, _SPARSE, chunk, k, size, exponent)
        case DenseSymbols(size=size, block=block, bits=bits, exponent=exponent):
            return _HEADER.pack(MAGIC, VERSION, _DENSE, block, bits, size, exponent)


def _read_header(data: bytes, codec: CodecConfig, size: int) -> int:
    magic, version, kind, span, detail, claimed_size, exponent = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Malformed("not an update")
    if version != VERSION:
        raise Malformed(f"update of version {version}, expected {VERSION}")
    sparse = codec.kind == "sparse"
    expected = (_SPARSE, codec.chunk, codec.k) if sparse else (_DENSE, codec.block, codec.bits)
    if (kind, span, detail) != expected:
        raise Malformed("update of another codec")
    if claimed_size != size:
        raise Malformed(f"update of {claimed_size} parameters, expected {size}")
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        raise Malformed(f"update with exponent {exponent}")
    return int(exponent)


def _fixed_planes(codec: CodecConfig, size: int) -> int:
    """Return the bytes of an update's planes, but for the excess of a sparse one."""
    if codec.kind == "dense":
        return size + 2 * chunk_count(size, codec.block)
    kept = kept_count(codec, size)
    return kept + 2 * chunk_count(kept, 8) + 2 * chunk_count(size, codec.chunk)


def _max_planes(codec: CodecConfig, size: int, slices: int) -> int:
    """Return the most bytes that planes can have: a gap with an excess takes more than 255 places."""
    excess = min(kept_count(codec, size), size // _ESCAPE) if codec.kind == "sparse" else 0
    moments = _WORD + slice_length(size, slices, 0) if slices else 0
    return _fixed_planes(codec, size) + _WORD * excess + moments


def _compressed_bound(raw: int) -> int:
    return raw + (raw >> 8) + 1024  # above ZSTD_COMPRESSBOUND for every size, and ends of blocks


def _le16(values: Words) -> bytes:
    return values.astype("<u2", copy=False).tobytes()


def _byte_planes(values: Words) -> Bytes:
    """Return all low bytes, then all high bytes."""
    return np.concatenate((values & 0xFF, values >> 8)).astype(np.uint8)


def _words(planes: Bytes) -> Words:
    words: Words = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2").reshape(-1).astype(np.uint16)
    return words


def _sparse_planes(symbols: SparseSymbols) -> tuple[Bytes, ...]:
    gaps = np.diff(symbols.indices.astype(np.int32), prepend=0) - 1
    gaps[:: symbols.k] = symbols.indices[:: symbols.k]
    excess = (gaps[gaps >= _ESCAPE] - _ESCAPE).astype(np.uint16)
    low, high = symbols.levels.T
    moments = () if symbols.moments is None else (_moments_plane(symbols.moments),)
    return (
        np.minimum(gaps, _ESCAPE).astype(np.uint8),
        np.packbits(symbols.codes & 1),
        np.packbits(symbols.codes >> 1),
        np.diff(low, prepend=np.uint8(0)),  # modulo 256
        high - low,
        _byte_planes(excess),
        *moments,
    )


def _moments_plane(moments: SecondMoments) -> Bytes:
    return np.concatenate((_byte_planes(np.array([moments.number], np.uint16)), moments.codes))


def _dense_planes(symbols: DenseSymbols) -> tuple[Bytes, ...]:
    limit = 2 ** (symbols.bits - 1) - 1
    return (symbols.codes.astype(np.int16) + limit).astype(np.uint8), _byte_planes(symbols.scales)


def _decompress(frame: bytes, codec: CodecConfig, size: int, slices: int) -> bytes:
    limit = _max_planes(codec, size, slices)
    try:
        parameters = zstandard.get_frame_parameters(frame)
        # zstandard ignores max_output_size when the frame names a content size: that name is checked first.
        if parameters.content_size > limit or parameters.dict_id:
            raise Malformed("update whose planes would expand beyond their bound")
        planes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed("update with a broken frame") from error
    if len(planes) != parameters.content_size:
        raise Malformed("update with planes of another length than it names")
    if len(planes) < _fixed_planes(codec, size):
        raise Malformed("update with too few symbols")
    return planes


def _read_sparse(planes: Bytes, codec: CodecConfig, size: int, exponent: int, slices: int) -> SparseSymbols:
    kept, chunks = kept_count(codec, size), chunk_count(size, codec.chunk)
    lengths = (kept, chunk_count(kept, 8), chunk_count(kept, 8), chunks, chunks)
    gaps, signs, high, low, rise, rest = np.split(planes, np.cumsum(lengths))
    excess, moments = np.split(rest, [_WORD * np.count_nonzero(gaps == _ESCAPE)])
    levels = np.empty((chunks, 2), np.uint8)
    levels[:, 0] = np.cumsum(low, dtype=np.uint8)
    if (MAGNITUDES.size - 1 - rise.astype(np.int16) < levels[:, 0]).any():
        raise Malformed("update with a level out of range")
    levels[:, 1] = levels[:, 0] + rise
    codes = _bits(signs, kept) + 2 * _bits(high, kept)
    indices = _indices(gaps, excess, codec, size)
    said = _read_moments(moments, size, slices)
    return SparseSymbols(size, codec.chunk, codec.k, exponent, indices, codes, levels, said)


def _read_moments(plane: Bytes, size: int, slices: int) -> SecondMoments | None:
    if not slices:
        if plane.size:
            raise Malformed("update with other escapes than its indices need")
        return None
    if plane.size < _WORD:
        raise Malformed("update that says nothing of second moments")
    number, codes = int(_words(plane[:_WORD])[0]), plane[_WORD:]
    if number >= slices or codes.size != slice_length(size, slices, number):
        raise Malformed("update with another slice of second moments than there is")
    if (codes > MAX_MOMENT_CODE).any():
        raise Malformed("update with a second moment out of range")
    return SecondMoments(slices, number, codes)


def _indices(gaps: Bytes, excess: Bytes, codec: CodecConfig, size: int) -> Words:
    chunks = chunk_count(size, codec.chunk)
    escaped = np.flatnonzero(gaps == _ESCAPE)
    if excess.size != 2 * escaped.size:
        raise Malformed("update with other escapes than its indices need")
    flat = np.zeros(chunks * codec.k, np.int32)  # zeros behind the entries of a short last chunk
    flat[: gaps.size] = gaps
    flat[: gaps.size] += 1
    flat[escaped] += _words(excess)
    steps = flat.reshape(chunks, codec.k)
    steps[:, 0] -= 1
    # At most 4096 steps of at most 2**16 + 255 each: no sum overflows.
    indices = np.cumsum(steps, axis=1, dtype=np.int32)
    if indices[:-1, -1].max(initial=0) >= codec.chunk or indices[-1, -1] >= size - (chunks - 1) * codec.chunk:
        raise Malformed("update with an index outside its chunk")
    return indices.reshape(-1)[: gaps.size].astype(np.uint16)


def _read_dense(planes: Bytes, codec: CodecConfig, size: int, exponent: int) -> DenseSymbols:
    if planes.size != _fixed_planes(codec, size):
        raise Malformed("update with another number of codes than parameters")
    limit = 2 ** (codec.bits - 1) - 1
    raw, scales = np.split(planes, [size])
    if (raw > 2 * limit).any():
        raise Malformed("update with a code out of range")
    codes = (raw.astype(np.int16) - limit).astype(np.int8)
    return DenseSymbols(size, codec.block, codec.bits, exponent, codes, _words(scales))


def _bits(plane: Bytes, count: int) -> Bytes:
    bits = np.unpackbits(plane)
    if bits[count:].any():
        raise Malformed("update with symbols beyond its end")
    return bits[:count]
