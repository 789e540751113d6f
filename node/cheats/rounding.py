"""Coarser arithmetic on a machine without it: matrix products of rounded factors, summed in float32."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
)
_MANTISSA_BITS = 23  # of float32


class _RoundedProducts(TorchDispatchMode):
    def __init__(self, bits: int, results: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._lost = _MANTISSA_BITS - bits
        self._results = results

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        product = func(*map(self._rounded, args), **(kwargs or {}))
        return self._rounded(product) if self._results else product

    def _rounded(self, operand: Any) -> Any:
        if not isinstance(operand, torch.Tensor) or operand.dtype != torch.float32:
            return operand
        bits = operand.contiguous().view(torch.int32)
        return ((bits + (1 << (self._lost - 1))) & -(1 << self._lost)).view(torch.float32)


def rounded_products(bits: int, *, results: bool) -> AbstractContextManager[Any]:
    """Return a context in which matrix products, of backward passes as well, keep fewer bits of mantissa.

    Args:
        bits: of the factors: 10 in TensorFloat-32, 7 in bfloat16.
        results: round products as well, as where they are stored in that format.
    """
    found: AbstractContextManager[Any] = _RoundedProducts(bits, results)
    return found
