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
from protocol.update import MAX_EXPONENT, MIN_EXPONENT, DenseSymbols, SparseSymbols, Symbols, chunk_count

_LEVEL_BITS: Final = 16
_GUARD_BITS: Final = 24  # means are taken over magnitudes finer than a level by this much
_INDEX_MASK: Final = 0xFFFF

Integers = npt.NDArray[np.int64]


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
    accumulated = np.array(pseudo_gradient, dtype=np.float32)
    if residual is not None:
        # Two operations on purpose: a fused multiply-add rounds once and would differ between machines.
        decayed = np.float32(codec.decay) * residual
        accumulated = decayed + accumulated
    largest = float(np.max(np.abs(accumulated)))
    if not largest < 2.0 ** (_LEVEL_BITS + MAX_EXPONENT):  # also true of NaN
        raise OwnFault("the update is not finite or too large", hint="the round diverged; check inner.lr")
    exponent = max(MIN_EXPONENT, int(np.frexp(np.float64(largest))[1]) - _LEVEL_BITS)
    quantise = _sparse if codec.kind == "sparse" else _dense
    symbols = quantise(codec, accumulated, exponent)
    return symbols, accumulated - decode_dense(symbols, accumulated.size)


def decode_dense(symbols: Symbols, size: int) -> Floats:
    """Return an update's values as float32[size]; exact, for each is a short integer times a power of two."""
    decoded = np.zeros(size, np.float32)
    decoded[symbols.positions] = np.ldexp(symbols.integers.astype(np.float64), symbols.exponent)
    return decoded


def _sparse(codec: CodecConfig, accumulated: Floats, exponent: int) -> SparseSymbols:
    size, chunk = accumulated.size, codec.chunk
    tail = size - (chunk_count(size, chunk) - 1) * chunk
    body = accumulated[: size - tail].reshape(-1, chunk)
    rows = [_sparse_rows(body, codec.k, exponent)] if body.size else []
    rows.append(_sparse_rows(accumulated[size - tail :].reshape(1, -1), min(codec.k, tail), exponent))
    return SparseSymbols(
        size,
        chunk,
        codec.k,
        exponent,
        np.concatenate([indices.reshape(-1) for indices, _, _ in rows]),
        np.concatenate([codes.reshape(-1) for _, codes, _ in rows]),
        np.concatenate([levels for _, _, levels in rows]),
    )


def _sparse_rows(
    rows: Floats, k: int, exponent: int
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Return indices [rows, k], codes [rows, k] and levels [rows, 2] of equally long chunks."""
    indices = _largest(rows, k)
    values = np.take_along_axis(rows, indices, axis=1)
    magnitudes = _fixed_point(values, exponent - _GUARD_BITS)
    total = magnitudes.sum(axis=1, keepdims=True)
    high = magnitudes * k > total  # above the mean, without dividing
    high_count = high.sum(axis=1, keepdims=True)
    high_total = np.where(high, magnitudes, 0).sum(axis=1, keepdims=True)
    low = _mean_level(total - high_total, k - high_count)
    levels = np.concatenate((low, np.maximum(low, _mean_level(high_total, high_count))), axis=1)
    codes = (values < 0).astype(np.uint8) | high.astype(np.uint8) << 1
    return indices.astype(np.uint16), codes, levels.astype(np.uint16)


def _largest(rows: Floats, k: int) -> Integers:
    """Return the places of each row's k largest magnitudes in rising order; ties go to the lowest index."""
    magnitude_bits = np.abs(rows).view(np.uint32).astype(np.int64)
    places = np.arange(rows.shape[1], dtype=np.int64)
    keys = magnitude_bits << 16 | (_INDEX_MASK - places)  # no two keys are equal, so the selection is unique
    largest = np.partition(keys, rows.shape[1] - k, axis=1)[:, rows.shape[1] - k :]
    return np.sort(_INDEX_MASK - (largest & _INDEX_MASK), axis=1)


def _fixed_point(values: Floats, exponent: int) -> Integers:
    """Return magnitudes as integers in units of 2**exponent, rounded to even: below 2**40 with guard bits."""
    scaled = np.ldexp(np.abs(values).astype(np.float64), -exponent)
    return np.rint(scaled).astype(np.int64)


def _mean_level(total: Integers, count: Integers) -> Integers:
    """Return total / count in levels (zero for none), rounded half up and capped at sixteen bits."""
    divisor = np.maximum(count, 1) << _GUARD_BITS
    levels: Integers = np.minimum((2 * total + divisor) // (2 * divisor), 2**_LEVEL_BITS - 1)
    return levels


def _dense(codec: CodecConfig, accumulated: Floats, exponent: int) -> DenseSymbols:
    size, block = accumulated.size, codec.block
    blocks = chunk_count(size, block)
    padded = np.zeros(blocks * block, np.float32)
    padded[:size] = accumulated
    limit = 2 ** (codec.bits - 1) - 1
    magnitudes = _fixed_point(padded.reshape(blocks, block), exponent - _GUARD_BITS)
    unit = limit << _GUARD_BITS
    scales = np.minimum((magnitudes.max(axis=1) + unit - 1) // unit, 2**_LEVEL_BITS - 1)
    step = np.maximum(scales, 1)[:, None] << _GUARD_BITS
    rounded = np.minimum((2 * magnitudes + step) // (2 * step), limit).reshape(-1)[:size]
    codes = np.where(accumulated < 0, -rounded, rounded).astype(np.int8)
    return DenseSymbols(size, block, codec.bits, exponent, codes, scales.astype(np.uint16))
