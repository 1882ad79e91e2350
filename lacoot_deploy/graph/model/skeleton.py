"""A model without its weights: what inference and the checker need, and none of the bytes."""

from __future__ import annotations

import math
from itertools import compress
from operator import not_

import onnx

SMALL = 256
"""Constants with at most this many elements are kept for inference: they may be shapes."""


def skeleton(model: onnx.ModelProto, *, notes: bool = True) -> onnx.ModelProto:
    """A copy of a model whose large or external weights are inputs with a type: the same shapes, none of the bytes.

    Args:
        model: The model.
        notes: Whether to keep what it notes of inner values.
    """
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    graph = model.graph
    copy.graph.name = graph.name
    copy.graph.input.extend(graph.input)
    copy.graph.output.extend(graph.output)
    if notes:
        copy.graph.value_info.extend(graph.value_info)
    names = {value.name for value in graph.input}

    def as_input(name: str, tensor: onnx.TensorProto) -> None:
        if name not in names:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            )

    small = [_is_small(tensor) for tensor in graph.initializer]
    copy.graph.initializer.extend(compress(graph.initializer, small))
    for tensor in compress(graph.initializer, map(not_, small)):
        as_input(tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        if sparse.values.name not in names:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(
                    sparse.values.name, sparse.values.data_type, list(sparse.dims)
                )
            )
    large = [node for node in graph.node if node.op_type == "Constant" and _is_large_constant(node)]
    for node in large:
        as_input(node.output[0], node.attribute[0].t)
    if large:
        gone = {node.output[0] for node in large}
        copy.graph.node.extend(node for node in graph.node if not (node.output and node.output[0] in gone))
    else:
        copy.graph.node.extend(graph.node)
    return copy


def _is_large_constant(node: onnx.NodeProto) -> bool:
    if len(node.output) != 1 or len(node.attribute) != 1 or node.attribute[0].name != "value":
        return False
    return not _is_small(node.attribute[0].t)


def _is_small(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return bool(math.prod(tensor.dims) <= SMALL)
