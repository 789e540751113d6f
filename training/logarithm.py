"""A logarithm with the same bits on every machine: single float64 operations of numpy, which round correctly."""

from typing import Final

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_LN2: Final = 0.6931471805599453
_ROOT_HALF: Final = 0x3FE6A09E667F3BCD  # bits of the square root of one half
_TERMS: Final = 8


def log(values: Doubles) -> Doubles:
    """Return the natural logarithm of positive normal float64 values, within 1e-14 of its magnitude.

    The mantissa m lies in [sqrt(1/2), sqrt(2)); its logarithm is 2 artanh((m - 1) / (m + 1)), by the series.
    """
    bits = np.ascontiguousarray(values).view(np.int64)
    exponents = (bits - _ROOT_HALF) >> 52
    mantissas = (bits - (exponents << 52)).view(np.float64)
    ratio = (mantissas - 1.0) / (mantissas + 1.0)
    square = ratio * ratio
    series = np.full_like(square, 1.0 / (2 * _TERMS + 1))
    for term in range(_TERMS - 1, -1, -1):
        series *= square
        series += 1.0 / (2 * term + 1)
    series *= ratio
    series *= 2.0
    series += exponents * _LN2
    return series
