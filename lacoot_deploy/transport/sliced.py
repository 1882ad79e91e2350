"""One-dimensional optimal transport between projected samples, for many directions at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """The optimal matching of two projected samples along one direction.

    Attributes:
        value: W_p, a scalar.
        pull_x: [N], the derivative of W_p by the projections of x; zero where W_p is zero.
        pull_y: [N], the derivative of W_p by the projections of y.
    """

    value: Tensor
    pull_x: Tensor
    pull_y: Tensor


def best_matching(projected_x: Tensor, projected_y: Tensor, p: float) -> tuple[Matching, Tensor]:
    """The matching along the direction with the largest W_p, and the index of that direction.

    Args:
        projected_x: [K, N].
        projected_y: [K, N].
        p: Order of the distance, at least 1.
    """
    # Two sorts, not one of a stack: torch sorts a flat batch several times faster.
    sorted_x, order_x = projected_x.sort(dim=-1)
    sorted_y, order_y = projected_y.sort(dim=-1)
    differences = sorted_x - sorted_y
    costs = power_mean(differences, p)
    index = costs.argmax()
    # Selecting by tensor: indexing would ask the device for the number and wait for it.
    chosen, cost, ranks_x, ranks_y = (
        values.index_select(0, index.reshape(1)).squeeze(0)
        for values in (differences, costs, order_x, order_y)
    )
    pull = derivative(chosen, cost, p)
    pull_x = torch.empty_like(pull).scatter_(0, ranks_x, pull)
    pull_y = torch.empty_like(pull).scatter_(0, ranks_y, -pull)
    return Matching(cost, pull_x, pull_y), index


def power_mean(differences: Tensor, p: float) -> Tensor:
    """(mean |d|^p)^(1/p) over the last axis."""
    if p == 1:
        return differences.abs().mean(-1)
    if p == 2:
        return differences.square().mean(-1).sqrt()
    return differences.abs().pow(p).mean(-1).pow(1 / p)


def derivative(differences: Tensor, cost: Tensor, p: float) -> Tensor:
    """Derivative of `power_mean` by the differences [..., N], given its value [...]; zero where that is zero."""
    scale = cost.unsqueeze(-1)
    # Dividing before taking the power keeps tiny distances exact; the guard keeps 0 / 0 out of the gradient.
    ratio = torch.where(scale > 0, differences / torch.where(scale > 0, scale, 1), 0)
    if p == 2:
        return ratio / differences.shape[-1]
    return ratio.sign() * ratio.abs().pow(p - 1) / differences.shape[-1]
