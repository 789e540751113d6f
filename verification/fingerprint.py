"""What a verifier shows of its own replay: random projections of a state that nobody else has written down.

The state is the one in the middle of the replayed segment. Its change since the segment's start is projected on signs
drawn by the sampling beacon, so that honest replays give nearly the same few numbers, and who did not replay cannot
name them. A segment of fewer than three steps has no such middle: its two ends, with parameters and both moments, are
three equations a coordinate for one or two unknown gradients, so that anyone who holds them could solve for what lies
between. There the verifier takes one step more, from its own end, on batches that the sampling beacon draws and nobody
trained on.

Measured with the default manifest (`python -m tests.bench fingerprint`): honest replays on five emulated machines are
at most 1.1e-5 apart (3e-4 is tolerated, 2.4e-3 from zero moments), the linear mid-point of the opened ends is at least
0.06 away. A bf16 profile tolerates 0.96 and more, so that interpolations pass there.
"""

import math
from typing import Final

import numpy as np
from blake3 import blake3

from protocol.beacon import seed
from protocol.canonical import tagged_digest
from protocol.manifest import RunManifest
from protocol.tensors import Floats, parameter_layout
from training.distance import MOMENT_FLOOR, PARAMETER_FLOOR
from training.inner import InnerState
from verification.unit import DrawnUnit

VALUES: Final = 16
LEAST_MIDDLE: Final = 3
"""Steps from which on a segment's middle does not follow from its ends."""

_PURPOSE: Final = "murmur/fingerprint"
_PIECE: Final = 1 << 16  # elements projected at a time, which bounds the memory for signs
_DIGITS: Final = 9
_SIGNS: Final = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # [256, 8]


def middle_steps(segment_steps: int) -> int:
    """Return after how many steps of a replay the fingerprinted state is reached.

    Half of the steps, rounded up; one step beyond the end for a segment of fewer than three.
    """
    return -(-segment_steps // 2) if segment_steps >= LEAST_MIDDLE else segment_steps + 1


def fingerprint(
    manifest: RunManifest, unit: DrawnUnit, start: InnerState, middle: InnerState
) -> tuple[float, ...]:
    """Project the change from a segment's start to the middle of its replay.

    Each tensor's change is divided by its norm (or the floor of `training.distance`, if that is more) and projected on
    `VALUES` vectors of random signs; the projections of the T tensors are added and divided by sqrt(T). So each value
    has variance one over the draw of the signs, and replays whose tensors differ by a relative distance d give values
    that differ by about d. (Random projections: Johnson and Lindenstrauss 1984; signs: Achlioptas 2003.)
    """
    layout = parameter_layout(manifest.model)
    rms = manifest.inner.clip_norm / math.sqrt(layout.size)
    floors = (PARAMETER_FLOOR * manifest.inner.lr, MOMENT_FLOOR * rms, MOMENT_FLOOR * rms * rms)
    round_seed = seed(_PURPOSE, unit.sampling, manifest.run_id, unit.round)
    total, tensors = np.zeros(VALUES), 0
    for before, after, floor in zip(_parts(start), _parts(middle), floors, strict=True):
        change = after.astype(np.float64) - before
        for place in layout.slices.values():
            label = tagged_digest(_PURPOSE, round_seed, unit.number, unit.segment, tensors)
            total += _projections(change[place], floor, label)
            tensors += 1
    values = total / math.sqrt(tensors)
    return tuple(round(float(value), _DIGITS) if math.isfinite(value) else 0.0 for value in values)


def _parts(state: InnerState) -> tuple[Floats, Floats, Floats]:
    return state.parameters, state.exp_avg, state.exp_avg_sq


def _projections(
    change: np.ndarray[tuple[int], np.dtype[np.float64]], floor: float, label: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the projections of one tensor's normalised change; `label` seeds its signs, two bytes an element."""
    scale = max(float(np.linalg.norm(change)), floor * math.sqrt(change.size))
    found = np.zeros(VALUES)
    hasher = blake3(bytes.fromhex(label))
    for first in range(0, change.size, _PIECE):
        piece = change[first : first + _PIECE]
        raw = hasher.digest(length=2 * piece.size, seek=2 * first)
        drawn = np.frombuffer(raw, np.uint8).reshape(piece.size, VALUES // 8)
        # Elements with the same byte have the same eight signs: they are added up before any sign is applied.
        sums = [np.bincount(lane, weights=piece, minlength=256) @ _SIGNS for lane in drawn.T]
        found += np.concatenate(sums)
    return np.asarray(found / scale)
