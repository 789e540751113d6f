"""Arithmetic that gives the same bits on every machine, whatever its instruction set, threads or libraries.

IEEE 754 fixes the result of one + - * / or square root, but not the order of a sum, whether a product is fused with
an addition, or the last bit of an exponential. So here matrix products and sums are of integers that float64 holds
exactly in any order (split operands: Ozaki et al., Numerical Algorithms 59, 2012), exponentials are polynomials of
single operations, and constants come from decimal arithmetic in software. CPU only: compilers for other devices fuse
operations of their own accord.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from protocol.errors import OwnFault
from training import logarithm

_LIMB_BITS: Final = 21
_BLOCK: Final = 2**11  # products summed at once: 2 * 21 + 11 = 53 bits, all that float64 holds
_SUM_BITS: Final = 52
_DIGITS: Final = 50
_PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 0.693359375  # few bits, so that a small integer times it is exact
_LN2_LOW: Final = -2.12194440e-4
_EXP_TERMS: Final = (
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)  # Cephes' expf
_EXP_FIRST: Final = 1.9875691500e-4
_EXP_FLOOR: Final = -80.0


@dataclass(frozen=True, eq=False)
class Fixed:
    """Hold a float32 tensor as two integers a value, in units that its largest magnitude sets.

    A value is (high + low / 2**21) * 2**(exponent - 21): what lies 42 bits below the largest magnitude is rounded.
    """

    high: Tensor  # float64 integers up to 2**21 in magnitude
    low: Tensor  # float64 integers up to 2**20 in magnitude
    exponent: int

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Split float32 values.

        Raises:
            OwnFault: a value is not finite.
        """
        exponent = int(_exponents(values.abs().amax()))
        scaled = values.double().mul_(2.0 ** (_LIMB_BITS - exponent))
        high = scaled.round()
        low = scaled.sub_(high).mul_(2.0**_LIMB_BITS).round_()
        return cls(high, low, exponent)

    def view(self, *shape: int) -> "Fixed":
        """Return the same values in another shape."""
        return Fixed(self.high.view(*shape), self.low.view(*shape), self.exponent)

    @property
    def mT(self) -> "Fixed":
        """Return the transpose of the last two dimensions."""
        return Fixed(self.high.mT, self.low.mT, self.exponent)


def matmul(one: Fixed, other: Fixed) -> Tensor:
    """Return the product float32[..., m, n] of [..., m, k] and [..., k, n], rounded once from about 42 bits."""
    total: Tensor | None = None
    for first in range(0, one.high.shape[-1], _BLOCK):
        rows = slice(first, first + _BLOCK)
        high, low = one.high[..., rows], one.low[..., rows]
        other_high, other_low = other.high[..., rows, :], other.low[..., rows, :]
        crossed = (high @ other_low).add_(low @ other_high)  # exact: each below 2**52
        block = crossed.mul_(2.0**-_LIMB_BITS).add_(high @ other_high)
        total = block if total is None else total.add_(block)
    if total is None:
        raise ValueError("a product over no values")
    return total.mul_(2.0 ** (one.exponent + other.exponent - 2 * _LIMB_BITS)).float()


def exact_sum(values: Tensor, dim: int) -> Tensor:
    """Return the sum of float64 values over one dimension, kept with length one; the same in any order.

    Raises:
        OwnFault: a value is not finite.
    """
    bits = _SUM_BITS - math.ceil(math.log2(values.shape[dim]))
    exponents = _exponents(values.abs().amax(dim, keepdim=True)).clamp(min=-900)
    total = (values * _power(bits - exponents)).round_().sum(dim, keepdim=True)
    return total.mul_(_power(exponents - bits))


