"""The outer step: the clipped mean of a round's updates, which every peer computes for itself.

With updates u_i = integers * 2**e_i of weights w_i, tau the lower median of their norms and c_i = min(1, tau / |u_i|):

    gradient    = sum_i w_i c_i u_i / sum_i w_i - sum_j retracted_j   int64 fixed point, so in any order
    momentum'   = momentum * mu + gradient                       rounded to float32
    parameters' = parameters - lr * (gradient + mu * momentum')  Nesterov; mu = 0 is plain SGD

Norms and clip factors are exact integers; what follows the sum is one correctly rounded float64 operation at
a time on each element, never a reduction. So the result is the same bytes on every instruction set.

Bounds: on the grid 2**g a clipped value is at most tau < 2**(g + 46), so weights of 2**16 together sum below 2**62.

An update found invalid after its round is taken back: `contribution` is its share of that round's gradient, with c,
weights and grid of that round. Shares are rounded towards zero one by one and the mean as a whole, so on the grid the
n shares of a round differ from its mean by less than n + 1 units, 2**-45 of tau each. A round takes back what waits,
oldest first, while the norms of these shares sum to at most its own tau; the oldest goes even alone beyond it, since
its own round's bound let it in and nothing else would ever follow it. A round that merges nothing takes nothing back.

Without momentum a retraction undoes the share at once. With momentum the share went on moving the parameters,
lr * share / (1 - mu) in the end, and its negative does the same: what is left of it fades as mu**rounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.tensors import Codes, Floats, Layout, parameter_layout, pieces, unpack, unpack_codes
from protocol.update import MAX_MOMENT_CODE, MIN_EXPONENT, Symbols
from training.second_moments import heard

MAX_WEIGHT: Final = 2**16
"""Of all updates of a round together."""
_FACTOR_BITS: Final = 32  # precision of a clip factor
_GRID_BITS: Final = 46  # bits of tau on the grid of the sum
_BLOCK: Final = 2**18  # parameters aggregated at once: what is in the works stays in the cache

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contribution:
    """Hold the share of one update in the gradient of its round: integers * 2**grid at `positions`."""

    size: int  # parameters
    positions: Integers | slice
    integers: Integers  # int64, magnitudes below 2**46
    grid: int
    norm: int  # before rounding, in units of 2**(MIN_EXPONENT - 32)

    def within(self, positions: Integers) -> "Contribution":
        """Return the part of the share at some positions, int64[n] and rising; its norm is that of the whole.

        Of a round whose mean moved the parameters at these positions only (`training.joint`).
        """
        mine = np.arange(self.size) if isinstance(self.positions, slice) else self.positions
        kept = np.isin(mine, positions, assume_unique=True)
        return replace(self, positions=mine[kept], integers=self.integers[kept])

    def take_back(self, gradient: Doubles, block: slice) -> None:
        """Subtract the share from the gradient of a block of parameters."""
        if isinstance(self.positions, slice):
            gradient -= np.ldexp(self.integers[block].astype(np.float64), self.grid)
            return
        first, last = np.searchsorted(self.positions, (block.start, block.stop))
        values = np.ldexp(self.integers[first:last].astype(np.float64), self.grid)
        gradient[self.positions[first:last] - block.start] -= values


@dataclass(frozen=True, eq=False)
class OuterState:
    """Hold what a round starts from: global parameters, and the outer momentum where the manifest has one."""

    parameters: Floats  # [P]
    momentum: Floats | None = None  # [P]
    moments: Codes | None = None  # [P], second moments that updates said (training.second_moments)


def outer_layout(manifest: RunManifest) -> Layout:
    """Return the layout of parameter files: momentum and published moments follow, so that one root covers all."""
    layout = parameter_layout(manifest.model)
    codes = layout.size if manifest.moment_slices else 0
    tensors = layout.tensors
    if manifest.outer.momentum:
        tensors = (*tensors, *((f"momentum.{name}", shape) for name, shape in tensors))
    return Layout(tensors, codes=codes)


def initial_state(manifest: RunManifest, parameters: Floats) -> OuterState:
    """Start a run from its initial parameters, with zero momentum and nothing said where the manifest has them."""
    return OuterState(
        parameters,
        np.zeros_like(parameters) if manifest.outer.momentum else None,
        np.zeros(parameters.size, np.uint8) if manifest.moment_slices else None,
    )


def parameters_file(manifest: RunManifest, state: OuterState) -> bytes:
    """Return the canonical file whose content address is the round's parameter root."""
    vectors = (state.parameters,) if state.momentum is None else (state.parameters, state.momentum)
    return b"".join(pieces(outer_layout(manifest), vectors, codes=state.moments))


