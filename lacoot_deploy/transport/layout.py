"""Samples as rows: any tensor [N, ...] becomes a matrix [N, features], without copying where that is possible.

Every distance here is the same for any order of the features, as long as both arguments use one order. So a
channels_last tensor is read in the order in which it lies in memory instead of being copied into another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lacoot_deploy.errors import UsageError


def check_pair(x: Tensor, y: Tensor) -> None:
    """Refuse a pair of tensors that are not samples of one space.

    Raises:
        UsageError: Shapes or devices differ, there is no sample or no feature, or they are not floating point.
    """
    if x.shape != y.shape:
        raise UsageError(
            f"The distance compares equally many samples of one shape, but x is {tuple(x.shape)} and y is "
            f"{tuple(y.shape)}."
        )
    if x.dim() < 1 or x.numel() == 0:
        raise UsageError(
            f"The distance needs at least one sample with one feature, but x is {tuple(x.shape)}."
        )
    if not (x.is_floating_point() and y.is_floating_point()):
        raise UsageError(f"The distance needs floating-point tensors, but x is {x.dtype} and y is {y.dtype}.")
    if x.device != y.device:
        raise UsageError(
            f"The distance needs both tensors on one device, but x is on {x.device}, y on {y.device}."
        )


def as_rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """View two tensors [N, ...] of equal shape as matrices [N, features], features of both in one order.

    The order is that of x's memory. y is copied only where its memory order is another.
    """
    order = memory_order(x)
    return rows_in(x, order), rows_in(y, order)


def memory_order(x: Tensor) -> list[int]:
    """The axes of [N, ...] in which each sample lies in memory, the fastest last."""
    return [0, *sorted(range(1, x.dim()), key=x.stride, reverse=True)]


def rows_in(x: Tensor, order: list[int]) -> Tensor:
    """View a tensor [N, ...] as a matrix [N, features], with the features in that order of axes."""
    return x[:, None] if x.dim() == 1 else x.permute(order).flatten(1)


def from_rows(rows: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """What `rows_in` made rows of: a view of that shape, in the memory of the rows."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return rows.view([shape[axis] for axis in order]).permute(back)


def thin_out(x: Tensor, stride: int) -> Tensor:
    """Every stride-th position along each axis from the third on; a view."""
    return x if stride == 1 else x[(slice(None), slice(None), *[slice(None, None, stride)] * (x.dim() - 2))]


def accumulation_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """The type to compute in: float64 where an argument is, float32 for everything narrower."""
    return torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
