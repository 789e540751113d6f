"""What an update says (symbols) and how it travels (the container).

Symbols are integers: every value of an update is an integer times 2**exponent, so that all arithmetic on
updates is exact on every machine. What is committed and compared is `symbols_digest`; container bytes are
only an encoding, since zstd's output differs between versions.

Container, little-endian:

    header    magic 4s | version u8 | codec u8 | chunk or block u32 | k or bits u32 | size u64
              | exponent i16
    length    u32, of the stream
    stream    one zstd frame with its content size. Sparse: the gaps between indices, one byte each, 255
              standing for "255 and more", then the excess of each such gap as u16. Dense: code
              + 2**(bits-1) - 1, one byte each
    codes     sparse only: four 2-bit codes a byte, the first in the lowest bits
    levels    sparse: two u16 a chunk, low and high magnitude. Dense: one u16 a block
    checksum  BLAKE3 of everything before it
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
VERSION: Final = 1
MIN_EXPONENT: Final = -96
MAX_EXPONENT: Final = 0
"""Bounds that keep every value a normal float32 below 2**23, and sums of them far from overflow."""

_SPARSE: Final = 0
_DENSE: Final = 1
_HEADER: Final = struct.Struct("<4sBBIIQh")
_LENGTH: Final = struct.Struct("<I")
_ESCAPE: Final = 255
_LEVEL: Final = 3  # zstd's default; gaps hold no long matches that a higher level would find

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]


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
    levels: Words  # [chunks, 2], low <= high, in units of 2**exponent

    @property
    def positions(self) -> Integers:
        """Return where the entries lie in the flat vector: int64[kept], strictly increasing."""
        chunks: Integers = np.arange(self.indices.size, dtype=np.int64) // self.k
        positions: Integers = chunks * self.chunk + self.indices
        return positions

    @property
    def integers(self) -> Integers:
        """Return the values at `positions` in units of 2**exponent: int64[kept], magnitudes below 2**16."""
        magnitudes = self.levels[np.arange(self.codes.size) // self.k, self.codes >> 1].astype(np.int64)
        values: Integers = np.where(self.codes & 1, -magnitudes, magnitudes)
        return values


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
    match symbols:
        case SparseSymbols():
            parts = (_le16(symbols.indices), symbols.codes.tobytes(), _le16(symbols.levels))
        case DenseSymbols():
            parts = (symbols.codes.tobytes(), _le16(symbols.scales), b"")
    return tagged_digest("murmur/symbols", _header(symbols), *parts)


def max_update_bytes(codec: CodecConfig, size: int) -> int:
    """Return the largest container that `decode` reads for this codec and number of parameters."""
    fixed = _HEADER.size + _LENGTH.size + _fixed_bytes(codec, size) + DIGEST_BYTES
    return fixed + _compressed_bound(_max_stream(codec, size))


def encode(symbols: Symbols) -> bytes:
    """Write symbols as a container. `decode` gives the same symbols back."""
    match symbols:
        case SparseSymbols():
            stream = _gap_stream(symbols)
            tail = _pack_codes(symbols.codes) + _le16(symbols.levels)
        case DenseSymbols():
            limit = 2 ** (symbols.bits - 1) - 1
            stream = (symbols.codes.astype(np.int16) + limit).astype(np.uint8).tobytes()
            tail = _le16(symbols.scales)
    frame = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(stream)
    body = b"".join((_header(symbols), _LENGTH.pack(len(frame)), frame, tail))
    return body + blake3(body).digest()


def decode(data: bytes, *, codec: CodecConfig, size: int) -> Symbols:
    """Read a container that must carry an update of `size` parameters under `codec`.

    Every length is bounded before anything is allocated, and every symbol before it is used.

    Raises:
        Malformed: anything but a container that `encode` could have written for this codec and size.
    """
    if len(data) > max_update_bytes(codec, size):
        raise Malformed(f"update of {len(data)} bytes exceeds {max_update_bytes(codec, size)}")
    start = _HEADER.size + _LENGTH.size
    fixed = _fixed_bytes(codec, size)
    if len(data) < start + fixed + DIGEST_BYTES:
        raise Malformed("update is truncated")
    exponent = _read_header(data, codec, size)
    (frame_bytes,) = _LENGTH.unpack_from(data, _HEADER.size)
    if len(data) != start + frame_bytes + fixed + DIGEST_BYTES:
        raise Malformed("update of a length that its header does not give")
    if blake3(memoryview(data)[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise Malformed("update with a wrong checksum")
    stream = _decompress(data[start : start + frame_bytes], codec, size)
    tail = data[start + frame_bytes : -DIGEST_BYTES]
    if codec.kind == "sparse":
        return _read_sparse(stream, tail, codec, size, exponent)
    return _read_dense(stream, tail, codec, size, exponent)


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


def _fixed_bytes(codec: CodecConfig, size: int) -> int:
    if codec.kind == "sparse":
        return -(-kept_count(codec, size) // 4) + 4 * chunk_count(size, codec.chunk)
    return 2 * chunk_count(size, codec.block)


def _max_stream(codec: CodecConfig, size: int) -> int:
    if codec.kind == "dense":
        return size
    kept = kept_count(codec, size)
    # An escaped gap skips at least 255 positions and takes one, so a chunk has room for few of them.
    escapes = chunk_count(size, codec.chunk) * (codec.chunk // (_ESCAPE + 1))
    return kept + 2 * min(kept, escapes)


def _compressed_bound(raw: int) -> int:
    return raw + (raw >> 8) + 1024  # above ZSTD_COMPRESSBOUND for every size


def _le16(values: Words) -> bytes:
    return values.astype("<u2", copy=False).tobytes()


def _starts(kept: int, k: int) -> npt.NDArray[np.bool_]:
    """Mark the first entry of every chunk."""
    first: npt.NDArray[np.bool_] = np.arange(kept) % k == 0
    return first


def _gap_stream(symbols: SparseSymbols) -> bytes:
    indices = symbols.indices.astype(np.int32)
    before = np.concatenate((np.full(1, -1, np.int32), indices[:-1]))
    gaps = indices - np.where(_starts(indices.size, symbols.k), -1, before) - 1
    excess = (gaps[gaps >= _ESCAPE] - _ESCAPE).astype(np.uint16)
    return np.minimum(gaps, _ESCAPE).astype(np.uint8).tobytes() + _le16(excess)


def _decompress(frame: bytes, codec: CodecConfig, size: int) -> bytes:
    limit = _max_stream(codec, size)
    try:
        parameters = zstandard.get_frame_parameters(frame)
        # zstandard ignores max_output_size when the frame names a content size: that name is checked first.
        if parameters.content_size > limit or parameters.dict_id:
            raise Malformed("update whose stream would expand beyond its bound")
        stream = zstandard.ZstdDecompressor().decompress(frame, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed("update with a broken stream") from error
    if len(stream) != parameters.content_size:
        raise Malformed("update with a stream of another length than it names")
    return stream


def _read_sparse(stream: bytes, tail: bytes, codec: CodecConfig, size: int, exponent: int) -> SparseSymbols:
    kept, chunks = kept_count(codec, size), chunk_count(size, codec.chunk)
    indices = _read_indices(stream, codec, size)
    packed = -(-kept // 4)
    codes = _unpack_codes(tail[:packed], kept)
    levels = np.frombuffer(tail, "<u2", offset=packed).reshape(chunks, 2).astype(np.uint16)
    if (levels[:, 0] > levels[:, 1]).any():
        raise Malformed("update with a low magnitude above the high one")
    return SparseSymbols(size, codec.chunk, codec.k, exponent, indices, codes, levels)


def _read_indices(stream: bytes, codec: CodecConfig, size: int) -> Words:
    kept, chunks = kept_count(codec, size), chunk_count(size, codec.chunk)
    if len(stream) < kept:
        raise Malformed("update with too few indices")
    gaps = np.frombuffer(stream, np.uint8, count=kept).astype(np.int64)
    escaped = np.flatnonzero(gaps == _ESCAPE)
    if len(stream) != kept + 2 * escaped.size:
        raise Malformed("update with other escapes than its indices need")
    gaps[escaped] += np.frombuffer(stream, "<u2", offset=kept)
    # One running sum over all chunks; what stood before each chunk is taken off again.
    running = np.cumsum(gaps + 1)
    first = np.arange(0, kept, codec.k)
    base = np.concatenate((np.zeros(1, np.int64), running[first[1:] - 1]))
    indices = running - np.repeat(base, codec.k)[:kept] - 1
    last = indices[np.append(first[1:], kept) - 1]
    lengths = np.full(chunks, codec.chunk)
    lengths[-1] = size - (chunks - 1) * codec.chunk
    if (last >= lengths).any():
        raise Malformed("update with an index outside its chunk")
    return indices.astype(np.uint16)


def _read_dense(stream: bytes, tail: bytes, codec: CodecConfig, size: int, exponent: int) -> DenseSymbols:
    if len(stream) != size:
        raise Malformed("update with another number of codes than parameters")
    limit = 2 ** (codec.bits - 1) - 1
    raw = np.frombuffer(stream, np.uint8)
    if (raw > 2 * limit).any():
        raise Malformed("update with a code out of range")
    codes = (raw.astype(np.int16) - limit).astype(np.int8)
    scales = np.frombuffer(tail, "<u2").astype(np.uint16)
    return DenseSymbols(size, codec.block, codec.bits, exponent, codes, scales)


def _pack_codes(codes: Bytes) -> bytes:
    padded = np.zeros(-(-codes.size // 4) * 4, np.uint8)
    padded[: codes.size] = codes
    quads = padded.reshape(-1, 4)
    return (quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6).astype(np.uint8).tobytes()


def _unpack_codes(data: bytes, count: int) -> Bytes:
    packed = np.frombuffer(data, np.uint8)
    codes = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1).astype(np.uint8)
    if codes[count:].any():
        raise Malformed("update with symbols beyond its end")
    return codes[:count]
