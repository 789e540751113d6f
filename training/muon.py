"""Muon: matrices of blocks take steps whose singular values are all about as large.

Momentum of a matrix is orthogonalised, so that directions which gradients seldom point in move as far as any (Jordan
et al., "Muon: an optimizer for hidden layers in neural networks", 2024). Three Newton-Schulz steps do it as well here
as the five of torch.optim.Muon, at three fifths of the cost, since each polynomial is the best after those before
(Amsel et al., "The Polar Express", arXiv 2505.16932). They are taken in float32: bfloat16, as torch has it, rounds away
a per cent of such a step and more, and replays have to agree.

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

LAST_STEP: Final = 4.0
"""How many times as long a round's last step is where its momentum ends with it. What is left of it would move the
parameters on and on: orthogonalised, it does not fade. Of 1, 4 and 8 or more 4 led to the lowest losses."""

_TERMS: Final = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)  # of x, x**3 and x**5 in each step, for singular values from a thousandth on: Amsel et al.

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Return the products float32[n, i, k] of matrices [n, i, j] and [n, j, k]."""

Places = tuple[slice, ...]


def orthogonalised(matrices: torch.Tensor, multiply: Multiply) -> torch.Tensor:
    """Return matrices float32[n, rows, columns] with singular values around one: between 0.13 and 1.87.

    Args:
        matrices: whose Frobenius norms are at most one. What is below a thousandth grows by 134 and stays below 0.13.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    found = matrices if wide else matrices.mT.contiguous()
    for linear, cubic, quintic in _TERMS:
        square = multiply(found, found.mT)
        curve = (square * cubic).add_(multiply(square, square).mul_(quintic))
        found = (found * linear).add_(multiply(curve, found))
    return found if wide else found.mT.contiguous()


def step_length(shape: tuple[int, ...], *, last: bool) -> float:
    """Return what an orthogonalised matrix is multiplied by, beside the learning rate (Jordan et al.).

    Args:
        last: of a round whose momentum nobody carries on.
    """
    rows, columns = shape
    return (LAST_STEP if last else 1.0) * math.sqrt(max(1.0, rows / columns))


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
