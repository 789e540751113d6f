"""How many operations a second a device reaches at its best: one large product of matrices, timed."""

from time import perf_counter
from typing import Final

import torch

_TRIES: Final = 5
_CPU_SIZE: Final = 1024  # 40 ms on a core of 50 GFLOP/s
_OTHER_SIZE: Final = 8192


def measured_peak(device: str = "cpu", *, arithmetic: str = "fp32") -> float:
    """Return the FLOPs a second of the fastest of some products, on the threads that this process computes with.

    Args:
        arithmetic: of a numeric profile; products in exact arithmetic are compared with those in float32.
    """
    place = torch.device(device)
    size = _CPU_SIZE if place.type == "cpu" else _OTHER_SIZE
    dtype = torch.bfloat16 if arithmetic == "bf16" else torch.float32
    left, right = (torch.ones((size, size), dtype=dtype, device=place) for _ in range(2))
    result = torch.mm(left, right)  # the first one also finds memory and kernels
    seconds = []
    for _ in range(_TRIES):
        _wait(place)
        began = perf_counter()
        torch.mm(left, right, out=result)
        _wait(place)
        seconds.append(perf_counter() - began)
    return 2 * size**3 / min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
