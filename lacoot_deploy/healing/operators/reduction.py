"""Operators that bring axes down to one number: sums, means, extremes, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, operator

Axes = tuple[int, ...]


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=True)
    return x if keep else x.squeeze(tuple(axes))


_REDUCE: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep).to(x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
}


@operator(*_REDUCE, host=(1,))
def reduce(call: Call) -> Run:
    """A reduction over stated axes, all of them where none is stated."""
    fold, keep = _REDUCE[call.op], bool(call.integer("keepdims", 1))
    idle, read = bool(call.integer("noop_with_empty_axes", 0)), call.reader(1, "axes")

    def run(x: Tensor, *rest: Any) -> Tensor:
        axes = read((x, *rest))
        if not axes:
            if idle:
                # Each entry is reduced by itself: its absolute value, its square.
                return fold(x.unsqueeze(-1), (-1,), False)
            axes = tuple(range(x.ndim))
        if x.ndim == 0:
            return x
        if x.dtype == torch.bool:
            return (x.any if call.op == "ReduceMax" else x.all)(axes, keep)
        return fold(x, axes, keep)

    return run


@operator("CumSum", host=(1,))
def cumulative_sum(call: Call) -> Run:
    """Running sums along an axis, in either direction, the own entry included or not."""
    exclusive, reverse = bool(call.integer("exclusive", 0)), bool(call.integer("reverse", 0))
    read = call.reader(1)

    def run(x: Tensor, *rest: Any) -> Tensor:
        axis = (read((x, *rest)) or (0,))[0]
        y = x.flip(axis) if reverse else x
        total = y.cumsum(axis).to(x.dtype)
        total = total - y if exclusive else total
        return total.flip(axis) if reverse else total

    return run


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> Run:
    """Along one axis; before operator set 13 over all axes from `axis` on."""
    old = call.version < 13
    axis = call.integer("axis", 1 if old else -1)
    run = _SOFTMAX[call.op]
    if not old:
        return lambda x: run(x, axis)

    def flat(x: Tensor) -> Any:
        at = axis % x.ndim
        if at == x.ndim - 1:
            return run(x, -1)
        return run(x.reshape(math.prod(x.shape[:at]), -1), -1).reshape(x.shape)

    return flat


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


_SOFTMAX: dict[str, Run] = {
    "Softmax": torch.softmax,
    "LogSoftmax": torch.log_softmax,
    "Hardmax": _hardmax,
}
