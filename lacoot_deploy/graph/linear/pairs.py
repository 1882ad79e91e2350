"""Pairs of linear operators in a row: what the two become, whether exactly, and what both sides take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import lacoot_deploy.graph.linear.algebra as algebra
from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.linear.operators import Connected, Convolution, Operator, PerChannel
from lacoot_deploy.graph.linear.records import Code, Work, reason
from lacoot_deploy.graph.linear.stored import (
    bias_of,
    matrix_of,
    store_convolution,
    store_matrix,
    store_normalisation,
    weight_of,
)
from lacoot_deploy.graph.linear.transit import Way
from lacoot_deploy.graph.model.blocks import Reason

Floats = NDArray[Any]


@dataclass(frozen=True)
class Fusion:
    """What a pair becomes.

    Attributes:
        apply: Writes the merged operator into the graph and gives the node that is left; None where a weight leaves
            the range of its type, in which case nothing is changed.
        before: What the pair takes; None for a fold into an operator that stays as large as it is.
        after: What the merged operator takes; likewise.
        inexact: Why the merge is not exact; None where it is.
        error: Measures what an inexact merge changes; see `MergeRecord.error`.
        counted: Whether the multiply-adds are those of the model; False where only their proportion is known.
    """

    apply: Callable[[], onnx.NodeProto | None]
    before: Work | None = None
    after: Work | None = None
    inexact: Reason | None = None
    error: Callable[[], float] | None = None
    counted: bool = True


def fuse(editor: Editor, first: Operator, second: Operator, way: Way | None) -> Fusion | Reason | None:
    """How two operators in a row become one: a fusion, the reason why not, or None where nothing is meant to.

    Args:
        editor: The model.
        first: The operator that runs first; nothing but the other one reads its result.
        second: The operator that reads it.
        way: What stands between the two; None where nothing does.
    """
    if isinstance(second, PerChannel):
        return _fold_back(editor, first, second) if way is None else None
    if isinstance(second, Connected):
        if second.turned:
            return reason(Code.TRANSPOSED, "The second reads the first's result transposed (transA).")
        if isinstance(first, Connected) and way is None:
            return _connected(editor, first, second)
        if isinstance(first, PerChannel):
            return _scale_into_connected(editor, first, second, way)
        if isinstance(first, Convolution) and way is not None:
            return _pointwise_into_connected(editor, first, second, way)
        return _other_axis(first, second)
    if isinstance(second, Convolution) and way is None:
        if isinstance(first, Convolution):
            return _convolutions(editor, first, second)
        if isinstance(first, PerChannel):
            return _scale_into_convolution(editor, first, second)
        return _other_axis(first, second)
    return None


def _other_axis(first: Operator, second: Operator) -> Reason:
    return reason(
        Code.OTHER_AXIS,
        f"The {first.kind} operator and the {second.kind} one mix the values along different axes.",
    )


def _per_channel_problem(channel: PerChannel, axis: int | None, channels: int) -> Reason | None:
    if channel.axis is not None and (axis is None or channel.axis != axis):
        return reason(
            Code.OTHER_AXIS,
            f"The map per channel runs along axis {channel.axis}, not the operator's channels.",
        )
    if channel.channels not in (1, channels):
        return reason(
            Code.NOT_PER_CHANNEL,
            f"The map has {channel.channels} channels and the operator {channels}.",
        )
    return None


def _fold_back(editor: Editor, first: Operator, second: PerChannel) -> Fusion | Reason | None:
    """A map per channel behind an operator goes into its weights: exact whatever the padding."""
    if isinstance(first, Convolution):
        convolution = first
        problem = _per_channel_problem(second, 1, convolution.outputs)

        def into_convolution() -> onnx.NodeProto | None:
            weight = algebra.scale_outputs(weight_of(editor, convolution), second.scale)
            bias = _filled(bias_of(editor, convolution), convolution.outputs) * second.scale + second.shift
            return store_convolution(
                editor, convolution, weight, _filled(bias, convolution.outputs), output=second.output
            )

        return problem or Fusion(into_convolution)
    if isinstance(first, Connected):
        connected = first
        rank = connected.rank if connected.rank is not None else second.rank
        problem = _per_channel_problem(second, None if rank is None else rank - 1, connected.outputs)

        def into_connected() -> onnx.NodeProto | None:
            weight = matrix_of(editor, connected) * second.scale
            bias = _filled(bias_of(editor, connected), connected.outputs) * second.scale + second.shift
            return store_matrix(
                editor, connected, weight, _filled(bias, connected.outputs), output=second.output
            )

        return problem or Fusion(into_connected)
    if isinstance(first, PerChannel) and first.nodes[0].op_type == "BatchNormalization":
        norm = first
        problem = _per_channel_problem(second, 1, norm.channels)

        def into_normalisation() -> onnx.NodeProto | None:
            return store_normalisation(editor, norm, second)

        return problem or Fusion(into_normalisation)
    return None


def _filled(values: Floats | None, channels: int) -> NDArray[np.float64]:
    """A bias in double precision with one entry per channel; zeros for none."""
    given = np.zeros(1) if values is None else np.asarray(values, np.float64)
    return np.asarray(np.broadcast_to(given, (channels,)), dtype=np.float64)


def _scale_into_convolution(editor: Editor, first: PerChannel, second: Convolution) -> Fusion | Reason:
    """A map per channel before a convolution; its shift would be added to the zeros of a padding as well."""
    problem = _per_channel_problem(first, 1, second.channels)
    if problem is not None:
        return problem
    weight, groups = weight_of(editor, second), second.geometry.groups
    inexact = None
    if second.geometry.padded and algebra.reaches_output(first.shift, weight, groups):
        inexact = reason(
            Code.BORDER_BIAS,
            "The shift before it does not reach the zeros that the convolution is padded with.",
            first.input,
        )

    def merged() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        bias = _filled(bias_of(editor, second), second.outputs)
        return (
            algebra.scale_inputs(weight, first.scale, groups),
            bias + algebra.bias_through_convolution(first.shift, weight, groups),
        )

    def apply() -> onnx.NodeProto | None:
        made, bias = merged()
        return store_convolution(editor, second, made, bias, read=first)

    def error() -> float:
        from lacoot_deploy.graph.linear.reference import relative_change

        made, bias = merged()
        own = _filled(bias_of(editor, second), second.outputs)
        scale, shift = _filled(first.scale, second.channels), _filled(first.shift, second.channels)
        identity = np.zeros((second.channels, 1, *([1] * len(second.sizes))))
        identity[...] = scale.reshape(-1, *([1] * (identity.ndim - 1)))
        ones = tuple(1 for _ in second.sizes)
        zeros = tuple(0 for _ in second.sizes)
        before = algebra.Geometry(ones, ones, zeros, zeros, ones, second.channels)
        return relative_change(
            [(identity, shift, before), (weight, own, second.geometry)],
            [(made, bias, second.geometry)],
            channels=second.channels,
            sizes=second.sizes,
        )

    return Fusion(apply, inexact=inexact, error=error)


def _scale_into_connected(
    editor: Editor, first: PerChannel, second: Connected, way: Way | None
) -> Fusion | Reason:
    positions = 1
    if way is None:
        rank = second.rank if second.rank is not None else first.rank
        problem = _per_channel_problem(first, None if rank is None else rank - 1, second.features)
    else:
        positions = way.positions or 1
        problem = _per_channel_problem(first, 1, way.channels) or _features_problem(way, second)
    if problem is not None:
        return problem

    def apply() -> onnx.NodeProto | None:
        channels = second.features // positions
        scale, shift = (
            np.repeat(_filled(values, channels), positions) for values in (first.scale, first.shift)
        )
        matrix = matrix_of(editor, second)
        bias = _filled(bias_of(editor, second), second.outputs) + shift @ matrix
        return store_matrix(editor, second, scale[:, None] * matrix, bias, read=first, way=way)

    return Fusion(apply)


def _features_problem(way: Way, second: Connected) -> Reason | None:
    if way.positions is None or way.channels * way.positions != second.features:
        return reason(
            Code.UNKNOWN_SHAPE, "How the feature map is flattened before the second operator is not known."
        )
    return None


def _pointwise_into_connected(
    editor: Editor, first: Convolution, second: Connected, way: Way
) -> Fusion | Reason:
    """A 1x1 convolution commutes with averages over positions and with flattening."""
    if not first.geometry.pointwise:
        return reason(
            Code.OTHER_AXIS, "A convolution that mixes positions is no matrix on each flattened position."
        )
    problem = _features_problem(way, second)
    if problem is not None:
        return problem
    positions = way.positions or 1
    own, theirs = bias_of(editor, first), bias_of(editor, second)
    merged = first.channels * positions * second.outputs
    at = 1 if first.positions is None else first.positions

    def apply() -> onnx.NodeProto | None:
        matrix = matrix_of(editor, second)
        made = algebra.pointwise_through_positions(
            weight_of(editor, first), first.geometry.groups, matrix, positions
        )
        bias = _filled(theirs, second.outputs)
        if own is not None:
            bias = bias + np.repeat(own.astype(np.float64), positions) @ matrix
        needed = bias if own is not None or theirs is not None else None
        return store_matrix(editor, second, made, needed, read=first, way=way)

    biased = own is not None or theirs is not None
    return Fusion(
        apply,
        before=_convolution_work(first, first.geometry, first.channels, own is not None, at)
        + Work(second.features * second.outputs, second.features * second.outputs + _size(theirs)),
        after=Work(merged, merged + (second.outputs if biased else 0)),
        counted=first.positions is not None,
    )


def _connected(editor: Editor, first: Connected, second: Connected) -> Fusion | Reason:
    """W = W1 W2 and b = b1 W2 + b2, for rows on the left."""
    own, theirs = bias_of(editor, first), bias_of(editor, second)
    biased = own is not None or theirs is not None
    merged = first.features * second.outputs
    rows = max(first.positions, second.positions)

    def apply() -> onnx.NodeProto | None:
        matrix = matrix_of(editor, second)
        bias = None
        if biased:
            bias = _filled(theirs, second.outputs) + _filled(own, first.outputs) @ matrix
        dtype = weight_of(editor, first).dtype
        product = algebra.product_of(matrix_of(editor, first, double=False), matrix, dtype)
        return store_matrix(editor, first, product, bias, output=second.output, absorbed=second)

    before = Work(
        rows * (first.features * first.outputs + second.features * second.outputs),
        first.features * first.outputs + second.features * second.outputs + _size(own) + _size(theirs),
    )
    after = Work(rows * merged, merged + (second.outputs if biased else 0))
    return Fusion(apply, before=before, after=after)


def _size(bias: Floats | None) -> int:
    return 0 if bias is None else bias.size


def _convolutions(editor: Editor, first: Convolution, second: Convolution) -> Fusion | Reason:
    before, after = first.geometry, second.geometry
    if any(pad < 0 for geometry in (before, after) for pad in (*geometry.begin, *geometry.end)):
        return reason(Code.NEGATIVE_PADDING, "A convolution crops its input by a negative padding.")
    own, theirs = bias_of(editor, first), bias_of(editor, second)
    weight = weight_of(editor, second)
    biased = own is not None and algebra.reaches_output(own, weight, after.groups)
    problem = algebra.border_problem(before, after, biased=biased, sizes=first.sizes)
    geometry = algebra.compose_geometry(before, after)

    def merged() -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        made = algebra.compose_convolutions(weight_of(editor, first), before, weight, after)
        if own is None and theirs is None:
            return made, None
        through = algebra.bias_through_convolution(_filled(own, first.outputs), weight, after.groups)
        return made, _filled(theirs, second.outputs) + through

    def apply() -> onnx.NodeProto | None:
        made, bias = merged()
        return store_convolution(editor, first, made, bias, geometry=geometry, output=second.output)

    def error() -> float:
        from lacoot_deploy.graph.linear.reference import relative_change

        made, bias = merged()
        return relative_change(
            [(weight_of(editor, first), own, before), (weight, theirs, after)],
            [(made, bias, geometry)],
            channels=first.channels,
            sizes=first.sizes,
        )

    counted = first.positions is not None and second.positions is not None
    # Without sizes the proportion decides: one output position, for which the first is read at so many.
    at = second.positions if counted and second.positions is not None else 1
    at_first = first.positions if counted and first.positions is not None else math.prod(after.strides)
    has_bias = own is not None or theirs is not None
    return Fusion(
        apply,
        before=_convolution_work(first, before, first.channels, own is not None, at_first)
        + _convolution_work(second, after, second.channels, theirs is not None, at),
        after=_convolution_work(second, geometry, first.channels, has_bias, at),
        inexact=None if problem is None else _border_reason(problem, first),
        error=error,
        counted=counted,
    )


def _border_reason(problem: algebra.BorderProblem, first: Convolution) -> Reason:
    if problem.window:
        return reason(
            Code.BORDER_WINDOW,
            "The second is padded, and where it reads zeros the merged one would read the first's sums; move the "
            "padding to the first.",
            first.output,
        )
    return reason(
        Code.BORDER_BIAS,
        "The second is padded, and the first's bias does not reach the zeros that it is padded with.",
        first.output,
    )


def _convolution_work(
    operator: Convolution, geometry: algebra.Geometry, channels: int, biased: bool, positions: int
) -> Work:
    weights = operator.outputs * (channels // geometry.groups) * math.prod(geometry.kernel)
    return Work(weights * positions, weights + (operator.outputs if biased else 0))