def load_parameters(manifest: RunManifest, data: bytes) -> OuterState:
    """Read the file that `parameters_file` writes.

    Raises:
        Malformed: not a file of this run's layout.
    """
    layout, size = outer_layout(manifest), parameter_layout(manifest.model).size
    vector, _ = unpack(layout, data)
    momentum = vector[size:] if manifest.outer.momentum else None
    if not layout.codes:
        return OuterState(vector[:size], momentum)
    codes = unpack_codes(layout, data)
    if (codes > MAX_MOMENT_CODE).any():
        raise Malformed("parameter file with a second moment out of range")
    return OuterState(vector[:size], momentum, codes)


def aggregate(
    manifest: RunManifest,
    state: OuterState,
    updates: Sequence[Symbols],
    retracted: Sequence[Contribution] = (),
    weights: Sequence[int] = (),
) -> OuterState:
    """Take the outer step over a round's updates, in any order. No updates leave everything unchanged.

    What an update said of second moments stays when it is taken back, until another speaks of them.

    Args:
        retracted: shares of earlier rounds that this one takes back, in the order of its record.
        weights: of each update, at least one; none: all weigh the same.

    Raises:
        Malformed: an update of another size than the parameters, weights that are not one for each, below one or
            beyond 2**16 together, or more taken back than the round's bound allows.
    """
    weights = weights or (1,) * len(updates)
    if len(weights) != len(updates) or min(weights, default=1) < 1 or sum(weights) > MAX_WEIGHT:
        raise Malformed(f"{len(updates)} updates of {len(weights)} weights, at most {MAX_WEIGHT} together")
    if any(one.size != state.parameters.size for one in (*updates, *retracted)):
        raise Malformed("an update of another size than the parameters")
    if fitting(updates, retracted) < len(retracted):
        raise Malformed(f"taking back {len(retracted)} updates exceeds the norm bound of the round")
    if not updates:
        return state
    clipped = Clipped(updates)
    parameters = np.empty_like(state.parameters)
    momentum = None if state.momentum is None else np.empty_like(state.momentum)
    for block in blocks_of(updates[0]):
        direction = clipped.mean(weights, block)
        for share in retracted:
            share.take_back(direction, block)
        if momentum is not None and state.momentum is not None:
            mu = manifest.outer.momentum
            momentum[block] = state.momentum[block].astype(np.float64) * mu + direction
            direction += momentum[block].astype(np.float64) * mu
        parameters[block] = state.parameters[block].astype(np.float64) - direction * manifest.outer.lr
    moments = None if state.moments is None else heard(manifest, state.moments, updates)
    return OuterState(parameters, momentum, moments)


