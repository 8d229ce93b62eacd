"""A frozen linear layer whose weight is laid out for the CPU's bfloat16 instructions once, not at every call."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["none", "relu", "gelu"]


class PackedLinear:
    """x (M,K) -> activation(x W^T + b) (M,N), or x W^T + b + residual, in the dtype of the weight; `gelu` is exact.

    In bfloat16 on a CPU the weight is kept in oneDNN's layout, which a plain call makes anew (a fifth of the time for
    49 rows, a tenth for 500), and the activation is applied before rounding. Where torch has no such operator, and
    elsewhere, it is the plain call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> None:
        """`weight` (N,K) and `bias` (N,) stay shared with the caller where they are not packed."""
        self._activation = activation
        self._weight = weight.detach().contiguous()
        self._bias = None if bias is None else bias.detach()
        self._multiply: Any = None
        if packs(weight):
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)
            self._multiply = torch.ops.mkldnn._linear_pointwise

    def __call__(self, x: Tensor) -> Tensor:
        """(M,K) -> (M,N)."""
        if self._multiply is not None:
            packed: Tensor = self._multiply(x, self._weight, self._bias, self._activation, [], "none")
            return packed
        plain = functional.linear(x, self._weight, self._bias)
        if self._activation == "relu":
            return plain.relu_()
        return functional.gelu(plain) if self._activation == "gelu" else plain

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """(M,K) and what is added to the product (M,N) -> (M,N); no activation."""
        if self._multiply is not None:
            packed: Tensor = self._multiply.binary(x, residual, self._weight, self._bias, "add")
            return packed
        return functional.linear(x, self._weight, self._bias).add_(residual)


def packs(weight: Tensor) -> bool:
    """Whether this torch can pack such a weight, and it pays."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
