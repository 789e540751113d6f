"""Symbols survive the container unchanged, and a container that lies about anything is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.manifest import CodecConfig
from protocol.update import (
    MAGNITUDES,
    MAX_EXPONENT,
    MAX_MOMENT_CODE,
    MIN_EXPONENT,
    DenseSymbols,
    SecondMoments,
    SparseSymbols,
    Symbols,
    chunk_count,
    decode,
    encode,
    kept_count,
    max_update_bytes,
    slice_length,
    symbols_digest,
)

FRAME_AT = 24
CHECKSUM = 32


def sparse_symbols(rng: np.random.Generator, codec: CodecConfig, size: int) -> SparseSymbols:
    chunks = chunk_count(size, codec.chunk)
    lengths = [min(codec.chunk, size - start) for start in range(0, size, codec.chunk)]
    picks = [np.sort(rng.choice(length, min(codec.k, length), replace=False)) for length in lengths]
    indices = np.concatenate(picks).astype(np.uint16)
    levels = np.sort(rng.integers(0, MAGNITUDES.size, (chunks, 2)), axis=1).astype(np.uint8)
    codes = rng.integers(0, 4, indices.size).astype(np.uint8)
    exponent = int(rng.integers(MIN_EXPONENT, MAX_EXPONENT + 1))
    return SparseSymbols(size, codec.chunk, codec.k, exponent, indices, codes, levels)


def dense_symbols(rng: np.random.Generator, codec: CodecConfig, size: int) -> DenseSymbols:
    limit = 2 ** (codec.bits - 1) - 1
    codes = rng.integers(-limit, limit + 1, size).astype(np.int8)
    scales = rng.integers(0, 2**16, chunk_count(size, codec.block)).astype(np.uint16)
    return DenseSymbols(size, codec.block, codec.bits, -20, codes, scales)


def any_symbols(rng: np.random.Generator, codec: CodecConfig, size: int) -> Symbols:
    make = sparse_symbols if codec.kind == "sparse" else dense_symbols
    return make(rng, codec, size)


def resealed(body: bytes) -> bytes:
    """Give altered bytes a checksum that fits, so that the check behind it is what refuses them."""
    return body + blake3(body).digest()


def with_frame(data: bytes, frame: bytes) -> bytes:
    return resealed(data[:FRAME_AT] + frame)


def planes_of(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data[FRAME_AT:-CHECKSUM])


codecs = st.one_of(
    st.integers(64, 700).flatmap(
        lambda chunk: st.builds(
            CodecConfig, kind=st.just("sparse"), chunk=st.just(chunk), k=st.integers(1, chunk)
        )
    ),
    st.builds(CodecConfig, kind=st.just("dense"), bits=st.integers(2, 8), block=st.integers(16, 300)),
)


@given(codec=codecs, size=st.integers(1, 3000), seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_symbols_survive_the_container(codec: CodecConfig, size: int, seed: int) -> None:
    symbols = any_symbols(np.random.default_rng(seed), codec, size)
    data = encode(symbols)
    read = decode(data, codec=codec, size=size)
    assert symbols_digest(read) == symbols_digest(symbols)
    assert len(data) <= max_update_bytes(codec, size)
    np.testing.assert_array_equal(read.integers, symbols.integers)
    np.testing.assert_array_equal(np.arange(size)[read.positions], np.arange(size)[symbols.positions])


def speaking(rng: np.random.Generator, codec: CodecConfig, size: int, slices: int) -> SparseSymbols:
    number = int(rng.integers(slices))
    codes = rng.integers(0, MAX_MOMENT_CODE + 1, slice_length(size, slices, number)).astype(np.uint8)
    moments = SecondMoments(slices, number, codes)
    return dataclasses.replace(sparse_symbols(rng, codec, size), moments=moments)


@given(
    size=st.integers(1, 3000),
    slices=st.integers(1, 400),
    k=st.integers(1, 512),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100)
def test_what_an_update_says_of_second_moments_survives_the_container(
    size: int, slices: int, k: int, seed: int
) -> None:
    codec = CodecConfig(chunk=512, k=k)
    symbols = speaking(np.random.default_rng(seed), codec, size, slices)
    data = encode(symbols)
    read = decode(data, codec=codec, size=size, slices=slices)
    assert isinstance(read, SparseSymbols)
    assert read.moments is not None
    assert symbols_digest(read) == symbols_digest(symbols)
    assert symbols_digest(read) != symbols_digest(dataclasses.replace(read, moments=None))
    assert len(data) <= max_update_bytes(codec, size, slices)
    with pytest.raises(Malformed):
        decode(data, codec=codec, size=size)
    silent = encode(dataclasses.replace(symbols, moments=None))
    with pytest.raises(Malformed, match="nothing of second moments"):
        decode(silent, codec=codec, size=size, slices=slices)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 10}, "another slice"),
        ({"number": 65_535}, "another slice"),
        ({"codes": np.zeros(129, np.uint8)}, "another slice"),
        ({"codes": np.zeros(131, np.uint8)}, "another slice|expand"),
        ({"codes": np.full(130, 255, np.uint8)}, "out of range"),
    ],
)
def test_second_moments_that_nobody_could_say_are_refused(change: dict[str, object], reason: str) -> None:
    codec, size = CodecConfig(chunk=512, k=32), 1300
    symbols = sparse_symbols(np.random.default_rng(1), codec, size)
    said = SecondMoments(10, 3, np.zeros(130, np.uint8))
    decode(encode(dataclasses.replace(symbols, moments=said)), codec=codec, size=size, slices=10)
    wrong = dataclasses.replace(symbols, moments=dataclasses.replace(said, **change))
    with pytest.raises(Malformed, match=reason):
        decode(encode(wrong), codec=codec, size=size, slices=10)


@given(seed=st.integers(0, 2**32), at=st.integers(0, 10**6), bit=st.integers(0, 7), sparse=st.booleans())
@settings(max_examples=150)
def test_any_flipped_bit_is_refused(seed: int, at: int, bit: int, sparse: bool) -> None:
    codec = CodecConfig(kind="sparse" if sparse else "dense", chunk=512, k=32, block=64)
    data = bytearray(encode(any_symbols(np.random.default_rng(seed), codec, 1300)))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(Malformed):
        decode(bytes(data), codec=codec, size=1300)


@given(seed=st.integers(0, 2**32), at=st.integers(0, 10**6), value=st.integers(0, 255), sparse=st.booleans())
@settings(max_examples=300)
def test_a_resealed_change_is_refused_or_reads_as_other_symbols(
    seed: int, at: int, value: int, sparse: bool
) -> None:
    codec = CodecConfig(kind="sparse" if sparse else "dense", chunk=512, k=32, block=64)
    symbols = any_symbols(np.random.default_rng(seed), codec, 1300)
    body = bytearray(encode(symbols)[:-CHECKSUM])
    body[at % len(body)] = value
    try:
        read = decode(resealed(bytes(body)), codec=codec, size=1300)
    except Malformed:
        return
    # What is accepted is well formed: it survives the container, and stays inside the vector.
    assert symbols_digest(decode(encode(read), codec=codec, size=1300)) == symbols_digest(read)
    assert np.arange(1300)[read.positions].size == read.integers.size


@given(data=st.binary(max_size=400))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data, codec=CodecConfig(), size=5000)


@pytest.fixture
def codec() -> CodecConfig:
    return CodecConfig(kind="sparse", chunk=4096, k=16)


@pytest.fixture
def symbols(seed: int, codec: CodecConfig) -> SparseSymbols:
    return sparse_symbols(np.random.default_rng(seed), codec, 10_000)


def refuse(data: bytes, codec: CodecConfig, reason: str, size: int = 10_000) -> None:
    with pytest.raises(Malformed, match=reason):
        decode(data, codec=codec, size=size)


def test_an_index_beyond_the_short_last_chunk_is_refused(codec: CodecConfig, symbols: SparseSymbols) -> None:
    indices = symbols.indices.copy()
    indices[-1] = 10_000 - 2 * 4096  # the first place of padding
    refuse(
        encode(SparseSymbols(10_000, 4096, 16, -9, indices, symbols.codes, symbols.levels)), codec, "outside"
    )


def test_an_index_beyond_a_full_chunk_is_refused(codec: CodecConfig, symbols: SparseSymbols) -> None:
    indices = symbols.indices.copy()
    indices[15] = 4096
    refuse(
        encode(SparseSymbols(10_000, 4096, 16, -9, indices, symbols.codes, symbols.levels)), codec, "outside"
    )


def test_a_short_last_chunk_keeps_what_it_has() -> None:
    codec = CodecConfig(kind="sparse", chunk=100, k=50)
    assert kept_count(codec, 207) == 107
    symbols = sparse_symbols(np.random.default_rng(3), codec, 207)
    assert decode(encode(symbols), codec=codec, size=207).integers.size == 107


@pytest.mark.parametrize(
    "pair", [(9, 8), (9, MAGNITUDES.size), (MAGNITUDES.size, MAGNITUDES.size), (255, 255)]
)
def test_levels_without_a_magnitude_or_out_of_order_are_refused(
    codec: CodecConfig, symbols: SparseSymbols, pair: tuple[int, int]
) -> None:
    levels = symbols.levels.copy()
    levels[1] = pair
    refuse(
        encode(SparseSymbols(10_000, 4096, 16, -9, symbols.indices, symbols.codes, levels)), codec, "level"
    )


@pytest.mark.parametrize("exponent", [MIN_EXPONENT - 1, MAX_EXPONENT + 1])
def test_an_exponent_out_of_bounds_is_refused(
    codec: CodecConfig, symbols: SparseSymbols, exponent: int
) -> None:
    broken = SparseSymbols(10_000, 4096, 16, exponent, symbols.indices, symbols.codes, symbols.levels)
    refuse(encode(broken), codec, "exponent")


def test_another_codec_size_version_or_magic_is_refused(codec: CodecConfig, symbols: SparseSymbols) -> None:
    data = encode(symbols)
    refuse(data, CodecConfig(kind="sparse", chunk=4096, k=17), "another codec")
    refuse(data, CodecConfig(kind="sparse", chunk=4097, k=16), "codec")
    refuse(data, CodecConfig(kind="dense"), "codec|exceeds|truncated")
    refuse(data, codec, "parameters", size=10_001)
    refuse(b"MURX" + data[4:], codec, "not an update")
    refuse(data[:4] + b"\x01" + data[5:], codec, "version")


def test_truncated_and_extended_containers_are_refused(codec: CodecConfig, symbols: SparseSymbols) -> None:
    data = encode(symbols)
    for cut in (0, 10, FRAME_AT, FRAME_AT + CHECKSUM, len(data) - 1):
        refuse(data[:cut], codec, "truncated|checksum")
        refuse(resealed(data[:cut]), codec, "truncated|not an update|broken")
    refuse(data + b"\0", codec, "checksum")
    refuse(resealed(data[:-CHECKSUM] + b"\0"), codec, "broken")
    refuse(data + bytes(max_update_bytes(codec, 10_000)), codec, "exceeds")


@pytest.mark.parametrize("named", [True, False], ids=["size in its header", "size left out"])
def test_a_decompression_bomb_is_refused(codec: CodecConfig, symbols: SparseSymbols, named: bool) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=named).compress(bytes(2**26))
    refuse(with_frame(encode(symbols), bomb), codec, "expand|broken|exceeds")
    small = zstandard.ZstdCompressor(write_content_size=named).compress(bytes(200_000))
    refuse(with_frame(encode(symbols), small), codec, "expand|broken")


def test_more_behind_the_frame_is_refused(codec: CodecConfig, symbols: SparseSymbols) -> None:
    data = encode(symbols)
    frame = zstandard.compress(planes_of(data))
    refuse(with_frame(data, frame + zstandard.compress(b"")), codec, "broken")
    refuse(with_frame(data, frame + b"\0"), codec, "broken")


def test_other_escapes_than_indices_need_are_refused(codec: CodecConfig, symbols: SparseSymbols) -> None:
    data = encode(symbols)
    planes = planes_of(data)
    refuse(with_frame(data, zstandard.compress(planes + b"\1\0")), codec, "escapes")
    refuse(with_frame(data, zstandard.compress(planes[:20])), codec, "too few")


def test_code_bits_beyond_the_end_are_refused(seed: int) -> None:
    codec = CodecConfig(kind="sparse", chunk=64, k=3)
    data = encode(sparse_symbols(np.random.default_rng(seed), codec, 64))
    for place in (3, 4):  # three entries' signs, then three magnitude bits
        planes = bytearray(planes_of(data))
        planes[place] |= 1
        refuse(with_frame(data, zstandard.compress(bytes(planes))), codec, "beyond", size=64)


def test_a_dense_code_out_of_range_is_refused(seed: int) -> None:
    codec = CodecConfig(kind="dense", bits=4, block=64)
    symbols = dense_symbols(np.random.default_rng(seed), codec, 100)
    codes = symbols.codes.copy()
    codes[7] = 8
    refuse(encode(DenseSymbols(100, 64, 4, -20, codes, symbols.scales)), codec, "code", size=100)


def test_the_digest_is_of_the_meaning_not_of_the_bytes(codec: CodecConfig, symbols: SparseSymbols) -> None:
    data = encode(symbols)
    again = with_frame(data, zstandard.ZstdCompressor(level=19).compress(planes_of(data)))
    assert symbols_digest(decode(again, codec=codec, size=10_000)) == symbols_digest(symbols)


def test_the_digest_tells_codecs_sizes_and_exponents_apart(symbols: SparseSymbols) -> None:
    fields = (symbols.indices, symbols.codes, symbols.levels)
    variants = [
        (10_000, 4096, 16, -9),
        (10_001, 4096, 16, -9),
        (10_000, 4097, 16, -9),
        (10_000, 4096, 16, -8),
    ]
    assert len({symbols_digest(SparseSymbols(*variant, *fields)) for variant in variants}) == len(variants)
