"""What a sample shows of the policy's last activations: random projections, which say which weights computed it.

After TOPLOC (Ong et al., arXiv 2501.16007) in what it is for; projections with random signs (Achlioptas, JCSS 2003)
instead of the largest values, because sums of all of them notice the smallest difference and bear rounding. The signs
are a function of the sample's noise key and of the position, so they cannot be chosen.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from blake3 import blake3

from protocol.rollouts import MAX_PROJECTION, PROJECTIONS
from protocol.tensors import Floats
from training.sampling import Doubles

_TAG: Final = b"signs"


def projections(hidden: Floats, places: Sequence[tuple[bytes, int]]) -> Doubles:
    """Return what activations add to their samples' fingerprints: float64[rows, PROJECTIONS].

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
    signs = 1.0 - 2.0 * bits[:, : PROJECTIONS * width].reshape(len(places), PROJECTIONS, width)
    found: Doubles = np.einsum("rpw,rw->rp", signs, hidden.astype(np.float64))
    return found


def fingerprint(summed: Doubles) -> Floats:
    """Return the fingerprints of samples from their sums float64[..., PROJECTIONS]."""
    return np.clip(summed, -MAX_PROJECTION, MAX_PROJECTION).astype(np.float32)


def distance(claimed: Floats, computed: Floats) -> float:
    """Return how far fingerprints are from computed ones float32[samples, PROJECTIONS], relative to their length."""
    wanted = computed.astype(np.float64)
    away = float(np.linalg.norm(claimed.astype(np.float64) - wanted))
    return away / max(float(np.linalg.norm(wanted)), 1e-30)
