"""Exact products of linear operators, on weights alone: fully connected layers, convolutions, maps per channel.

A convolution gives h[m, i] = b[m] + sum over c and t of w[m, c, t] x[c, i s - p + t d]. Feeding it into another
(w', b', s', p', d') gives, wherever h is only read where it exists,

    y[o, i] = b'' + sum w''[o, c, u] x[c, i s s' - (p + p' s) + u g],

with taps u g = t' d' s + t d, so one convolution of stride s s', padding p + p' s, dilation g = gcd(d, d' s) and
kernel size ((k - 1) d + (k' - 1) d' s) / g + 1; its output has the same size whatever rounding the strides do. At the
border the second convolution reads zeros where the formula above reads h beyond its ends: see `border_problem`.

Everything is worked out in double precision and stored in the type asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

_ROWS = 1024
"""Rows of a product that are held in double precision at a time."""


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input, per spatial axis.

    Attributes:
        kernel: Taps.
        strides: Steps of the output on the input.
        begin: Zeros before the input.
        end: Zeros behind it.
        dilations: Steps between taps.
        groups: Parts of the channels that do not mix.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1

    @property
    def padded(self) -> bool:
        """Whether it reads zeros around its input."""
        return any(self.begin) or any(self.end)

    @property
    def pointwise(self) -> bool:
        """Whether every output position is a mix of the channels at the input position of the same number."""
        ones = (1,) * len(self.kernel)
        return self.kernel == ones and self.strides == ones and not self.padded

    def reach(self, axis: int) -> int:
        """Distance between the first and the last tap."""
        return (self.kernel[axis] - 1) * self.dilations[axis]

    def output_size(self, axis: int, size: int) -> int:
        """Length of the output along an axis for an input of that length."""
        room = size + self.begin[axis] + self.end[axis] - self.reach(axis) - 1
        return room // self.strides[axis] + 1


@dataclass(frozen=True)
class BorderProblem:
    """Why two convolutions in a row are not one: what the second reads beyond the ends of the first's output.

    Attributes:
        bias: Whether it would read the first one's bias where it now reads zero.
        window: Whether it would read sums that reach into the first one's input where it now reads zero.
        axes: Spatial axes concerned, counted from 0.
    """

    bias: bool
    window: bool
    axes: tuple[int, ...]


def compose_geometry(first: Geometry, second: Geometry) -> Geometry:
    """The movement of two convolutions in a row as one; groups are the coarsest that both respect."""
    kernel, dilations = [], []
    for axis in range(len(first.kernel)):
        steps = [
            step
            for step, taps in (
                (first.dilations[axis], first.kernel[axis]),
                (second.dilations[axis] * first.strides[axis], second.kernel[axis]),
            )
            if taps > 1
        ]
        dilation = gcd(*steps) if steps else 1
        reach = first.reach(axis) + second.reach(axis) * first.strides[axis]
        kernel.append(reach // dilation + 1)
        dilations.append(dilation)
    return Geometry(
        kernel=tuple(kernel),
        strides=tuple(a * b for a, b in zip(first.strides, second.strides, strict=True)),
        begin=_padding(first.begin, second.begin, first.strides),
        end=_padding(first.end, second.end, first.strides),
        dilations=tuple(dilations),
        groups=gcd(first.groups, second.groups),
    )


def _padding(first: tuple[int, ...], second: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b * step for a, b, step in zip(first, second, strides, strict=True))


def border_problem(
    first: Geometry, second: Geometry, *, biased: bool, sizes: tuple[int | None, ...]
) -> BorderProblem | None:
    """What keeps two convolutions from being exactly one; None where nothing does.

    The second reads h at -1, -2, ... and at L, L + 1, ... of h's length L only in its padding. Those reads are zero in
    the merged convolution as well if the first one's window lies wholly outside its input there, and no bias is added.

    Args:
        first: The convolution that runs first.
        second: The one that reads its output.
        biased: Whether a bias of the first reaches the second's output.
        sizes: Spatial sizes of the first's input, None where unknown.
    """
    window, read = [], []
    for axis, size in enumerate(sizes):
        before, behind = second.begin[axis], second.end[axis]
        rest = first.strides[axis] - 1
        if size is not None:
            inner = first.output_size(axis, size)
            last = (second.output_size(axis, inner) - 1) * second.strides[axis] + second.reach(axis)
            behind = min(behind, max(0, last - second.begin[axis] - inner + 1))
            room = size + first.begin[axis] + first.end[axis] - first.reach(axis) - 1
            rest = room % first.strides[axis]
        reach, step = first.reach(axis), first.strides[axis]
        if (before and reach >= step + first.begin[axis]) or (
            behind and reach >= step - rest + first.end[axis]
        ):
            window.append(axis)
        if before or behind:
            read.append(axis)
    bias = biased and bool(read)
    if not window and not bias:
        return None
    return BorderProblem(bias=bias, window=bool(window), axes=tuple(window or read))


def compose_convolutions(
    first: Floats, geometry: Geometry, second: Floats, next_geometry: Geometry
) -> NDArray[np.float64]:
    """Weights of two convolutions in a row as one of geometry `compose_geometry`.

    Args:
        first: [M, C / groups, *kernel].
        geometry: Of the first.
        second: [O, M / groups, *kernel].
        next_geometry: Of the second.

    Returns:
        float64 [O, C / g, *kernel], g the merged groups.
    """
    merged = compose_geometry(geometry, next_geometry)
    groups = merged.groups
    before = _in_groups(first.astype(np.float64), geometry.groups, groups)
    after = _in_groups(second.astype(np.float64), next_geometry.groups, groups)
    result = np.zeros((groups, after.shape[1], before.shape[2], *merged.kernel))
    steps = [d // g for d, g in zip(geometry.dilations, merged.dilations, strict=True)]
    jumps = [
        d * s // g
        for d, s, g in zip(next_geometry.dilations, geometry.strides, merged.dilations, strict=True)
    ]
    whole: tuple[Any, ...] = (slice(None),) * 3
    for tap in product(*(range(k) for k in next_geometry.kernel)):
        place = tuple(
            slice(t * jump, t * jump + (k - 1) * max(step, 1) + 1, max(step, 1))
            for t, jump, k, step in zip(tap, jumps, geometry.kernel, steps, strict=True)
        )
        part = after[(*whole, *tap)] @ before.reshape(*before.shape[:2], -1)
        result[(*whole, *place)] += part.reshape(groups, -1, *before.shape[2:])
    return result.reshape(-1, *result.shape[2:])


def _in_groups(weight: NDArray[np.float64], groups: int, wanted: int) -> NDArray[np.float64]:
    """Weights [O, C / groups, ...] as [wanted, O / wanted, C / wanted, ...], zeros between the finer groups."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    inside = groups // wanted
    parts = weight.reshape(wanted, inside, outputs, inputs, *weight.shape[2:])
    dense = np.zeros((wanted, inside, outputs, inside, inputs, *weight.shape[2:]))
    for group in range(inside):
        dense[:, group, :, group] = parts[:, group]
    return dense.reshape(wanted, inside * outputs, inside * inputs, *weight.shape[2:])


