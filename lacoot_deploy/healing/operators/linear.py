"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, operator


@operator("MatMul", weights=(0, 1))
def matmul(call: Call) -> Run:
    """Products of matrices, with NumPy's broadcasting."""
    return torch.matmul


@operator("Gemm", weights=(0, 1, 2))
def gemm(call: Call) -> Run:
    """Alpha A B + beta C, each of the matrices transposed or not."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    first, second = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.T if first else a
        if alpha == 1.0 and beta == 1.0 and (c is None or c.ndim == 1):
            return F.linear(a, b if second else b.T, c)
        y = a @ (b.T if second else b)
        y = y if alpha == 1.0 else alpha * y
        return y if c is None else y + (c if beta == 1.0 else beta * c)

    return run


@operator("Einsum", weights=(0, 1))
def einsum(call: Call) -> Run:
    """A sum of products by its equation."""
    equation = call.text("equation", "").replace(" ", "")
    return lambda *xs: torch.einsum(equation, *xs)
