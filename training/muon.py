"""Muon: matrices of blocks take steps whose singular values are all about as large.

Momentum of a matrix is orthogonalised by five Newton-Schulz steps, so that directions which gradients seldom point in
move as far as any (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024). torch.optim.Muon
does so in bfloat16, whose rounding is a per cent of such a step and more; in float32 replays differ by no more than
those of AdamW's steps.

What is done here are single operations, and products by whoever calls, so that training and the exact reference
share one algorithm.
"""

import math
from collections.abc import Callable
from typing import Final

import torch

from protocol.manifest import RunManifest
from protocol.tensors import frozen, parameter_layout

NORM_EPS: Final = 1e-7
"""Added to a matrix's norm before dividing by it."""

_STEPS: Final = 5
_TERMS: Final = (3.4445, -4.7750, 2.0315)  # of x, x**3 and x**5: Jordan et al.

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Return the products float32[n, i, k] of matrices [n, i, j] and [n, j, k]."""

Places = tuple[slice, ...]


def orthogonalised(matrices: torch.Tensor, multiply: Multiply) -> torch.Tensor:
    """Return matrices float32[n, rows, columns] with their singular values between about 0.7 and 1.2.

    Args:
        matrices: whose Frobenius norms are at most one. Singular values far below 1/500 stay below that range.
    """
    linear, cubic, quintic = _TERMS
    wide = matrices.shape[1] <= matrices.shape[2]
    found = matrices if wide else matrices.mT.contiguous()
    for _ in range(_STEPS):
        square = multiply(found, found.mT)
        curve = (square * cubic).add_(multiply(square, square).mul_(quintic))
        found = (found * linear).add_(multiply(curve, found))
    return found if wide else found.mT.contiguous()


def step_length(shape: tuple[int, ...]) -> float:
    """Return what an orthogonalised matrix is multiplied by, beside the learning rate (Jordan et al.)."""
    rows, columns = shape
    return math.sqrt(max(1.0, rows / columns))


def muon_places(manifest: RunManifest) -> dict[tuple[int, ...], Places]:
    """Return where the matrices that take Muon's steps lie in the flat vector, by shape."""
    found: dict[tuple[int, ...], Places] = {}
    if manifest.inner.muon is None:
        return found
    layout, first = parameter_layout(manifest.model), frozen(manifest)
    for name, shape in layout.tensors:
        place = layout.slices[name]
        if name.startswith("blocks.") and len(shape) > 1 and place.start >= first:
            found[shape] = (*found.get(shape, ()), place)
    return found


def adamw_places(manifest: RunManifest) -> Places:
    """Return where the parameters that take AdamW's steps lie, in as few slices as can be."""
    places = muon_places(manifest).values()
    matrices = sorted((place for same in places for place in same), key=lambda place: place.start)
    starts = (frozen(manifest), *(place.stop for place in matrices))
    stops = (*(place.start for place in matrices), parameter_layout(manifest.model).size)
    return tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop)
