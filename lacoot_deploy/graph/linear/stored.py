"""Reads and writes the weights of linear operators in the form that their nodes keep them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.graph.linear.algebra import Geometry
from lacoot_deploy.graph.linear.editor import Editor, set_attribute
from lacoot_deploy.graph.linear.operators import Connected, Convolution, Operator, PerChannel
from lacoot_deploy.graph.linear.transit import Way
from lacoot_deploy.graph.model.walk import attributes_of, describe

Floats = NDArray[Any]


def weight_of(editor: Editor, operator: Operator) -> Floats:
    """The weights as the node has them, in their own type."""
    return editor.weights.array(operator.nodes[0].input[1])


def bias_of(editor: Editor, operator: Convolution | Connected) -> Floats | None:
    """The bias [outputs], a Gemm's beta applied; None where there is none."""
    node = operator.nodes[-1]
    if node.op_type == "Add":
        made = operator.nodes[0].output[0]
        values = editor.weights.array(node.input[1 - list(node.input).index(made)])
    elif len(node.input) > 2 and node.input[2]:
        values = editor.weights.array(node.input[2])
        beta = float(attributes_of(node).get("beta", 1.0)) if node.op_type == "Gemm" else 1.0
        if beta != 1.0:
            values = values.astype(np.float64) * beta
    else:
        return None
    return np.broadcast_to(values.reshape(-1), (operator.outputs,))


def matrix_of(editor: Editor, operator: Connected, *, double: bool = True) -> Floats:
    """The matrix [features, outputs], a Gemm's alpha applied; in double precision or in its own type."""
    weight = weight_of(editor, operator)
    node = operator.nodes[0]
    if node.op_type == "Gemm":
        attributes = attributes_of(node)
        weight = weight.T if attributes.get("transB", 0) else weight
        alpha = float(attributes.get("alpha", 1.0))
        if alpha != 1.0:
            weight = weight.astype(np.float64) * alpha
    return weight.astype(np.float64) if double else weight


def _cast(values: NDArray[Any] | None, dtype: Any) -> Floats | None:
    if values is None:
        return None
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype)


def _in_range(*arrays: Floats | None) -> bool:
    return all(array is None or bool(np.isfinite(array).all()) for array in arrays)


def store_convolution(
    editor: Editor,
    operator: Convolution,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    *,
    geometry: Geometry | None = None,
    output: str | None = None,
    read: PerChannel | None = None,
) -> onnx.NodeProto | None:
    """Give a convolution new weights, and let it take the place of the operator behind or before it.

    Args:
        editor: The model.
        operator: The convolution that stays.
        weight: Its new weights.
        bias: Its new bias; None for none.
        geometry: How it moves from now on; None for as before.
        output: Result of the operator behind it that goes; None where none does.
        read: The operator before it that goes; None where none does.

    Returns:
        The node; None, with nothing changed, where a weight leaves the range of its type.
    """
    node = operator.nodes[0]
    dtype = weight_of(editor, operator).dtype
    cast, cast_bias = _cast(weight, dtype), _cast(bias, dtype)
    if not _in_range(cast, cast_bias):
        return None
    wish = describe(node)
    editor.weights.put(node, 1, weight, dtype, f"{wish}/merged/weight")
    if bias is not None and (bias.any() or len(node.input) > 2):
        editor.weights.put(node, 2, bias, dtype, f"{wish}/merged/bias")
    if geometry is not None:
        for name, value in (
            ("auto_pad", None),
            ("kernel_shape", geometry.kernel),
            ("strides", geometry.strides),
            ("pads", (*geometry.begin, *geometry.end)),
            ("dilations", geometry.dilations),
            ("group", geometry.groups),
        ):
            set_attribute(node, name, value)
    _take_place(editor, node, output, read, None)
    return node


def store_matrix(
    editor: Editor,
    operator: Connected,
    matrix: Floats,
    bias: NDArray[np.float64] | None,
    *,
    output: str | None = None,
    absorbed: Connected | None = None,
    read: Operator | None = None,
    way: Way | None = None,
) -> onnx.NodeProto | None:
    """Give a fully connected layer a new matrix and bias; further arguments as for `store_convolution`.

    Args:
        editor: The model.
        operator: The layer that stays.
        matrix: [features, outputs].
        bias: [outputs]; None for none.
        output: Result of the operator behind it that goes.
        absorbed: That operator, where it may consist of two nodes.
        read: The operator before it that goes.
        way: The nodes between the two; they read what `read` did.
    """
    node = operator.nodes[0]
    dtype = weight_of(editor, operator).dtype
    if not _in_range(_cast(matrix, dtype), _cast(bias, dtype)):
        return None
    wish = describe(node)
    old_bias = bias_of(editor, operator)
    gemm = node.op_type == "Gemm"
    turned = gemm and attributes_of(node).get("transB", 0)
    editor.weights.put(node, 1, matrix.T if turned else matrix, dtype, f"{wish}/merged/weight")
    if gemm:
        set_attribute(node, "alpha", None)
        set_attribute(node, "beta", None)
    # What gives the result now: with a bias of its own node, that one.
    last = operator.nodes[-1]
    if matrix.shape[1] != operator.outputs and len(operator.nodes) > 1:
        editor.forget_shape(node.output[0])
    if output is not None:
        for gone in absorbed.nodes if absorbed is not None else [editor.producers[output]]:
            editor.remove(gone)
        editor.give_instead(last, output)
    if bias is None or (old_bias is None and not bias.any()):
        pass
    elif gemm or len(operator.nodes) > 1:
        slot = 2 if gemm else 1 - list(last.input).index(node.output[0])
        editor.weights.put(last, slot, bias, dtype, f"{wish}/merged/bias")
    else:
        last = editor.append(node, "Add", bias.astype(dtype), "bias")
    if read is not None:
        _take_place(editor, node, None, read, way)
    if way is not None and way.rigid is not None:
        shape = np.array([way.rigid, matrix.shape[0]])
        editor.weights.put(way.nodes[-1], 1, shape, np.int64, f"{wish}/merged/shape")
    return last


def store_normalisation(editor: Editor, norm: PerChannel, second: PerChannel) -> onnx.NodeProto | None:
    """Put a map per channel into the scale and shift of the batch normalisation before it."""
    node = norm.nodes[0]
    scale, shift = (editor.weights.array(node.input[slot]) for slot in (1, 2))
    made = (scale.astype(np.float64) * second.scale, shift.astype(np.float64) * second.scale + second.shift)
    if not _in_range(*(_cast(values, scale.dtype) for values in made)):
        return None
    for slot, values in zip((1, 2), made, strict=True):
        editor.weights.put(node, slot, values, scale.dtype, f"{describe(node)}/merged/{slot}")
    _take_place(editor, node, second.output, None, None)
    return node


def _take_place(
    editor: Editor, node: onnx.NodeProto, output: str | None, read: Operator | None, way: Way | None
) -> None:
    if output is not None:
        editor.remove(editor.producers[output])
        editor.give_instead(node, output)
    if read is not None:
        reader = node if way is None or not way.nodes else way.nodes[0]
        for between in () if way is None else way.nodes:
            editor.forget_shape(between.output[0])
        editor.read_instead(reader, read.output, read.input)
        for gone in read.nodes:
            editor.remove(gone)
