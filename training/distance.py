"""How far a claimed segment is from its replay: per tensor, relative to the change that the replay made.

A distance has the same bits on every machine: jurors compare it with a bound, and whoever claims an end could put it
where the last bit of a norm decides.
"""

import math
from typing import Final

import numpy as np
import torch

from protocol.manifest import InnerConfig, RunManifest
from protocol.tensors import Floats, Layout, parameter_layout
from training.exact_math import exact_sum, power
from training.inner import InnerState
from training.muon import muon_places

Reals = np.ndarray[tuple[int], np.dtype[np.float64]]

PARAMETER_FLOOR: Final = 1.0
MOMENT_FLOOR: Final = 0.1
"""Smallest root mean square change that distances are relative to, in units of the learning rate (parameters) and of
what a step is made of (moments, see `felt_moments`). Below it fp32 rounding, which does not shrink with the change,
would look like a difference.

With them, honest segments of three steps of the default run differ by at most 9.1e-6 between instruction sets (99 of
100: 6.5e-6), and a learning rate of 0.99 times the agreed one by 7e-4 or more (`murmur verifier calibrate --segments
1125`). When moments are carried it is 1.6e-5, and 1.5e-4 in a newcomer's first segment: AdamW's first step from zero
moments is g / (|g| + eps), so eps has to stay above the rounding noise of a gradient: with 1e-8 in place of 1e-5
newcomers differed by 3e-3.
"""

_ROW: Final = 2**11  # squares summed at once, each to 41 bits of the largest


def change_distance(
    start: Floats | Reals, claimed: Floats | Reals, replayed: Floats | Reals, layout: Layout, floor: float
) -> dict[str, float]:
    """Return |claimed - replayed| / max(|replayed - start|, floor sqrt(n)) for each tensor of n values.

    Args:
        start, claimed, replayed: [layout.size], the opened start, the opened end, the verifier's end.
        floor: smallest root mean square change to be relative to, above zero.
    """
    difference = claimed.astype(np.float64) - replayed
    change = replayed.astype(np.float64) - start
    return {
        name: _norm(difference[place]) / max(_norm(change[place]), floor * math.sqrt(difference[place].size))
        for name, place in layout.slices.items()
    }


def segment_distances(
    manifest: RunManifest, start: InnerState, claimed: InnerState, replayed: InnerState
) -> dict[str, float]:
    """Return the distance of every tensor of a segment's end: parameters and both moments, by name."""
    layout, inner = parameter_layout(manifest.model), manifest.inner
    before, claim, replay = (felt_moments(manifest, state, replayed) for state in (start, claimed, replayed))
    rate = PARAMETER_FLOOR * inner.lr
    parts: dict[str, tuple[Floats | Reals, Floats | Reals, Floats | Reals, float]] = {
        "parameters": (start.parameters, claimed.parameters, replayed.parameters, rate),
        "exp_avg": (before[0], claim[0], replay[0], MOMENT_FLOOR),
        "exp_avg_sq": (before[1], claim[1], replay[1], MOMENT_FLOOR),
    }
    return {
        f"{part}.{name}": distance
        for part, (first, claimed_end, replayed_end, floor) in parts.items()
        for name, distance in change_distance(first, claimed_end, replayed_end, layout, floor).items()
    }


def felt_moments(manifest: RunManifest, state: InnerState, replayed: InnerState) -> tuple[Reals, Reals]:
    """Return both moments as the next step feels them: m / (sqrt(v) + eps), and sqrt(v) over the same.

    The divisor is the replay's, and both are corrected for their bias where steps are. Compared as they are, moments
    would weigh by their size, and what the smallest become would be lost in the norm of their tensor; yet where v is
    smallest the same shift of m or v moves a step most.

    Muon feels a matrix's momentum as a whole: there the divisor is the root mean square of the replay's, and eps.
    """
    inner = manifest.inner
    m, root = _corrected(inner, state)
    mean, scale = _corrected(inner, replayed)
    for places in muon_places(manifest).values():
        for place in places:
            scale[place] = _norm(mean[place]) / math.sqrt(mean[place].size)
    scale += inner.eps
    return m / scale, root / scale


def _corrected(inner: InnerConfig, state: InnerState) -> tuple[Reals, Reals]:
    if inner.fresh:
        second = state.exp_avg_sq.astype(np.float64)
        return state.exp_avg.astype(np.float64), np.copysign(np.sqrt(np.abs(second)), second)
    steps = max(state.steps, 1)  # moments before the first step are zero, which no correction changes
    m = state.exp_avg.astype(np.float64) / (1 - power(inner.beta1, steps))
    v = state.exp_avg_sq.astype(np.float64) / (1 - power(inner.beta2, steps))
    return m, np.copysign(np.sqrt(np.abs(v)), v)  # a claim may hold anything


def _norm(vector: Reals) -> float:
    """Return the Euclidean norm; infinite where a square is."""
    squares = np.zeros(-(-vector.size // _ROW) * _ROW)
    np.multiply(vector, vector, out=squares[: vector.size])
    if not np.isfinite(squares).all():
        return math.inf
    sums = exact_sum(torch.from_numpy(squares).view(-1, _ROW), 1)
    return math.sqrt(math.fsum(sums.flatten().tolist()))
