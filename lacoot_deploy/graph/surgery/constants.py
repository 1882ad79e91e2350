"""Values that are computed from constants alone: pruning masks kept beside their weights, reshaped or cast weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from lacoot_deploy.graph.model.tolerant import MALFORMED

_FOLDED = frozenset(
    {
        "Mul", "Add", "Sub", "Div", "Neg", "Identity", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze",
        "Where", "Expand", "Concat", "Flatten", "Equal", "Not", "Greater", "Less", "And", "Or", "Sqrt", "Abs",
    }
)  # fmt: skip
_MAX_ELEMENTS = 1 << 26


def folded_constants(
    model: onnx.ModelProto, known: Mapping[str, onnx.TensorProto], folder: Path | None = None
) -> dict[str, onnx.TensorProto]:
    """The constant values that nodes of the main graph compute, by name.

    Args:
        model: The model; nodes in an order in which they can run.
        known: Its constants by name.
        folder: Where external data lies; what is computed from it is left out without.
    """
    found: dict[str, onnx.TensorProto] = {}
    for node in model.graph.node:
        if node.op_type not in _FOLDED or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            continue
        operands = [found.get(name, known.get(name)) for name in node.input if name]
        if len(operands) != len(node.input) or not operands:
            continue
        tensors = [tensor for tensor in operands if tensor is not None and _is_readable(tensor, folder)]
        if len(tensors) == len(operands):
            made = _computed(model, node, tensors, folder)
            if made is not None:
                found[node.output[0]] = made
    return found


def _is_readable(tensor: onnx.TensorProto, folder: Path | None) -> bool:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    return not (external and folder is None) and math.prod(tensor.dims) <= _MAX_ELEMENTS


def _computed(
    model: onnx.ModelProto, node: onnx.NodeProto, tensors: list[onnx.TensorProto], folder: Path | None
) -> onnx.TensorProto | None:
    names = list(dict.fromkeys(node.input))
    arrays = {
        name: numpy_helper.to_array(tensor, str(folder) if folder else "")
        for name, tensor in zip(node.input, tensors, strict=True)
    }
    untyped = [onnx.ValueInfoProto(name=name) for name in names]
    graph = onnx.helper.make_graph([node], "constant", untyped, [onnx.ValueInfoProto(name=node.output[0])])
    try:
        single = onnx.helper.make_model(graph, opset_imports=model.opset_import)
        (result,) = ReferenceEvaluator(single).run(None, arrays)
        return None if result.size > _MAX_ELEMENTS else numpy_helper.from_array(result, node.output[0])
    except (*MALFORMED, RuntimeError, NotImplementedError):
        return None