def blocks_of(update: Symbols, most: int = _BLOCK) -> Iterator[slice]:
    """Yield the parameters in blocks that an update can be taken apart into (`Symbols.part`), of `most` if it can."""
    step = max(1, most // update.span) * update.span
    for start in range(0, update.size, step):
        yield slice(start, min(start + step, update.size))


def contribution(updates: Sequence[Symbols], index: int, weights: Sequence[int] = ()) -> Contribution:
    """Return what one update of a round gave to the round's gradient, rounded towards zero on the round's grid.

    Args:
        updates: all updates that moved the parameters in that round, in any order.
        index: of the one among them.
        weights: of each; none: all weighed the same.
    """
    weights = weights or (1,) * len(updates)
    clipped, update, weight, total = Clipped(updates), updates[index], weights[index], sum(weights)
    values = clipped.values(index)
    share: Integers = np.sign(values) * (np.abs(values) * weight // total)
    norm = clipped.norm(index) * weight // total
    return Contribution(update.size, update.positions, share, clipped.grid, norm)


def fitting(updates: Sequence[Symbols], waiting: Sequence[Contribution]) -> int:
    """Return how many of the waiting shares, from the first on, a round with these merged updates takes back."""
    if not updates or not waiting:
        return 0
    bound = _root(lower_median(squared_norms(updates)))
    sums = accumulate(share.norm for share in waiting)
    return max(1, sum(1 for total in sums if total <= bound))


def squared_norms(updates: Sequence[Symbols]) -> list[int]:
    """Return the exact squared norms of updates in units of 4**MIN_EXPONENT."""
    return [_square_sum(update.integers) << 2 * (update.exponent - MIN_EXPONENT) for update in updates]


def lower_median(values: Sequence[int]) -> int:
    """Return the middle value, the lower of two: half the updates and one more must be large to raise it."""
    return sorted(values)[(len(values) - 1) // 2]


class Clipped:
    """Read a round's updates as clipped to the lower median of their norms, on the grid of their sum.

    Args:
        updates: at least one.
    """

    def __init__(self, updates: Sequence[Symbols]) -> None:
        self._updates = updates
        self._squares = squared_norms(updates)
        self._median = lower_median(self._squares)
        self.grid = _grid(self._median)

    def values(self, index: int) -> Integers:
        """Return the values of one at its `positions` in units of 2**grid: int64, magnitudes below 2**46."""
        factor, bits = _clip_factor(self._median, self._squares[index])
        return _on_grid(self._updates[index], factor, bits, self.grid)

    def part(self, index: int, block: slice) -> tuple[Integers | slice, Integers]:
        """Return `positions` and values of one in a block, which begins and ends as `Symbols.part` wants it."""
        part = self._updates[index].part(block.start, block.stop)
        values = _on_grid(part, *_clip_factor(self._median, self._squares[index]), self.grid)
        return part.positions, values

    def norm(self, index: int) -> int:
        """Return the norm of one, rounded down, in units of 2**(MIN_EXPONENT - 32)."""
        return _root(min(self._squares[index], self._median))

    def mean(self, weights: Sequence[int], block: slice) -> Doubles:
        """Return the weighted mean of the parameters in a block, which begins and ends as `Symbols.part` wants it."""
        total: Integers = np.zeros(block.stop - block.start, np.int64)
        for index, weight in zip(range(len(self._updates)), weights, strict=True):
            positions, values = self.part(index, block)
            total[positions] += values * weight
        mean = np.zeros(total.size)
        moved = np.flatnonzero(total)  # few of a sparse round; divisions of integers are slow
        sums = total[moved]
        mean[moved] = np.ldexp((np.sign(sums) * (np.abs(sums) // sum(weights))).astype(np.float64), self.grid)
        return mean


def _grid(median: int) -> int:
    """Return the exponent of the grid of a round's sum, on which tau has 46 bits."""
    # 2**root_bits is above tau in units of 2**MIN_EXPONENT.
    root_bits = isqrt(median).bit_length()
    return MIN_EXPONENT + root_bits - _GRID_BITS


def _root(square: int) -> int:
    """Return the root of a squared norm, rounded down, in units of 2**(MIN_EXPONENT - 32)."""
    return isqrt(square << 2 * _FACTOR_BITS)


def _clip_factor(median: int, square: int) -> tuple[int, int]:
    """Return min(1, tau / norm) as (factor, bits), its value factor / 2**bits; factor has at most 33 bits.

    It is rounded down, so that nothing exceeds tau, and keeps 32 bits however large the norm is.
    """
    if square <= median:
        return 1 << _FACTOR_BITS, _FACTOR_BITS
    bits = _FACTOR_BITS + (square.bit_length() - median.bit_length()) // 2
    return isqrt((median << 2 * bits) // square), bits


def _on_grid(update: Symbols, factor: int, bits: int, grid: int) -> Integers:
    """Return the clipped values of an update in units of 2**grid, rounded towards zero, below 2**46."""
    values = update.integers
    scaled = np.abs(values) * factor  # below 2**23 * 2**33
    shift = update.exponent - bits - grid
    # Shifting left cannot overflow: no value exceeds tau, which has at most 46 bits on the grid.
    magnitudes = scaled << min(shift, 63) if shift >= 0 else scaled >> min(-shift, 63)
    signed: Integers = np.sign(values) * magnitudes
    return signed


def _square_sum(values: Integers) -> int:
    squares = values * values  # below 2**46 each; summed in halves so that 2**31 of them still fit
    return (int((squares >> 32).sum()) << 32) + int((squares & 0xFFFFFFFF).sum())
