"""The linear operators around an activation, and what would become of them if it were linear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from lacoot_deploy.graph.linear.algebra import compose_geometry
from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.linear.operators import (
    Connected,
    Convolution,
    Identity,
    Operator,
    PerChannel,
    read_operator,
)
from lacoot_deploy.graph.linear.pairs import fuse
from lacoot_deploy.graph.linear.records import Code, Work, reason
from lacoot_deploy.graph.linear.transit import Way, way_to_features
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.graph.model.walk import describe

_LONGEST_WAY = 16
"""Elementwise nodes that are looked through, at most, for the operator that tells the channel axis."""


@dataclass(frozen=True)
class Neighbours:
    """What stands around an activation; see `activations.Activation`.

    Attributes:
        first: The linear operator before it.
        second: The linear operator behind it.
        after_residual: Whether a sum of two values comes before it.
        normalised: The batch normalisation that gives its input.
        before_axis: Channel axis of its input, from the operator before it; None where that tells nothing.
        before: What the two take.
        after: What they would take as one.
        merged: What they would be as one, such as `Conv 5x5` or `Gemm`; also where only an inexact merge is possible.
        reason: Why they would not be one.
    """

    first: str | None = None
    second: str | None = None
    after_residual: bool = False
    normalised: str | None = None
    before_axis: int | None = None
    before: Work | None = None
    after: Work | None = None
    merged: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True)
class _Side:
    """What was found on one side: an operator, or why there is none; and whether constants are added on the way."""

    operator: Operator | None
    reason: Reason | None
    shifted: bool = False
    way: Way | None = None


def neighbours_of(editor: Editor, start: str, end: str, nodes: tuple[onnx.NodeProto, ...]) -> Neighbours:
    """Look around an activation.

    Args:
        editor: The model.
        start: The value before it.
        end: The value behind it.
        nodes: Its nodes.
    """
    maker = editor.producers.get(start)
    normed = maker is not None and maker.op_type == "BatchNormalization"
    found = Neighbours(
        after_residual=_after_residual(editor, start),
        normalised=describe(maker) if maker is not None and normed else None,
        before_axis=_axis_before(editor, start),
    )
    before, behind = _upstream(editor, start, nodes), _downstream(editor, end)
    if before.operator is not None:
        found = replace(found, first=describe(before.operator.nodes[0]))
    if behind.operator is not None:
        found = replace(found, second=describe(behind.operator.nodes[0]))
    if before.operator is None or behind.operator is None:
        return replace(found, reason=before.reason or behind.reason)
    fusion = fuse(editor, before.operator, behind.operator, behind.way)
    if isinstance(fusion, Reason):
        return replace(found, reason=fusion)
    if fusion is None:
        return replace(found, reason=reason(Code.NOT_LINEAR, "The operators around it do not merge."))
    why = fusion.inexact
    shifted = before.shifted or behind.shifted
    padded = isinstance(behind.operator, Convolution) and behind.operator.geometry.padded
    if why is None and shifted and padded:
        text = "A constant is added before a padded convolution and does not reach the padding's zeros."
        why = reason(Code.BORDER_BIAS, text)
    counted = fusion.counted
    return replace(
        found,
        before=fusion.before if counted else None,
        after=fusion.after if counted else None,
        merged=_merged(before.operator, behind.operator),
        reason=why,
    )


def _merged(first: Operator, second: Operator) -> str:
    """What two operators are as one, in a few words."""
    if isinstance(first, Convolution) and isinstance(second, Convolution):
        kernel = compose_geometry(first.geometry, second.geometry).kernel
        return "Conv " + "x".join(str(size) for size in kernel)
    return second.nodes[0].op_type


def _axis_before(editor: Editor, value: str) -> int | None:
    """The channel axis of a value from the operator that its first data operand comes from."""
    rank = editor.rank(value)
    for _ in range(_LONGEST_WAY):
        maker = editor.producers.get(value)
        if maker is None or editor.rank(value) != rank:
            return None
        if maker.op_type in ("Conv", "BatchNormalization", "GlobalAveragePool", "MaxPool", "AveragePool"):
            return 1
        if maker.op_type in ("Gemm", "MatMul", "LayerNormalization"):
            return None if rank is None else rank - 1
        if maker.op_type not in ops.ACTIVATIONS | ops.ADD | {"Mul", "Sub", "Div", "Identity", "Dropout"}:
            return None
        value = next((name for name in maker.input if name and not editor.weights.known(name)), "")
    return None


def _after_residual(editor: Editor, value: str) -> bool:
    maker = editor.producers.get(value)
    while maker is not None and isinstance(read_operator(editor, maker), (PerChannel, Identity)):
        operator = read_operator(editor, maker)
        maker = editor.producers.get(operator.input) if operator is not None else None
    return maker is not None and _is_sum(editor, maker)


def _is_sum(editor: Editor, node: onnx.NodeProto) -> bool:
    dynamic = [name for name in node.input if name and not editor.weights.known(name)]
    return (node.op_type in ops.ADD and len(dynamic) > 1) or node.op_type in ops.SKIP_NORMS


def _upstream(editor: Editor, value: str, nodes: tuple[onnx.NodeProto, ...]) -> _Side:
    own = {id(node) for node in nodes}
    shifted = False
    while True:
        others = [reader for reader in editor.readers(value) if id(reader) not in own]
        if value in editor.outputs:
            return _Side(None, reason(Code.GRAPH_OUTPUT, f"{value} is an output of the model.", value))
        if others:
            text = f"{describe(others[0])} reads {value} too."
            return _Side(None, reason(Code.OTHER_READERS, text, value))
        maker = editor.producers.get(value)
        if maker is None:
            return _Side(None, reason(Code.NO_NEIGHBOUR, f"{value} is an input of the model.", value))
        operator = read_operator(editor, maker)
        if isinstance(operator, (Convolution, Connected)):
            return _Side(operator, None, shifted)
        if not isinstance(operator, (PerChannel, Identity)):
            return _Side(None, _why_not(editor, maker, "before"))
        if isinstance(operator, PerChannel):
            matrix = editor.producers.get(operator.input)
            made = None if matrix is None else read_operator(editor, matrix)
            if isinstance(made, Connected) and made.output == operator.output:
                return _Side(made, None, shifted)
            shifted = shifted or bool(operator.shift.any())
        own, value = {id(maker)}, operator.input


def _downstream(editor: Editor, value: str) -> _Side:
    shifted = False
    while True:
        if value in editor.outputs:
            return _Side(None, reason(Code.GRAPH_OUTPUT, f"{value} is an output of the model.", value))
        reader = editor.sole_reader(value)
        if reader is None:
            count = len(editor.readers(value))
            text = f"{count} nodes read {value}." if count > 1 else f"{value} is not read by one operator."
            return _Side(None, reason(Code.OTHER_READERS, text, value))
        operator = read_operator(editor, reader)
        if isinstance(operator, (Convolution, Connected)) and operator.input == value:
            return _Side(operator, None, shifted)
        if isinstance(operator, (PerChannel, Identity)):
            shifted = shifted or (isinstance(operator, PerChannel) and bool(operator.shift.any()))
            value = operator.output
            continue
        way = way_to_features(editor, value)
        last = None if way is None else editor.sole_reader(way.value)
        operator = None if last is None else read_operator(editor, last)
        if way is not None and isinstance(operator, Connected) and operator.input == way.value:
            return _Side(operator, None, shifted, way)
        return _Side(None, _why_not(editor, reader, "behind"))


def _why_not(editor: Editor, node: onnx.NodeProto, where: str) -> Reason:
    label, kind = describe(node), node.op_type
    if _is_sum(editor, node):
        return reason(Code.RESIDUAL_ADD, f"{label} {where} it adds two values.", label)
    if kind in ops.NORMS:
        return reason(Code.NORMALISATION, f"{label} {where} it normalises by statistics of its input.", label)
    if kind in ops.ACTIVATIONS:
        return reason(Code.ACTIVATION, f"{label} {where} it is an activation.", label)
    if kind in ("Conv", "Gemm", "MatMul"):
        return reason(Code.NOT_CONSTANT, f"{label} {where} it has no constant weights.", label)
    return reason(Code.NOT_LINEAR, f"{label} {where} it is no linear operator that can be merged.", label)
