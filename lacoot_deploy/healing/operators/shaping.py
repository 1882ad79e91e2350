"""Operators that move entries about: shapes, joins, cuts and paddings."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, UnknownOperatorError, operator, tensor_of


@operator("Reshape", host=(1,))
def reshape(call: Call) -> Run:
    """A new shape, in which 0 keeps a size and -1 takes the rest."""
    read, literal = call.reader(1, "shape"), bool(call.integer("allowzero", 0))

    def run(x: Tensor, *rest: Any) -> Tensor:
        shape = read((x, *rest)) or ()
        if not literal and 0 in shape:
            shape = tuple(x.shape[i] if size == 0 else size for i, size in enumerate(shape))
        return x.reshape(shape)

    return run


@operator("Transpose")
def transpose(call: Call) -> Run:
    """Axes in another order; reversed where none is given."""
    order = call.integers("perm")
    return lambda x: x.permute(order if order is not None else tuple(range(x.ndim))[::-1])


@operator("Flatten")
def flatten(call: Call) -> Run:
    """Two axes: what lies before `axis`, and the rest."""
    axis = call.integer("axis", 1)

    def run(x: Tensor) -> Tensor:
        at = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:at]), -1) if x.numel() else x.reshape(math.prod(x.shape[:at]), 0)

    return run


@operator("Squeeze", host=(1,))
def squeeze(call: Call) -> Run:
    """Axes of size 1 go."""
    read = call.reader(1, "axes")

    def run(x: Tensor, *rest: Any) -> Tensor:
        axes = read((x, *rest))
        return x.squeeze() if axes is None else x.squeeze(axes)

    return run


@operator("Unsqueeze", host=(1,))
def unsqueeze(call: Call) -> Run:
    """Axes of size 1 come, at places of the result."""
    read = call.reader(1, "axes")

    def run(x: Tensor, *rest: Any) -> Tensor:
        axes = read((x, *rest)) or ()
        rank = x.ndim + len(axes)
        for axis in sorted(axis + rank if axis < 0 else axis for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("Concat")
def concat(call: Call) -> Run:
    """Joined along an axis."""
    axis = call.integer("axis", 1)
    return lambda *xs: torch.cat(xs, axis)


@operator("Split", host=(1,))
def split(call: Call) -> Run:
    """Cut along an axis into stated sizes, or into equal ones with a smaller last."""
    axis, count, read = call.integer("axis", 0), len(call.results), call.reader(1, "split")

    def run(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        sizes = read((x, *rest))
        if sizes is None:
            each = -(-x.shape[axis] // count)
            sizes = tuple(min(each, x.shape[axis] - i * each) for i in range(count))
        return torch.split(x, list(sizes), axis)

    return run


@operator("Slice", host=(1, 2, 3, 4))
def slice_(call: Call) -> Run:
    """A range of some axes, with steps of either sign."""
    readers = [
        call.reader(place, name if call.version < 10 else "")
        for place, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    ]

    def run(x: Tensor, *rest: Any) -> Tensor:
        starts, ends, axes, steps = (read((x, *rest)) for read in readers)
        starts, ends = starts or (), ends or ()
        for i, axis in enumerate(axes if axes is not None else range(len(starts))):
            step = 1 if steps is None else steps[i]
            first, last, step = slice(starts[i], ends[i], step).indices(x.shape[axis])
            if step > 0:
                x = x[(slice(None),) * (axis % x.ndim) + (slice(first, max(first, last), step),)]
            else:
                chosen = torch.arange(first, last, step, device=x.device)
                x = x.index_select(axis, chosen)
        return x

    return run


@operator("Expand", host=(1,))
def expand(call: Call) -> Run:
    """Broadcast with a shape."""
    read = call.reader(1)

    def run(x: Tensor, *rest: Any) -> Tensor:
        return x.expand(*_broadcast(tuple(x.shape), read((x, *rest)) or ()))

    return run


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    return tuple(y if x == 1 else x for x, y in pairs)


@operator("Tile", host=(1,))
def tile(call: Call) -> Run:
    """Repeated along every axis."""
    read = call.reader(1)
    return lambda x, *rest: x.repeat(read((x, *rest)) or ())


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad", host=(1, 2, 3))
def pad(call: Call) -> Run:
    """Entries added (or, where negative, taken away) at the ends of axes."""
    mode, name = call.text("mode", "constant"), "pads" if call.version >= 2 else "paddings"
    read, read_axes = call.reader(1, name), call.reader(3)
    if mode not in _PAD_MODES:
        raise UnknownOperatorError(f"of mode {mode}")
    fixed = call.number("value", 0.0)

    def run(x: Tensor, *rest: Any) -> Tensor:
        pads, axes = read((x, *rest)) or (), read_axes((x, *rest))
        value = rest[1].item() if len(rest) > 1 and rest[1] is not None else fixed
        ends = [(0, 0)] * x.ndim
        chosen = axes if axes is not None else range(x.ndim)
        for i, axis in enumerate(chosen):
            ends[axis] = (pads[i], pads[i + len(pads) // 2])
        if mode == "constant":
            return F.pad(x, [size for pair in ends[::-1] for size in pair], value=value)
        return _pad_by_index(x, ends, mode)

    return run


def _pad_by_index(x: Tensor, ends: list[tuple[int, int]], mode: str) -> Tensor:
    """Reflected, repeated or wrapped borders of any axis, by reading entries again."""
    for axis, (before, after) in enumerate(ends):
        if before == after == 0:
            continue
        size = x.shape[axis]
        places = torch.arange(-before, size + after, device=x.device)
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "wrap":
            places = places.remainder(size)
        else:
            period = max(2 * size - 2, 1)
            places = places.remainder(period)
            places = torch.where(places < size, places, period - places)
        x = x.index_select(axis, places)
    return x


@operator("Shape")
def shape(call: Call) -> Run:
    """The sizes, kept on the host."""
    start, end = call.integer("start", 0), call.attributes.get("end")
    stop = None if end is None else int(end)
    return lambda x: torch.tensor(tuple(x.shape)[start:stop], dtype=torch.int64)


@operator("Size")
def size(call: Call) -> Run:
    """The number of entries, kept on the host."""
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(call: Call) -> Run:
    """One value everywhere."""
    value = call.attributes.get("value")
    entry = torch.zeros(1) if value is None else tensor_of(value).reshape(-1)
    read = call.reader(0)
    return lambda *rest: torch.full(read(rest) or (), entry[0].item(), dtype=entry.dtype)


@operator("Constant")
def constant(call: Call) -> Run:
    """The value of the node's attribute."""
    import numpy as np

    for name, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in call.attributes:
            value = tensor_of(np.asarray(call.attributes[name], dtype=dtype))
            return lambda: value
    raise UnknownOperatorError("of a text or a sparse tensor")


@operator("Range", host=(0, 1, 2))
def range_(call: Call) -> Run:
    """Numbers from a start up to a limit."""

    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)

    return run


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Run:
    """Channels to pixels."""
    block, first = call.integer("blocksize", 1), call.text("mode", "DCR") == "DCR"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if not first:
            return F.pixel_shuffle(x, block)
        y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(n, c // block**2, h * block, w * block)

    return run


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Run:
    """Pixels to channels."""
    block = call.integer("blocksize", 1)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(n, c * block**2, h // block, w // block)

    return run


@operator("Trilu", host=(1,))
def trilu(call: Call) -> Run:
    """The upper or the lower triangle of matrices."""
    upper, read = bool(call.integer("upper", 1)), call.reader(1)
    half = torch.triu if upper else torch.tril
    return lambda x, *rest: half(x, (read((x, *rest)) or (0,))[0])


@operator("EyeLike")
def eye_like(call: Call) -> Run:
    """Ones on a diagonal."""
    k = call.integer("k", 0)

    def run(x: Tensor) -> Tensor:
        ones = torch.ones(x.shape, device=x.device, dtype=torch.bool)
        return (ones.triu(k) & ones.tril(k)).to(x.dtype)

    return run