def bias_through_convolution(bias: Floats, weight: Floats, groups: int) -> NDArray[np.float64]:
    """What a constant [C] on the input of an unpadded convolution adds to its output, [O]."""
    taps = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).sum(-1)
    parts = np.broadcast_to(np.asarray(bias, np.float64), (groups * weight.shape[1],)).reshape(groups, -1)
    return np.asarray(np.einsum("goc,gc->go", taps, parts)).reshape(-1)


def reaches_output(bias: Floats, weight: Floats, groups: int) -> bool:
    """Whether a constant [C] on the input of a convolution meets any weight that is not zero."""
    live = (weight != 0).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).any(axis=(1, 3))
    full = np.broadcast_to(np.asarray(bias), (live.size,))
    return bool((full[live.reshape(-1)] != 0).any())


def scale_outputs(weight: Floats, scale: Floats) -> NDArray[np.float64]:
    """Weights [O, ...] with every output scaled by its entry of [O] or [1]."""
    rows = np.broadcast_to(np.asarray(scale, np.float64), (len(weight),))
    return np.asarray(weight.astype(np.float64) * rows.reshape(-1, *([1] * (weight.ndim - 1))))


def scale_inputs(weight: Floats, scale: Floats, groups: int) -> NDArray[np.float64]:
    """Convolution weights [O, C / groups, ...] with every input channel scaled by its entry of [C] or [1]."""
    inputs = weight.shape[1]
    columns = np.broadcast_to(np.asarray(scale, np.float64), (groups * inputs,)).reshape(groups, 1, inputs, 1)
    parts = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, inputs, -1)
    return np.asarray((parts * columns).reshape(weight.shape))


def product_of(first: Floats, second: Floats, dtype: Any) -> Floats:
    """The product of two matrices [K, H] and [H, N], summed in double precision, in the type asked for.

    Rows are taken some at a time: a classifier's first matrix can be the largest thing in a network.
    """
    result = np.empty((first.shape[0], second.shape[1]), dtype=dtype)
    right = second.astype(np.float64)
    with np.errstate(over="ignore"):
        for start in range(0, len(first), _ROWS):
            result[start : start + _ROWS] = first[start : start + _ROWS].astype(np.float64) @ right
    return result


def pointwise_through_positions(
    weight: Floats, groups: int, matrix: Floats, positions: int
) -> NDArray[np.float64]:
    """A 1x1 convolution [M, C / groups] before a matrix on flattened features, as one matrix.

    Args:
        weight: [M, C / groups, 1, ...].
        groups: Of the convolution.
        matrix: [M * positions, N], channels outermost, as flattening leaves them.
        positions: Spatial positions per channel.

    Returns:
        float64 [C * positions, N].
    """
    dense = _in_groups(weight.astype(np.float64), groups, 1)[0].reshape(weight.shape[0], -1)
    cube = matrix.astype(np.float64).reshape(weight.shape[0], positions, -1)
    return np.asarray(np.einsum("mc,mpn->cpn", dense, cube, optimize=True)).reshape(-1, cube.shape[2])
