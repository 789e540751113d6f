"""Pseudo-gradients to symbols and back, with error feedback; bit-identical on every machine.

Sparse is SparseLoCo's update (arXiv 2508.15706): the k largest entries of each chunk as sign and one
magnitude bit. Dense is a few-bit DiLoCo (arXiv 2311.08105). Selection orders by magnitude bits and then
lowest index, means are integer sums, and every float operation is a single correctly rounded one, so that
nothing depends on the order of a sum, on fused multiply-add or on the instruction set.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.errors import OwnFault
from protocol.manifest import CodecConfig
from protocol.tensors import Floats
from protocol.update import (
    MAGNITUDES,
    MAX_EXPONENT,
    MIN_EXPONENT,
    DenseSymbols,
    SparseSymbols,
    Symbols,
    chunk_count,
)

_LEVEL_BITS: Final = 16
_GUARD_BITS: Final = 24  # means are taken over magnitudes finer than their units by this much
_MIDDLES: Final = (MAGNITUDES[1:] + MAGNITUDES[:-1]) << _GUARD_BITS - 1  # between levels
_BLOCK: Final = 2**18  # values worked on at a time: they stay in the cache, and copies stay small
_SIGN_BIT: Final = np.uint32(2**31)

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
MagnitudeBits = npt.NDArray[np.int32]


def compress(
    codec: CodecConfig, pseudo_gradient: Floats, residual: Floats | None = None
) -> tuple[Symbols, Floats]:
    """Turn decay * residual + pseudo_gradient into symbols, and what they leave out into the next residual.

    Args:
        pseudo_gradient: float32[P], start minus end of the inner steps.
        residual: float32[P], carried from the unit before; None stands for zeros.

    Returns:
        The symbols, and the residual float32[P]: accumulated value minus decoded value, one rounding each.

    Raises:
        OwnFault: a value that is not finite or beyond 2**16, as after a diverged round.
    """
    if residual is None:
        accumulated = np.array(pseudo_gradient, dtype=np.float32)
    else:
        # Two operations on purpose: a fused multiply-add rounds once and would differ between machines.
        accumulated = np.float32(codec.decay) * residual
        accumulated += np.asarray(pseudo_gradient, np.float32)
    return (_sparse if codec.kind == "sparse" else _dense)(codec, accumulated)


def decode_dense(symbols: Symbols, size: int) -> Floats:
    """Return an update's values as float32[size]; exact, for each is a short integer times a power of two."""
    decoded = np.zeros(size, np.float32)
    decoded[symbols.positions] = _values(symbols)
    return decoded


def _values(symbols: Symbols) -> Floats:
    return (symbols.integers * 2.0**symbols.exponent).astype(np.float32)


def _exponent(largest: float) -> int:
    """Return the exponent of the units in which magnitudes up to `largest` are integers of sixteen bits."""
    if not largest < 2.0 ** (_LEVEL_BITS + MAX_EXPONENT):  # also true of NaN
        raise OwnFault("the update is not finite or too large", hint="the round diverged; check inner.lr")
    return max(MIN_EXPONENT, int(np.frexp(np.float64(largest))[1]) - _LEVEL_BITS)


def _sparse(codec: CodecConfig, accumulated: Floats) -> tuple[SparseSymbols, Floats]:
    """Return the symbols of what accumulated, which becomes the residual in place."""
    size, chunk, k = accumulated.size, codec.chunk, codec.k
    positions = _largest(accumulated, chunk, k)
    values = accumulated[positions]
    # What is largest was kept, and NaN is above everything.
    exponent = _exponent(float(np.max(np.abs(values))))
    magnitudes = _fixed_point(values, exponent - _GUARD_BITS)
    full = (chunk_count(size, chunk) - 1) * k
    rows = [
        _two_levels(part) for part in (magnitudes[:full].reshape(-1, k), magnitudes[full:].reshape(1, -1))
    ]
    high = np.concatenate([part.reshape(-1) for part, _ in rows])
    starts = np.repeat(np.arange(0, size, chunk), k)[: positions.size]
    symbols = SparseSymbols(
        size,
        chunk,
        k,
        exponent,
        (positions - starts).astype(np.uint16),
        np.asarray((values < 0) + 2 * high, np.uint8),
        np.concatenate([levels for _, levels in rows]),
    )
    accumulated[positions] = values - _values(symbols)
    return symbols, accumulated


def _two_levels(magnitudes: Integers) -> tuple[Mask, npt.NDArray[np.uint8]]:
    """Return which magnitudes [rows, kept] are above their row's mean, and the levels [rows, 2] of both kinds."""
    kept = magnitudes.shape[1]
    total = magnitudes.sum(axis=1, keepdims=True)
    high = magnitudes * kept > total  # above the mean, without dividing
    high_count = high.sum(axis=1, keepdims=True)
    high_total = np.where(high, magnitudes, 0).sum(axis=1, keepdims=True)
    low = _mean_level(total - high_total, kept - high_count)
    return high, np.concatenate((low, np.maximum(low, _mean_level(high_total, high_count))), axis=1)


