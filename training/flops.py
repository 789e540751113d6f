"""Model FLOPs of training, and which share of a device's peak they come to.

A token costs what its forward and backward pass through the model's matrices cost, and through attention (PaLM,
Chowdhery et al., arXiv 2204.02311, appendix B): 6 N + 12 L H Q T for N parameters in matrices, L layers, H heads of
width Q and T tokens of context. A multiplication and an addition are two operations; attention counts as if nothing
were masked. What is computed beside it (norms, softmax, the optimizer, hashes of states) is work that the model does
not ask for, and counts as none.
"""

from math import prod

from protocol.manifest import RunManifest
from protocol.tensors import frozen, parameter_layout


def training_flops(manifest: RunManifest) -> int:
    """Return the model FLOPs of one trained token.

    A matrix costs two operations a parameter in the forward pass, two for its own gradient, and two for that of its
    input. What a run leaves frozen has no gradient, and nothing before it is gone through backwards.
    """
    model, first = manifest.model, frozen(manifest)
    layout = parameter_layout(model)
    total = 0
    for name, shape in layout.tensors:
        if len(shape) != 2 or (
            name == "embedding" and not model.tied
        ):  # a table is looked up, not multiplied by
            continue
        learns = layout.slices[name].start >= first
        passes = (
            3 if learns else 2 if name == "embedding" else 1
        )  # through a tied head gradients flow all the same
        total += 2 * passes * prod(shape)
    learning = model.layers if manifest.inner.last_layers is None else manifest.inner.last_layers
    return total + 4 * (model.layers + 2 * learning) * model.width * model.context


def utilisation(flops: float, seconds: float, peak: float) -> float:
    """Return the model FLOPs utilisation (MFU): model FLOPs a second over the device's peak, from 0 to 1.

    On an accelerator the peak is the vendor's figure for the arithmetic in use. On a CPU there is no such figure that
    a process can count on (clock, instruction set, threads and neighbours decide), so the peak is what a large product
    of matrices reaches on the same threads (`training.peak`): the figure then says how far the model's small products,
    and everything between them, stay behind the best that this machine does, and compares with no other machine's.

    Args:
        flops: model FLOPs of some work (`training_flops`).
        seconds: wall time that it took.
        peak: FLOPs a second.
    """
    return flops / seconds / peak