def scatter_sum(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """Return float64[count, n] where row i of float32[m, n] is added to row places[i], by integer additions.

    Raises:
        OwnFault: a value is not finite.
    """
    bits = _SUM_BITS - math.ceil(math.log2(rows.shape[0]))
    exponent = int(_exponents(rows.abs().amax()))
    integers = rows.double().mul_(2.0 ** (bits - exponent)).round_().long()
    total = torch.zeros(count, rows.shape[1], dtype=torch.int64).index_add_(0, places, integers)
    return total.double().mul_(2.0 ** (exponent - bits))


def exp(values: Tensor) -> Tensor:
    """Return e**x of float32 values in [-80, 0], within two units of the last place; smaller ones count as -80."""
    values = values.clamp(min=_EXP_FLOOR)
    powers = (values * _LOG2_E).round_()
    rest = (values - powers * _LN2_HIGH).sub_(powers * _LN2_LOW)
    series = torch.full_like(rest, _EXP_FIRST)
    for term in _EXP_TERMS:
        series = series.mul_(rest).add_(term)
    series = series.mul_(rest * rest).add_(rest).add_(1.0)
    scale = ((powers.to(torch.int32) + 127) << 23).view(torch.float32)
    return series.mul_(scale)


def log(values: Tensor) -> Tensor:
    """Return `training.logarithm.log` of positive normal float64 values."""
    return torch.from_numpy(logarithm.log(values.numpy()))


def sigmoid(values: Tensor) -> Tensor:
    """Return 1 / (1 + e**-x) of float32 values."""
    small = exp(-values.abs())
    return torch.where(values < 0, small, torch.ones_like(small)).div_(small + 1.0)


def sqrt(values: Tensor) -> Tensor:
    """Return the correctly rounded square root; numpy's is the processor's instruction, torch's may be a library's."""
    return torch.from_numpy(np.sqrt(values.numpy()))


def power(base: float, exponent: int) -> float:
    """Return base**exponent for a whole exponent >= 0 by repeated squaring: pow() differs between C libraries."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


@lru_cache(maxsize=64)
def cosine(numerator: int, denominator: int) -> float:
    """Return cos(pi * numerator / denominator), correctly rounded but for ties beyond fifty digits."""
    with localcontext(Context(prec=_DIGITS)):
        turns = Decimal(numerator % (2 * denominator)) / denominator  # in [0, 2) half turns
        return float(_cos_sin((turns if turns <= 1 else turns - 2) * _PI)[0])


@lru_cache(maxsize=8)
def rotation_table(positions: int, head: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines float32[positions, head / 2] of position * base**(-2i / head)."""
    found = np.empty((2, positions, head // 2), np.float32)
    with localcontext(Context(prec=_DIGITS)):
        log = Decimal(base).ln()
        for pair in range(head // 2):
            step_cos, step_sin = _cos_sin((-log * (2 * pair) / head).exp())
            cos, sin = Decimal(1), Decimal(0)
            for position in range(positions):
                found[:, position, pair] = float(cos), float(sin)
                cos, sin = cos * step_cos - sin * step_sin, sin * step_cos + cos * step_sin
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Return cosine and sine of an angle of at most pi in magnitude by their series."""
    sums, term = [Decimal(0), Decimal(0)], Decimal(1)
    index = 0
    while abs(term) > Decimal(10) ** -_DIGITS:
        sums[index % 2] += -term if index % 4 >= 2 else term
        index += 1
        term = term * angle / index
    return sums[0], sums[1]


def _exponents(magnitudes: Tensor) -> Tensor:
    """Return the least int64 e with x < 2**e of float32 or float64 magnitudes, no less than the smallest normal's.

    Raises:
        OwnFault: one is not finite.
    """
    wide = magnitudes.dtype == torch.float64
    biased = magnitudes.view(torch.int64) >> 52 if wide else magnitudes.view(torch.int32).long() >> 23
    if int(biased.max()) == (2047 if wide else 255):
        raise OwnFault("a value is no longer finite", hint="lower inner.lr in the next run")
    return biased - (1022 if wide else 126)


def _power(exponents: Tensor) -> Tensor:
    """Return 2**e as float64 for int64 exponents of normal numbers, made of bits."""
    return ((exponents + 1023) << 52).view(torch.float64)
