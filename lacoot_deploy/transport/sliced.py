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
    ordered, order = torch.stack((projected_x, projected_y)).sort(dim=-1)
    costs = power_mean(ordered[0] - ordered[1], p)
    index = costs.argmax()
    chosen, ranks = ordered[:, index], order[:, index]
    pull = derivative(chosen[0] - chosen[1], costs[index], p)
    pulls = torch.empty_like(chosen).scatter_(1, ranks, torch.stack((pull, -pull)))
    return Matching(costs[index], pulls[0], pulls[1]), index


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
