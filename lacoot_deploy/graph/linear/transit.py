"""From a feature map to the layer that reads it flattened: averages over positions and changes of shape in between.

A map per channel and a 1x1 convolution commute with an average over positions, and act on flattened features as on the
map itself. Whatever else stands in between ends the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.model.blocks import Shape
from lacoot_deploy.graph.model.walk import attributes_of


@dataclass(frozen=True)
class Way:
    """Nodes between a feature map and the layer that reads it flattened.

    Attributes:
        nodes: The nodes in order, each the only reader of the one before.
        value: What the last of them gives.
        channels: Channels of the map.
        positions: Positions per channel that are left at the end.
        flat: Whether the value is [samples, channels * positions].
        rigid: The first entry of the shape that the last node names together with the number of features; None where
            it names no number of features.
    """

    nodes: tuple[onnx.NodeProto, ...]
    value: str
    channels: int
    positions: int | None
    flat: bool
    rigid: int | None = None


def way_to_features(editor: Editor, value: str) -> Way | None:
    """The way from a feature map [samples, channels, ...] to where it is flat; None where it does not get there."""
    shape = editor.shapes.shape(value)
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        return None
    way = Way((), value, shape[1], _positions(shape), flat=False)
    while not way.flat:
        node = editor.sole_reader(way.value)
        if node is None or node.domain not in ("", "ai.onnx") or node.input[0] != way.value:
            return None
        after = _step(editor, node, way)
        if after is None:
            return None
        way = replace(after, nodes=(*way.nodes, node), value=node.output[0])
    return way if way.positions is not None else None


def _positions(shape: Shape) -> int | None:
    total = 1
    for size in shape[2:]:
        if not isinstance(size, int):
            return None
        total *= size
    return total


def _step(editor: Editor, node: onnx.NodeProto, way: Way) -> Way | None:
    shape = editor.shapes.shape(way.value)
    if shape is None or len(shape) < 3:
        return None
    rank, attributes = len(shape), attributes_of(node)
    if node.op_type == "GlobalAveragePool":
        return replace(way, positions=1)
    if node.op_type == "AveragePool":
        padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") not in (
            b"NOTSET",
            b"VALID",
        )
        if attributes.get("ceil_mode", 0) or (padded and attributes.get("count_include_pad", 0)):
            return None
        result = editor.shapes.shape(node.output[0])
        return None if result is None else replace(way, positions=_positions(result))
    if node.op_type in ("ReduceMean", "Squeeze"):
        axes = _axes(editor, node)
        if axes is None or {axis % rank for axis in axes} != set(range(2, rank)):
            return None
        if node.op_type == "Squeeze":
            return replace(way, flat=True) if way.positions == 1 else None
        return replace(way, positions=1, flat=not attributes.get("keepdims", 1))
    if node.op_type == "Flatten":
        return replace(way, flat=True) if attributes.get("axis", 1) in (1, 1 - rank) else None
    if node.op_type == "Reshape":
        target = _integers(editor, node.input[1])
        if target is None or not _flattens(node, target, shape, way):
            return None
        return replace(way, flat=True, rigid=None if target[1] == -1 else target[0])
    return None


def _axes(editor: Editor, node: onnx.NodeProto) -> list[int] | None:
    found = attributes_of(node).get("axes")
    if found is None and len(node.input) > 1 and node.input[1]:
        found = _integers(editor, node.input[1])
    return None if found is None else [int(axis) for axis in found]


def _integers(editor: Editor, name: str) -> list[int] | None:
    """The entries of a constant of integers that no caller may override."""
    if name in {value.name for value in editor.model.graph.input}:
        return None
    tensor = next((t for t in editor.model.graph.initializer if t.name == name), None)
    if tensor is None:
        maker = editor.producers.get(name)
        if maker is None or maker.op_type != "Constant":
            return None
        attributes = attributes_of(maker)
        if "value_ints" in attributes:
            return [int(entry) for entry in attributes["value_ints"]]
        tensor = attributes.get("value")
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return [int(entry) for entry in np.asarray(numpy_helper.to_array(tensor)).reshape(-1)]


def _flattens(node: onnx.NodeProto, target: list[int], shape: Shape, way: Way) -> bool:
    """Whether a `Reshape` provably gives [samples, channels * positions]."""
    if len(target) != 2 or way.positions is None or (0 in target and attributes_of(node).get("allowzero", 0)):
        return False
    features = way.channels * way.positions
    keeps_samples = target[0] == 0 or target[0] == shape[0]
    return (keeps_samples and target[1] in (-1, features)) or (target[0] == -1 and target[1] == features)
