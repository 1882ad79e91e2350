"""Operators that pick entries by where they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, UnknownOperatorError, operator


@operator("Gather", weights=(0,))
def gather(call: Call) -> Run:
    """Slices of one axis; negative places count from the end."""
    axis = call.integer("axis", 0)

    def run(x: Tensor, places: Tensor) -> Tensor:
        places = torch.where(places < 0, places + x.shape[axis], places).to(torch.int64)
        if axis == 0 and x.ndim == 2 and x.is_floating_point() and places.ndim:
            return F.embedding(places, x)
        at = axis % x.ndim
        picked = x.index_select(at, places.reshape(-1))
        return picked.reshape((*x.shape[:at], *places.shape, *x.shape[at + 1 :]))

    return run


@operator("GatherElements")
def gather_elements(call: Call) -> Run:
    """Entry by entry along one axis."""
    axis = call.integer("axis", 0)

    def run(x: Tensor, places: Tensor) -> Tensor:
        return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places).to(torch.int64))

    return run


def _positions(x: Tensor, places: Tensor, batch: int = 0) -> tuple[Tensor, ...]:
    """The last axis of `places` as one index tensor for each axis of x behind the batch axes."""
    sizes = torch.tensor(x.shape[batch : batch + places.shape[-1]], device=places.device)
    places = torch.where(places < 0, places + sizes, places).to(torch.int64)
    own = places.unbind(-1)
    if not batch:
        return own
    shape = places.shape[:-1]
    grids = []
    for axis in range(batch):
        view = [1] * len(shape)
        view[axis] = shape[axis]
        grids.append(torch.arange(shape[axis], device=places.device).reshape(view).expand(shape))
    return (*grids, *own)


@operator("GatherND")
def gather_nd(call: Call) -> Run:
    """Slices by the coordinates of their start."""
    batch = call.integer("batch_dims", 0)
    return lambda x, places: x[_positions(x, places, batch)]


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterND")
def scatter_nd(call: Call) -> Run:
    """A copy with slices replaced, or added to."""
    reduction = call.text("reduction", "none")
    if reduction not in ("none", "add"):
        raise UnknownOperatorError(f"with reduction {reduction}")

    def run(x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
        where = _positions(x, places.to(x.device))
        return x.index_put(where, updates.to(x.device), accumulate=reduction == "add")

    return run


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Run:
    """A copy with entries along one axis replaced or combined."""
    axis, reduction = call.integer("axis", 0), call.text("reduction", "none")

    def run(x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
        places = torch.where(places < 0, places + x.shape[axis], places).to(torch.int64)
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])

    return run


@operator("OneHot", host=(1,))
def one_hot(call: Call) -> Run:
    """A new axis that marks a place."""
    axis = call.integer("axis", -1)

    def run(places: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth.reshape(-1)[0])
        places = places.to(torch.int64).remainder(count) if places.numel() else places.to(torch.int64)
        hot = F.one_hot(places, count).to(torch.bool).movedim(-1, axis)
        return torch.where(hot, values[1], values[0])

    return run


@operator("NonZero")
def non_zero(call: Call) -> Run:
    """Coordinates of the entries that are not zero."""
    return lambda x: torch.nonzero(x).T


@operator("Compress")
def compress(call: Call) -> Run:
    """The slices that a condition picks."""
    axis = call.attributes.get("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        at = 0 if axis is None else int(axis)
        x = x.reshape(-1) if axis is None else x
        return x.index_select(at, torch.nonzero(condition).reshape(-1))

    return run


@operator("TopK", host=(1,))
def top_k(call: Call) -> Run:
    """The largest or smallest entries along an axis, with their places."""
    axis, largest, ordered = (
        call.integer("axis", -1),
        bool(call.integer("largest", 1)),
        bool(call.integer("sorted", 1)),
    )
    read = call.reader(1, "k")

    def run(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        values, places = torch.topk(x, (read((x, *rest)) or (1,))[0], axis, largest, ordered)
        return values, places

    return run


@operator("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Run:
    """The place of the largest or smallest entry."""
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    last, find = (
        bool(call.integer("select_last_index", 0)),
        torch.argmax if call.op == "ArgMax" else torch.argmin,
    )

    def run(x: Tensor) -> Tensor:
        if last:
            return x.shape[axis] - 1 - find(x.flip(axis), axis, keep)
        return find(x, axis, keep)

    return run
