"""One-dimensional optimal transport between projected samples, for many directions at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """The optimal matching of two projected samples along one direction; fields may share leading axes.

    Attributes:
        value: W_p, a scalar.
        pulls: [2, N], the derivative of W_p by the projections of x and of y; zero where W_p is zero. Leading axes
            that both fields share come between the two.
    """

    value: Tensor
    pulls: Tensor


def best_matching(projected: Tensor, p: float) -> tuple[Matching, Tensor]:
    """The matching along the direction with the largest W_p, and the index of that direction.

    Args:
        projected: [2, ..., K, N], the projections of x and of y on K directions.
        p: Order of the distance, at least 1.
    """
    ordered, order = _sort(projected)
    differences = ordered[0] - ordered[1]
    value, index = power_mean(differences, p).max(dim=-1)
    # Gathering, not indexing: an index would have to be known to the host, which would wait for the device.
    chosen = index[..., None, None].expand(*index.shape, 1, projected.shape[-1])
    pull = derivative(differences.gather(-2, chosen).squeeze(-2), value, p)
    both = chosen.expand(2, *chosen.shape)
    winner = (projected if order is None else order).gather(-2, both).squeeze(-2)
    if order is None:
        winner = winner.argsort()
    signed = torch.stack((pull, -pull))
    return Matching(value, torch.empty_like(signed).scatter_(-1, winner, signed)), index


def _sort(projected: Tensor) -> tuple[Tensor, Tensor | None]:
    """Sort the last axis; the order is None on the CPU.

    There numpy sorts, and without the order, which only the winner needs, it is 5 times faster.
    """
    if launches_count(projected.device):
        ordered, order = projected.sort(dim=-1)
        return ordered, order
    return torch.from_numpy(np.sort(projected.numpy(), axis=-1)), None


def launches_count(device: torch.device) -> bool:
    """Whether a small operation costs more to start than to run, so that few are better than cheap ones."""
    return device.type != "cpu"


def power_mean(differences: Tensor, p: float) -> Tensor:
    """(mean |d|^p)^(1/p) over the last axis."""
    if p == 1:
        return differences.abs().mean(-1)
    if p == 2:
        length: Tensor = torch.linalg.vector_norm(differences, dim=-1)
        return length / math.sqrt(differences.shape[-1])
    return differences.abs().pow(p).mean(-1).pow(1 / p)


def derivative(differences: Tensor, cost: Tensor, p: float) -> Tensor:
    """Derivative of `power_mean` by the differences [..., N], given its value [...]; zero where that is zero.

    With d_i the differences and W their power mean it is sign(d_i) (|d_i| / W)^(p-1) / N.
    """
    scale = cost.unsqueeze(-1)
    if p == 2:
        return differences / (scale * differences.shape[-1]).clamp_min(torch.finfo(scale.dtype).tiny)
    # Dividing before taking the power keeps tiny distances exact; the guard keeps 0 / 0 out of the gradient.
    ratio = torch.where(scale > 0, differences / torch.where(scale > 0, scale, 1), 0)
    return ratio.sign() * ratio.abs().pow(p - 1) / differences.shape[-1]
