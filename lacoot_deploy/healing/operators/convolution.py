"""Convolutions and pooling over one to three axes of space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, UnknownOperatorError, operator

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _spread(values: Sequence[int] | None, rank: int, default: int) -> tuple[int, ...]:
    return tuple(values) if values else (default,) * rank


def paddings(call: Call, space: Sequence[int], window: Sequence[int]) -> list[tuple[int, int]]:
    """Entries that are added before and behind each axis of space.

    Args:
        call: The node.
        space: Sizes of the input's axes of space.
        window: Sizes of the window, dilation included.
    """
    rank, mode = len(window), call.text("auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0)] * rank
    if mode.startswith("SAME"):
        strides, found = _spread(call.integers("strides"), rank, 1), []
        for size, reach, stride in zip(space, window, strides, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return found
    pads = _spread(call.integers("pads"), 2 * rank, 0)
    return [(pads[i], pads[i + rank]) for i in range(rank)]


def _flat(ends: Sequence[tuple[int, int]]) -> list[int]:
    """Paddings as PyTorch's `pad` wants them: the last axis first."""
    return [size for pair in reversed(ends) for size in pair]


@operator("Conv", weights=(1, 2))
def conv(call: Call) -> Run:
    """A convolution; unequal paddings are added before it."""
    groups = call.integer("group", 1)
    automatic = call.text("auto_pad", "NOTSET").startswith("SAME")
    pads = call.integers("pads") or ()
    even = not automatic and pads[: len(pads) // 2] == pads[len(pads) // 2 :]

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        strides = _spread(call.integers("strides"), rank, 1)
        dilations = _spread(call.integers("dilations"), rank, 1)
        if even:
            return _CONV[rank](x, w, b, strides, pads[:rank] or 0, dilations, groups)
        window = [(size - 1) * step + 1 for size, step in zip(w.shape[2:], dilations, strict=True)]
        ends = paddings(call, x.shape[2:], window)
        return _CONV[rank](F.pad(x, _flat(ends)), w, b, strides, 0, dilations, groups)

    if not even:
        return run
    known = call.integers("strides") or call.integers("dilations") or call.integers("kernel_shape") or pads
    rank = len(pads) // 2 if known is pads else len(known)
    if rank not in _CONV:
        return run
    function, strides = _CONV[rank], _spread(call.integers("strides"), rank, 1)
    padding, dilations = pads[:rank] or (0,) * rank, _spread(call.integers("dilations"), rank, 1)
    return lambda x, w, b=None: function(x, w, b, strides, padding, dilations, groups)


@operator("ConvTranspose", weights=(1, 2))
def conv_transpose(call: Call) -> Run:
    """A transposed convolution, cut to the stated paddings or output shape."""
    groups = call.integer("group", 1)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        strides = _spread(call.integers("strides"), rank, 1)
        dilations = _spread(call.integers("dilations"), rank, 1)
        extra = _spread(call.integers("output_padding"), rank, 0)
        window = [(size - 1) * step + 1 for size, step in zip(w.shape[2:], dilations, strict=True)]
        full = [(x.shape[2 + i] - 1) * strides[i] + window[i] + extra[i] for i in range(rank)]
        ends = _transposed_ends(call, x.shape[2:], strides, full)
        y = _TRANSPOSED[rank](x, w, None, strides, 0, 0, groups, dilations)
        y = F.pad(
            y, _flat([(-before, grown - behind) for (before, behind), grown in zip(ends, extra, strict=True)])
        )
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    return run


def _transposed_ends(
    call: Call, space: Sequence[int], strides: Sequence[int], full: Sequence[int]
) -> list[tuple[int, int]]:
    """Entries that are taken away at both ends of each axis of a full transposed convolution."""
    mode, wanted = call.text("auto_pad", "NOTSET"), call.integers("output_shape")
    if wanted is None and mode.startswith("SAME"):
        wanted = tuple(size * stride for size, stride in zip(space, strides, strict=True))
    if wanted is None:
        pads = _spread(call.integers("pads"), 2 * len(full), 0)
        return [(pads[i], pads[i + len(full)]) for i in range(len(full))]
    found = []
    for size, target in zip(full, wanted[-len(full) :], strict=True):
        total = size - target
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return found


def _ceiling(
    space: Sequence[int], window: Sequence[int], strides: Sequence[int], ends: Sequence[tuple[int, int]]
) -> list[int]:
    """Entries to add behind each axis so that the last, incomplete window counts, as `ceil_mode` asks for.

    A window that would start behind the input and its padding is left out, as ONNX Runtime does.
    """
    found = []
    for size, reach, stride, (before, behind) in zip(space, window, strides, ends, strict=True):
        padded = size + before + behind
        count = math.ceil((padded - reach) / stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        found.append(max((count - 1) * stride + reach - padded, 0))
    return found


@operator("MaxPool")
def max_pool(call: Call) -> Run:
    """The largest entry of each window."""
    if call.wants(1):
        raise UnknownOperatorError("that gives the places of the largest entries")
    kernel = call.integers("kernel_shape") or ()
    rank = len(kernel)
    strides, dilations = (
        _spread(call.integers("strides"), rank, 1),
        _spread(call.integers("dilations"), rank, 1),
    )
    window = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    ceil = bool(call.integer("ceil_mode", 0))

    def run(x: Tensor) -> Any:
        ends = paddings(call, x.shape[2:], window)
        if not ceil and all(a == b and 2 * a <= k for (a, b), k in zip(ends, kernel, strict=True)):
            return _MAX[rank](x, kernel, strides, [a for a, _ in ends], dilations)
        more = _ceiling(x.shape[2:], window, strides, ends) if ceil else [0] * rank
        widened = [(a, b + c) for (a, b), c in zip(ends, more, strict=True)]
        return _MAX[rank](F.pad(x, _flat(widened), value=-math.inf), kernel, strides, 0, dilations)

    return run


@operator("AveragePool")
def average_pool(call: Call) -> Run:
    """The mean of each window, with or without its padding."""
    kernel = call.integers("kernel_shape") or ()
    rank = len(kernel)
    strides, dilations = (
        _spread(call.integers("strides"), rank, 1),
        _spread(call.integers("dilations"), rank, 1),
    )
    if any(step != 1 for step in dilations):
        raise UnknownOperatorError("with dilations")
    ceil, counted = bool(call.integer("ceil_mode", 0)), bool(call.integer("count_include_pad", 0))

    def run(x: Tensor) -> Tensor:
        ends = paddings(call, x.shape[2:], kernel)
        more = _ceiling(x.shape[2:], kernel, strides, ends) if ceil else [0] * rank
        if not any(more) and all(a == b and 2 * a <= k for (a, b), k in zip(ends, kernel, strict=True)):
            return _MEAN[rank](x, kernel, strides, [a for a, _ in ends], False, counted)
        ones = torch.ones_like(x[:1, :1])
        inner = F.pad(ones, _flat(ends), value=1.0 if counted else 0.0)
        behind = [(0, size) for size in more]
        y = _MEAN[rank](F.pad(F.pad(x, _flat(ends)), _flat(behind)), kernel, strides)
        return y / _MEAN[rank](F.pad(inner, _flat(behind)), kernel, strides)

    return run


@operator("LpPool")
def lp_pool(call: Call) -> Run:
    """The p-norm of each window."""
    kernel, p = call.integers("kernel_shape") or (), call.integer("p", 2)
    rank = len(kernel)
    strides = _spread(call.integers("strides"), rank, 1)

    def run(x: Tensor) -> Tensor:
        padded = F.pad(x.abs() ** p, _flat(paddings(call, x.shape[2:], kernel)))
        return (_MEAN[rank](padded, kernel, strides) * math.prod(kernel)) ** (1.0 / p)

    return run


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(call: Call) -> Run:
    """One number a channel."""
    p = call.integer("p", 2)

    def run(x: Tensor) -> Any:
        axes = tuple(range(2, x.ndim))
        if call.op == "GlobalAveragePool":
            return x.mean(axes, keepdim=True)
        if call.op == "GlobalMaxPool":
            return x.amax(axes, keepdim=True)
        return torch.linalg.vector_norm(x, p, axes, keepdim=True)

    return run
