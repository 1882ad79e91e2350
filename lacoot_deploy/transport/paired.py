"""Distances that compare each sample with itself after the block.

Equal distributions are not equal tensors: shuffled samples have a Wasserstein distance of zero. These see it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lacoot_deploy.transport.layout import accumulation_dtype, as_rows, check_pair


def paired_distance(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(mean ||y - x||^2) / sqrt(mean ||x||^2): the block's change relative to its input.

    Args:
        x: [N, ...], the block's input.
        y: Same shape, its output.

    Returns:
        A scalar without unit, float32 or float64; 0 where both are zero, infinite where only x is.

    Raises:
        UsageError: Shapes differ.
    """
    check_pair(x, y)
    dtype = accumulation_dtype(x, y)
    change = (y.to(dtype) - x.to(dtype)).square().sum()
    size = x.to(dtype).square().sum()
    return _safe_sqrt(change / torch.where((size > 0) | (change > 0), size, 1))


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """1 - mean cosine between each sample and its image (ShortGPT, arXiv 2403.03853), from 0 to 2.

    A sample that is zero on both sides counts as unchanged, one that is zero on one side as orthogonal.

    Args:
        x: Samples, [N, ...].
        y: Their images, of the same shape.

    Raises:
        UsageError: Shapes differ.
    """
    check_pair(x, y)
    dtype = accumulation_dtype(x, y)
    rows_x, rows_y = (rows.to(dtype) for rows in as_rows(x, y))
    xx, yy, xy = rows_x.square().sum(1), rows_y.square().sum(1), (rows_x * rows_y).sum(1)
    product = _safe_sqrt(xx) * _safe_sqrt(yy)
    both_zero = ((xx == 0) & (yy == 0)).to(dtype)
    cosine = torch.where(product > 0, xy / torch.where(product > 0, product, 1), both_zero)
    return 1 - cosine.mean()


def _safe_sqrt(value: Tensor) -> Tensor:
    """Square root whose gradient at zero is zero."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1).sqrt(), 0)
