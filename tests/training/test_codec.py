"""Every machine derives the same symbols, and what they leave out is what the residual carries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protocol.errors import OwnFault
from protocol.manifest import CodecConfig
from protocol.update import (
    MAGNITUDES,
    MAX_EXPONENT,
    MIN_EXPONENT,
    SparseSymbols,
    decode,
    encode,
    symbols_digest,
)
from training.codec import compress, decode_dense

SPARSE = CodecConfig(kind="sparse", chunk=256, k=16, decay=0.95)
DENSE = CodecConfig(kind="dense", bits=4, block=64, decay=1.0)
BOTH = pytest.mark.parametrize("codec", [SPARSE, DENSE], ids=["sparse", "dense"])


def vector(seed: int, size: int = 1000, scale: float = 1e-3) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


def reference_places(chunk: np.ndarray, k: int) -> np.ndarray:
    """Select by a stable sort on magnitude bits: among equals the lowest index comes first."""
    bits = np.abs(chunk).view(np.uint32).astype(np.int64)
    return np.sort(np.argsort(-bits, kind="stable")[: min(k, chunk.size)])


tied = arrays.arrays(
    np.float32,
    st.integers(1, 700),
    elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0**-140, 1e-20, -1e-20, 3.0]),
)


@given(values=tied, k=st.integers(1, 100))
def test_ties_go_to_the_lowest_index(values: np.ndarray, k: int) -> None:
    codec = CodecConfig(kind="sparse", chunk=100, k=k)
    symbols, residual = compress(codec, values)
    assert isinstance(symbols, SparseSymbols)
    expected = [
        start + place
        for start in range(0, values.size, 100)
        for place in reference_places(values[start : start + 100], k)
    ]
    np.testing.assert_array_equal(symbols.positions, expected)
    assert symbols_digest(decode(encode(symbols), codec=codec, size=values.size)) == symbols_digest(symbols)
    np.testing.assert_array_equal(residual, values - decode_dense(symbols, values.size))


def ties(name: str, size: int) -> np.ndarray:
    """Return float32[size] in which equal magnitudes lie wherever a selection could stumble over them."""
    random = np.random.default_rng(size)
    spread = random.normal(size=size).astype(np.float32)
    half = np.float32(0.5) * np.sign(spread)
    return {
        "all equal": np.full(size, -3.25, np.float32),
        "zeros of both signs": np.where(spread < 0, np.float32(-0.0), np.float32(0.0)),
        "denormals": np.ldexp(random.integers(-3, 4, size), -149).astype(np.float32),
        "few above many equal": np.where(np.arange(size) % 97 == 5, spread * 8, half).astype(np.float32),
        "the last place shared": np.where(
            np.abs(spread) > 2.5, spread, np.where(np.abs(spread) > 1.5, half, 0)
        ),
        "all in one group": np.where(np.arange(size) % 128 == 3, spread * 100, spread).astype(np.float32),
        "rising": np.arange(size, dtype=np.float32) / size,
        "two magnitudes": np.where(random.random(size) < 0.5, np.float32(1), np.float32(-2)),
        "few values": random.integers(-4, 5, size).astype(np.float32),
        "one": (np.arange(size) == size // 2).astype(np.float32),
    }[name].astype(np.float32)


TIES = (
    "all equal",
    "zeros of both signs",
    "denormals",
    "few above many equal",
    "the last place shared",
    "all in one group",
    "rising",
    "two magnitudes",
    "few values",
    "one",
)


@pytest.mark.parametrize("name", TIES)
@pytest.mark.parametrize(("chunk", "k"), [(4096, 1), (4096, 64), (4096, 1024), (4096, 4096), (1009, 64)])
def test_selection_is_that_of_a_stable_sort(name: str, chunk: int, k: int) -> None:
    values = ties(name, 4 * chunk + 77)
    symbols, residual = compress(CodecConfig(kind="sparse", chunk=chunk, k=k), values)
    expected = [
        start + reference_places(values[start : start + chunk], k) for start in range(0, values.size, chunk)
    ]
    np.testing.assert_array_equal(symbols.positions, np.concatenate(expected))
    assert residual.tobytes() == (values - decode_dense(symbols, values.size)).tobytes()


def test_selection_in_several_blocks_is_that_in_one() -> None:
    codec = CodecConfig(kind="sparse", chunk=4096, k=64)
    values = vector(10, size=150 * 4096 + 100)
    symbols, _ = compress(codec, values)
    expected = [
        start + reference_places(values[start : start + 4096], 64) for start in range(0, values.size, 4096)
    ]
    np.testing.assert_array_equal(symbols.positions, np.concatenate(expected))


@given(
    values=arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(-60000, 60000, width=32)),
    kind=st.sampled_from(["sparse", "dense"]),
    bits=st.integers(2, 8),
)
def test_every_finite_vector_has_well_formed_symbols(values: np.ndarray, kind: str, bits: int) -> None:
    codec = CodecConfig(kind=kind, chunk=128, k=9, bits=bits, block=50)
    symbols, residual = compress(codec, values)
    assert MIN_EXPONENT <= symbols.exponent <= MAX_EXPONENT
    assert symbols_digest(decode(encode(symbols), codec=codec, size=values.size)) == symbols_digest(symbols)
    assert np.isfinite(residual).all()


@BOTH
def test_decoded_plus_residual_is_what_accumulated(codec: CodecConfig) -> None:
    residual, delta = vector(1), vector(2)
    symbols, after = compress(codec, delta, residual)
    accumulated = np.float32(codec.decay) * residual + delta
    decoded = decode_dense(symbols, delta.size)
    np.testing.assert_array_equal(after, accumulated - decoded)
    untouched = decoded == 0
    np.testing.assert_array_equal(after[untouched], accumulated[untouched])
    exact = decoded.astype(np.float64) + after.astype(np.float64)
    np.testing.assert_allclose(exact, accumulated.astype(np.float64), rtol=2**-23, atol=0)


@BOTH
def test_decoding_is_exact_in_float32(codec: CodecConfig) -> None:
    symbols, _ = compress(codec, vector(3, scale=1e-9))
    decoded = decode_dense(symbols, 1000).astype(np.float64)
    np.testing.assert_array_equal(
        decoded[symbols.positions] * 2.0**-symbols.exponent, symbols.integers.astype(np.float64)
    )


def test_levels_are_the_means_below_and_above_the_mean() -> None:
    values = vector(4, size=256)
    symbols, _ = compress(SPARSE, values)
    assert isinstance(symbols, SparseSymbols)
    kept = np.abs(values[symbols.positions].astype(np.float64))
    high = kept > kept.mean()
    levels = MAGNITUDES[symbols.levels[0]] * 2.0**symbols.exponent
    np.testing.assert_allclose(levels, [kept[~high].mean(), kept[high].mean()], rtol=2**-5)
    np.testing.assert_array_equal(symbols.codes, (values[symbols.positions] < 0) + 2 * high)


def test_error_feedback_delivers_what_one_update_could_not() -> None:
    constant = vector(5)
    residual, total = None, np.zeros(1000)
    for _ in range(200):
        symbols, residual = compress(SPARSE.model_copy(update={"decay": 1.0}), constant, residual)
        total += decode_dense(symbols, 1000)
    error = np.linalg.norm(total / 200 - constant) / np.linalg.norm(constant)
    assert error < 0.1


@pytest.mark.parametrize(("bits", "worst"), [(2, 1.0), (4, 0.15), (8, 0.01)])
def test_dense_codes_come_as_close_as_their_bits_allow(bits: int, worst: float) -> None:
    values = vector(6)
    _, residual = compress(CodecConfig(kind="dense", bits=bits, block=64), values)
    assert np.linalg.norm(residual) < worst * np.linalg.norm(values)


@BOTH
def test_nothing_to_say_is_said(codec: CodecConfig) -> None:
    symbols, residual = compress(codec, np.zeros(700, np.float32))
    assert not symbols.integers.any()
    assert not residual.any()


@BOTH
def test_the_inputs_are_left_alone(codec: CodecConfig) -> None:
    delta, residual = vector(7), vector(8)
    before = delta.copy(), residual.copy()
    compress(codec, delta, residual)
    np.testing.assert_array_equal(delta, before[0])
    np.testing.assert_array_equal(residual, before[1])


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65536.0])
def test_a_diverged_round_is_our_own_fault(codec: CodecConfig, value: float) -> None:
    values = vector(9)
    values[500] = value
    with pytest.raises(OwnFault):
        compress(codec, values)
