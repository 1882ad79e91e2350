"""Linear operators as they stand in a graph: convolutions, fully connected layers, maps per channel, identities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.graph.linear.algebra import Geometry
from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.model.walk import attributes_of

Floats = NDArray[Any]


@dataclass(eq=False)
class Operator:
    """One linear operator; most are one node, a `MatMul` may have its bias in an `Add` of its own.

    Attributes:
        nodes: Its nodes, the one with the weights first.
        input: The value that it maps.
        output: Its result.
    """

    nodes: list[onnx.NodeProto]
    input: str
    output: str

    kind = "linear"


@dataclass(eq=False)
class Identity(Operator):
    """A node that gives what it reads; `deviation` is how far a slope that counts as 1 is from it."""

    deviation: float = 0.0
    kind = "identity"


@dataclass(eq=False)
class PerChannel(Operator):
    """y = scale * x + shift along one axis.

    Attributes:
        axis: Channel axis counted from 0; None where all channels are alike, so that any will do.
        scale: float64 [C] or [1].
        shift: float64 [C] or [1].
        rank: Number of axes of the value; None where unknown.
    """

    axis: int | None = None
    scale: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    shift: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    rank: int | None = None
    kind = "per channel"

    @property
    def channels(self) -> int:
        """Number of channels, 1 where all are alike."""
        return max(len(self.scale), len(self.shift))


@dataclass(eq=False)
class Convolution(Operator):
    """A convolution with constant weights.

    Attributes:
        geometry: How it moves.
        channels: Channels of its input.
        outputs: Channels of its output.
        sizes: Spatial sizes of its input, None where unknown.
        positions: Spatial positions of its output; None where unknown.
    """

    geometry: Geometry = field(default_factory=lambda: Geometry((), (), (), (), ()))
    channels: int = 0
    outputs: int = 0
    sizes: tuple[int | None, ...] = ()
    positions: int | None = None
    kind = "convolution"


@dataclass(eq=False)
class Connected(Operator):
    """A fully connected layer: rows of the last axis times a constant matrix, plus a constant.

    Attributes:
        features: Length of the last axis of its input.
        outputs: Length of the last axis of its output.
        rank: Axes of its input; None where unknown.
        positions: Rows per sample; 1 where unknown.
        turned: Whether the input is read transposed (a `Gemm` with transA).
    """

    features: int = 0
    outputs: int = 0
    rank: int | None = None
    positions: int = 1
    turned: bool = False
    kind = "fully connected"


def read_operator(editor: Editor, node: onnx.NodeProto, *, slope_tolerance: float = 0.0) -> Operator | None:
    """The linear operator that a node is or begins; None for any other node, and for the `Add` behind a `MatMul`.

    Args:
        editor: The model.
        node: A node of its main graph.
        slope_tolerance: How far from 1 the slope of a `PRelu` or `LeakyRelu` may be to count as none.
    """
    if node.domain not in ("", "ai.onnx") or not node.input or not node.output or len(node.output) > 1:
        return _dropout(editor, node)
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(editor, node, slope_tolerance)


def _dropout(editor: Editor, node: onnx.NodeProto) -> Operator | None:
    unread = all(not editor.readers(name) and name not in editor.outputs for name in node.output[1:] if name)
    if node.op_type == "Dropout" and node.domain in ("", "ai.onnx") and unread:
        return _identity(editor, node, 0.0)
    return None


def _identity(editor: Editor, node: onnx.NodeProto, _: float) -> Operator | None:
    if node.op_type == "Dropout":
        training = node.input[2] if len(node.input) > 2 else ""
        if training and not editor.is_false(training):
            return None
    return Identity([node], node.input[0], node.output[0])


def _slope(editor: Editor, node: onnx.NodeProto, tolerance: float) -> Operator | None:
    if node.op_type == "LeakyRelu":
        slope = np.array([float(attributes_of(node).get("alpha", 0.01))])
    elif editor.weights.has(node, 1):
        slope = editor.weights.array(node.input[1]).astype(np.float64)
        rank = editor.rank(node.input[0])
        if slope.ndim > 1 and (rank is None or slope.ndim > rank):
            return None
    else:
        return None
    deviation = float(np.abs(slope - 1).max()) if slope.size else 0.0
    if deviation > tolerance:
        return None
    return Identity([node], node.input[0], node.output[0], deviation)


def _normalisation(editor: Editor, node: onnx.NodeProto, _: float) -> Operator | None:
    attributes = attributes_of(node)
    if attributes.get("training_mode", 0) or not attributes.get("spatial", 1):
        return None
    if len(node.input) != 5 or not all(editor.weights.has(node, slot) for slot in range(1, 5)):
        return None
    scale, shift, mean, variance = (
        editor.weights.array(name).astype(np.float64) for name in list(node.input)[1:5]
    )
    factor = scale / np.sqrt(variance + float(attributes.get("epsilon", 1e-5)))
    return PerChannel(
        [node],
        node.input[0],
        node.output[0],
        axis=1,
        scale=factor,
        shift=shift - factor * mean,
        rank=editor.rank(node.input[0]),
    )


def _arithmetic(editor: Editor, node: onnx.NodeProto, _: float) -> Operator | None:
    """`Add`, `Sub`, `Mul` or `Div` with a constant that is the same at all positions of a channel."""
    if len(node.input) != 2:
        return None
    slot = next((i for i in (1, 0) if editor.weights.has(node, i)), None)
    if slot is None or editor.weights.known(node.input[1 - slot]):
        return None
    if node.op_type == "Div" and slot == 0:
        return None
    value = node.input[1 - slot]
    constant = editor.weights.array(node.input[slot]).astype(np.float64)
    shape = editor.shapes.shape(value)
    rank = None if shape is None else len(shape)
    wide = [axis for axis, size in enumerate(constant.shape) if size > 1]
    if len(wide) > 1 or constant.size == 0 or (constant.ndim > 1 and rank is None):
        return None
    if rank is not None and constant.ndim > rank:
        return None
    axis = None
    if wide:
        if shape is None or rank is None:
            return None
        axis = wide[0] + rank - constant.ndim
        if shape[axis] != constant.size:
            return None
    flat = constant.reshape(-1)
    one, zero = np.ones(1), np.zeros(1)
    scale, shift = {
        "Add": (one, flat),
        "Sub": (one, -flat) if slot == 1 else (-one, flat),
        "Mul": (flat, zero),
        "Div": (1 / np.where(flat == 0, np.nan, flat), zero) if node.op_type == "Div" else (one, zero),
    }[node.op_type]
    if not np.isfinite(scale).all() or not np.isfinite(shift).all():
        return None
    return PerChannel([node], value, node.output[0], axis=axis, scale=scale, shift=shift, rank=rank)


def _convolution(editor: Editor, node: onnx.NodeProto, _: float) -> Operator | None:
    if not editor.weights.has(node, 1) or not _optional(editor, node, 2):
        return None
    weight = editor.weights.tensor(node.input[1])
    if len(weight.dims) < 3:
        return None
    attributes = attributes_of(node)
    groups = int(attributes.get("group", 1))
    shape = editor.shapes.shape(node.input[0])
    axes = len(weight.dims) - 2
    sizes: tuple[int | None, ...] = (None,) * axes
    if shape is not None and len(shape) == axes + 2:
        sizes = tuple(size if isinstance(size, int) else None for size in shape[2:])
    geometry = _geometry(attributes, tuple(weight.dims[2:]), groups, sizes)
    if geometry is None or weight.dims[0] % groups:
        return None
    positions: int | None = 1
    for axis, size in enumerate(sizes):
        if size is None or positions is None:
            positions = None
        else:
            positions *= geometry.output_size(axis, size)
    return Convolution(
        [node],
        node.input[0],
        node.output[0],
        geometry=geometry,
        channels=weight.dims[1] * groups,
        outputs=weight.dims[0],
        sizes=sizes,
        positions=positions,
    )


def _geometry(
    attributes: dict[str, Any], kernel: tuple[int, ...], groups: int, sizes: tuple[int | None, ...]
) -> Geometry | None:
    axes = len(kernel)
    strides = tuple(attributes.get("strides", (1,) * axes))
    dilations = tuple(attributes.get("dilations", (1,) * axes))
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b""):
        pads = tuple(attributes.get("pads", (0,) * 2 * axes))
        return Geometry(kernel, strides, pads[:axes], pads[axes:], dilations, groups)
    if mode == b"VALID":
        return Geometry(kernel, strides, (0,) * axes, (0,) * axes, dilations, groups)
    begin, end = [], []
    for axis, size in enumerate(sizes):
        reach = (kernel[axis] - 1) * dilations[axis]
        if size is None and strides[axis] != 1:
            return None
        # The output has as many positions as the input has steps; what that lacks is padded on both sides.
        length = 0 if size is None else size
        steps = -(-length // strides[axis])
        total = reach if size is None else max((steps - 1) * strides[axis] + reach + 1 - length, 0)
        small = total // 2
        begin.append(small if mode == b"SAME_UPPER" else total - small)
        end.append(total - begin[-1])
    return Geometry(kernel, strides, tuple(begin), tuple(end), dilations, groups)


def _connected(editor: Editor, node: onnx.NodeProto, _: float) -> Operator | None:
    if not editor.weights.has(node, 1):
        return None
    weight = editor.weights.tensor(node.input[1])
    if len(weight.dims) != 2:
        return None
    rows, columns = weight.dims
    if node.op_type == "Gemm":
        attributes = attributes_of(node)
        if attributes.get("transB", 0):
            rows, columns = columns, rows
        if not _optional(editor, node, 2) or editor.weights.known(node.input[0]):
            return None
        if len(node.input) > 2 and node.input[2]:
            dims = list(editor.weights.tensor(node.input[2]).dims)
            if [size for size in dims if size != 1] not in ([], [columns]) or (
                dims and dims[-1] not in (1, columns)
            ):
                return None
        return Connected(
            [node],
            node.input[0],
            node.output[0],
            features=rows,
            outputs=columns,
            rank=2,
            turned=bool(attributes.get("transA", 0)),
        )
    shape = editor.shapes.shape(node.input[0])
    positions = 1
    for size in (shape or ())[1:-1]:
        positions *= size if isinstance(size, int) else 1
    made = Connected(
        [node],
        node.input[0],
        node.output[0],
        features=rows,
        outputs=columns,
        rank=None if shape is None else len(shape),
        positions=positions,
    )
    adder = editor.sole_reader(node.output[0])
    if adder is not None and adder.op_type == "Add" and adder.domain in ("", "ai.onnx"):
        slot = 1 - list(adder.input).index(node.output[0])
        if editor.weights.has(adder, slot):
            dims = list(editor.weights.tensor(adder.input[slot]).dims)
            fits = not dims or (dims[-1] in (1, columns) and all(size == 1 for size in dims[:-1]))
            if fits and (len(dims) <= 1 or (shape is not None and len(dims) <= len(shape))):
                made.nodes.append(adder)
                made.output = adder.output[0]
    return made


def _optional(editor: Editor, node: onnx.NodeProto, slot: int) -> bool:
    return len(node.input) <= slot or not node.input[slot] or editor.weights.has(node, slot)


_RULES = {
    "Identity": _identity,
    "Dropout": _identity,
    "LeakyRelu": _slope,
    "PRelu": _slope,
    "BatchNormalization": _normalisation,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Conv": _convolution,
    **dict.fromkeys(("Gemm", "MatMul"), _connected),
}
