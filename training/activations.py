"""What a sample shows of the policy's last activations: random projections, which say which weights computed it.

After TOPLOC (Ong et al., arXiv 2501.16007) in what it is for; projections with random signs (Achlioptas, JCSS 2003)
instead of the largest values, because sums of all of them notice the smallest difference and bear rounding. The signs
are a function of the sample's noise key and of the position, so they cannot be chosen.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from blake3 import blake3

from protocol.rollouts import MAX_PROJECTION, PROJECTIONS
from protocol.tensors import Floats
from training.sampling import Integers

_TAG: Final = b"signs"
_SIZELESS: Final = 1e-30
_BITS: Final = 30  # of a fixed point: integers add up to the same in any order, on every machine
_LARGEST: Final = 2.0**18  # of an activation, so that no sum over a width overflows


def projections(hidden: Floats, places: Sequence[tuple[bytes, int]]) -> Integers:
    """Return what activations add to their samples' fingerprints: int64[rows, PROJECTIONS], of fixed point.

    Args:
        hidden: float32[rows, width], from which the token at a place was chosen.
        places: noise key of the sample and position of the token.
    """
    width = hidden.shape[1]
    size = -(-PROJECTIONS * width // 8)
    stream = b"".join(
        blake3(_TAG + at.to_bytes(8, "little"), key=key).digest(length=size) for key, at in places
    )
    bits = np.unpackbits(np.frombuffer(stream, np.uint8).reshape(len(places), size), axis=1)
    signs = bits[:, : PROJECTIONS * width].reshape(len(places), PROJECTIONS, width)
    bounded = np.nan_to_num(hidden.astype(np.float64)).clip(-_LARGEST, _LARGEST)
    fixed = np.rint(bounded * 2.0**_BITS).astype(np.int64)[:, None]
    found: Integers = fixed.sum(axis=2) - 2 * (fixed * signs).sum(axis=2)
    return found


def fingerprint(summed: Integers) -> Floats:
    """Return the fingerprints of samples from their sums int64[..., PROJECTIONS]."""
    found: Floats = np.clip(summed * 2.0**-_BITS, -MAX_PROJECTION, MAX_PROJECTION).astype(np.float32)
    return found


def distance(claimed: Floats, computed: Floats, energy: float) -> float:
    """Return how far fingerprints are from computed ones, both float32[samples, PROJECTIONS].

    It is relative to the length that random signs give on average, so that no draw of signs makes rounding look large.

    Args:
        energy: the sum of squares of all activations in them.
    """
    away = float(np.linalg.norm(claimed.astype(np.float64) - computed.astype(np.float64)))
    return away / max(math.sqrt(PROJECTIONS * energy), _SIZELESS)