def _mean_level(total: Integers, count: Integers) -> npt.NDArray[np.uint8]:
    """Return the level nearest to total / count, the upper of two as near; zero for none."""
    return np.searchsorted(_MIDDLES, total // np.maximum(count, 1), side="right").astype(np.uint8)


def _largest(vector: Floats, chunk: int, k: int) -> Integers:
    """Return the places of each chunk's k largest magnitudes in rising order; ties go to the lowest index."""
    body = vector.size // chunk * chunk
    rows = vector[:body].reshape(-1, chunk)
    step = max(1, _BLOCK // chunk)
    found = [
        start * chunk + _largest_of_rows(rows[start : start + step], k) for start in range(0, len(rows), step)
    ]
    if body < vector.size:
        tail = vector[body:].reshape(1, -1)
        found.append(body + _largest_of_rows(tail, min(k, tail.size)))
    places: Integers = np.concatenate(found)
    return places


def _largest_of_rows(rows: Floats, k: int) -> Integers:
    """Return where the k largest magnitudes of each row lie in the flat rows."""
    bits: MagnitudeBits = (rows.view(np.uint32) & ~_SIGN_BIT).view(np.int32)  # they order as magnitudes do
    count, chunk = bits.shape
    # Of maxima over more than k groups the k-th is no larger than the k-th of all, and seldom much smaller.
    groups = next((number for number in range(2 * k, chunk // 4 + 1) if chunk % number == 0), None)
    if groups is None:
        return np.flatnonzero(_chosen(bits, _kth(bits, k), k))
    candidates = np.flatnonzero(_chosen(bits, _kth(bits.reshape(count, -1, groups).max(axis=1), k), k))
    row = candidates // chunk
    each = np.bincount(row, minlength=count)
    width = int(each.max())
    place = row * width + np.arange(candidates.size) - np.repeat(np.cumsum(each) - each, each)
    padded = np.full(count * width, -1, np.int32)
    padded[place] = bits.reshape(-1)[candidates]
    table = padded.reshape(count, width)
    largest: Integers = candidates[_chosen(table, _kth(table, k), k).reshape(-1)[place]]
    return largest


def _kth(bits: MagnitudeBits, k: int) -> MagnitudeBits:
    """Return the k-th largest of each row: int32[rows, 1]."""
    place = bits.shape[1] - k
    found: MagnitudeBits = np.partition(bits, place, axis=1)[:, place : place + 1]
    return found


def _chosen(bits: MagnitudeBits, least: MagnitudeBits, k: int) -> Mask:
    """Mark in each row what exceeds `least`, and of its equals the first that are missing to k."""
    chosen: Mask = bits > least
    missing = k - np.count_nonzero(chosen, axis=1)
    short = np.flatnonzero(missing > 0)
    equal = bits[short] == least[short]
    chosen[short] |= equal & (np.cumsum(equal, axis=1) <= missing[short, None])
    return chosen


def _fixed_point(values: Floats, exponent: int) -> Integers:
    """Return magnitudes as integers in units of 2**exponent, rounded to even: below 2**40 with guard bits."""
    return np.rint(np.abs(values) * np.float64(2.0**-exponent)).astype(np.int64)


def _dense(codec: CodecConfig, accumulated: Floats) -> tuple[DenseSymbols, Floats]:
    """Return the symbols of what accumulated, which becomes the residual in place."""
    size, block = accumulated.size, codec.block
    exponent = _exponent(float(max(accumulated.max(), -accumulated.min())))
    codes, scales = np.empty(size, np.int8), np.empty(chunk_count(size, block), np.uint16)
    step = max(1, _BLOCK // block) * block
    for start in range(0, size, step):
        part = slice(start, start + step)
        codes[part], scales[start // block : (start + step) // block] = _dense_blocks(
            codec, accumulated[part], exponent
        )
    symbols = DenseSymbols(size, block, codec.bits, exponent, codes, scales)
    accumulated -= _values(symbols)
    return symbols, accumulated


def _dense_blocks(
    codec: CodecConfig, values: Floats, exponent: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Return the codes [values] and scales [blocks] of some blocks, of which the last may be short."""
    blocks = chunk_count(values.size, codec.block)
    magnitudes = np.zeros((blocks, codec.block), np.int64)
    magnitudes.reshape(-1)[: values.size] = _fixed_point(values, exponent - _GUARD_BITS)
    limit = 2 ** (codec.bits - 1) - 1
    unit = limit << _GUARD_BITS
    scales = np.minimum((magnitudes.max(axis=1) + unit - 1) // unit, 2**_LEVEL_BITS - 1)
    step = np.maximum(scales, 1)[:, None] << _GUARD_BITS
    rounded = np.minimum((2 * magnitudes + step) // (2 * step), limit).reshape(-1)[: values.size]
    return np.where(values < 0, -rounded, rounded).astype(np.int8), scales.astype(np.uint16)
