"""How far a claimed segment is from its replay: per tensor, relative to the change that the replay made."""

import math
from typing import Final

import numpy as np

from protocol.manifest import RunManifest
from protocol.tensors import Floats, Layout, parameter_layout
from training.inner import InnerState

PARAMETER_FLOOR: Final = 1.0
MOMENT_FLOOR: Final = 0.1
"""Smallest root mean square change that distances are relative to, in units of the learning rate (parameters)
and of a clipped gradient's root mean square (moments; its square for the second). Below it fp32 rounding, which
does not shrink with the change, would look like a difference.

With them, honest segments of three steps of the default run differ by at most 8e-6 between instruction sets when
moments are carried, and by 9e-5 (99 of 100: 3e-5) in a newcomer's first segment; a learning rate of 0.99 times the
agreed one by 7.5e-4 or more (`python -m tests.bench drift`). AdamW's first step from zero moments is g / (|g| + eps),
so eps has to stay above the rounding noise of a gradient: with 1e-8 in place of 1e-5 newcomers differed by 3e-3.
"""


def change_distance(
    start: Floats, claimed: Floats, replayed: Floats, layout: Layout, floor: float
) -> dict[str, float]:
    """Return |claimed - replayed| / max(|replayed - start|, floor sqrt(n)) for each tensor of n values, in
    float64.

    Args:
        start, claimed, replayed: float32[layout.size], the opened start, the opened end, the verifier's end.
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
    layout = parameter_layout(manifest.model)
    rms = manifest.inner.clip_norm / math.sqrt(layout.size)
    parts = {
        "parameters": (
            start.parameters,
            claimed.parameters,
            replayed.parameters,
            PARAMETER_FLOOR * manifest.inner.lr,
        ),
        "exp_avg": (start.exp_avg, claimed.exp_avg, replayed.exp_avg, MOMENT_FLOOR * rms),
        "exp_avg_sq": (start.exp_avg_sq, claimed.exp_avg_sq, replayed.exp_avg_sq, MOMENT_FLOOR * rms * rms),
    }
    return {
        f"{part}.{name}": distance
        for part, (before, claim, replay, floor) in parts.items()
        for name, distance in change_distance(before, claim, replay, layout, floor).items()
    }


def _norm(vector: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.linalg.norm(vector))
