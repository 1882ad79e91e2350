"""The max-sliced Wasserstein distance: how far a block's output distribution is from its input's.

MSW_p(mu, nu) is the maximum over unit directions theta of the one-dimensional Wasserstein distance W_p between the
projections of both samples; in one dimension W_p sorts both and compares order statistics (LaCoOT, ICCV 2025,
arXiv 2406.08933).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import buffers
from lacoot_deploy.transport.ascent import ascend
from lacoot_deploy.transport.directions import Directions, random_directions
from lacoot_deploy.transport.layout import accumulation_dtype, as_rows, check_pair
from lacoot_deploy.transport.sliced import Matching, best_matching

Estimator = Literal["sampled", "ascent"]


def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2.0,
    estimator: Estimator = "sampled",
    projections: int = 50,
    generator: torch.Generator | None = None,
    directions: Directions | Tensor | None = None,
    steps: int = 30,
) -> Tensor:
    """The max-sliced p-Wasserstein distance between two samples, a scalar in the units of the activations.

    Differentiable once in both arguments. Only the direction that wins carries gradient: it is found without
    autograd, and autograd keeps nothing of the size of the activations for it. The gradient is zero where the
    projections coincide. The features are read in the order of x's memory, so channels_last tensors are not
    copied; the same generator draws other directions for another memory format.

    Args:
        x: [N, ...], floating point; flattened per sample.
        y: Same shape as x.
        p: Order of the distance, at least 1.
        estimator: `sampled` takes the maximum over random directions, as the paper does. `ascent` looks for the
            actual maximum: projected gradient ascent on the direction from several starts, among them the
            mean difference and the best random directions. It is never below what `sampled` finds with the
            same directions.
        projections: Number of random directions.
        generator: Source of the random directions.
        directions: The directions to use instead of random ones: `Directions` or a tensor [features, K] with
            columns of unit length, features in the order of x's memory.
        steps: Ascent steps; only for `ascent`.

    Returns:
        A scalar of type float32 (float64 if an argument is float64).

    Raises:
        UsageError: Shapes differ, or an option is out of range.
    """
    check_pair(x, y)
    if not (p >= 1 and math.isfinite(p)):
        raise UsageError(f"The order p of the distance must be a finite number of at least 1, not {p}.")
    if estimator not in ("sampled", "ascent"):
        raise UsageError(f"The estimator must be 'sampled' or 'ascent', not {estimator!r}.")
    rows_x, rows_y = as_rows(x, y)
    dtype = accumulation_dtype(x, y)
    with torch.no_grad():
        if directions is None:
            directions = random_directions(
                rows_x.shape[1], projections, generator=generator, device=x.device, dtype=dtype
            )
        elif isinstance(directions, Tensor):
            directions = Directions(directions.to(device=x.device, dtype=dtype))
        if directions.features != rows_x.shape[1]:
            raise UsageError(
                f"The directions have {directions.features} features, the samples {rows_x.shape[1]}."
            )
        projected_x, projected_y = directions.project(rows_x.detach()), directions.project(rows_y.detach())
        matching, index = best_matching(projected_x, projected_y, p)
        theta = directions.select(index)
        if estimator == "ascent":
            found = ascend(rows_x.detach(), rows_y.detach(), projected_x, projected_y, p=p, steps=steps)
            matching, theta = found.at_least(matching, theta)
    value: Tensor = _AlongDirection.apply(rows_x, rows_y, matching, theta)  # type: ignore[no-untyped-call]
    return value


class _AlongDirection(torch.autograd.Function):
    """The distance along a direction that was found already; its gradient is an outer product.

    Sample i of x moves the distance by pull_x[i] * theta: what autograd keeps is one vector of the size of a sample.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, matching: Matching, theta: Tensor) -> Tensor:
        ctx.save_for_backward(matching.pull_x, matching.pull_y, theta)
        ctx.dtypes = x.dtype, y.dtype
        return matching.value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pull_x, pull_y, theta = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        grad_x = _outer(pull_x * grad, theta, ctx.dtypes[0]) if need_x else None
        grad_y = _outer(pull_y * grad, theta, ctx.dtypes[1]) if need_y else None
        return grad_x, grad_y, None, None


def _outer(pull: Tensor, theta: Tensor, dtype: torch.dtype) -> Tensor:
    """The outer product [N, D], computed in the type of theta and rounded once."""
    out = buffers.empty((pull.shape[0], theta.shape[0]), dtype, theta.device)
    return torch.mul(pull[:, None], theta, out=out)
