"""Models exported in training mode: what in them is random, or computed from the batch and not from the training."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import attribute, describe, walk_nodes


def trains(model: onnx.ModelProto) -> tuple[onnx.NodeProto, ...]:
    """The nodes that work as in training: active Dropout, BatchNormalization on the statistics of the batch."""
    true = {tensor.name for tensor in model.graph.initializer if _is_true(tensor)}
    ratios = {tensor.name for tensor in model.graph.initializer if _is_zero(tensor)}
    for node in walk_nodes(model.graph):
        if node.op_type == "Constant" and node.output:
            value = attribute(node, "value")
            if isinstance(value, onnx.TensorProto):
                true.update([node.output[0]] if _is_true(value) else [])
                ratios.update([node.output[0]] if _is_zero(value) else [])
    found = []
    for node in walk_nodes(model.graph):
        if node.domain not in ("", "ai.onnx", "com.microsoft"):
            continue
        if node.op_type == "BatchNormalization" and attribute(node, "training_mode", 0):
            found.append(node)
        elif node.op_type.endswith("Dropout") and len(node.input) > 2:
            mode, ratio = node.input[-1], node.input[-2]
            if mode in true and ratio not in ratios:
                found.append(node)
    return tuple(found)


def training_note(model: onnx.ModelProto) -> str | None:
    """A sentence about what trains in a model; None where nothing does."""
    found = trains(model)
    if not found:
        return None
    kinds = sorted({node.op_type for node in found})
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"The model is in training mode ({' and '.join(kinds)}: {describe(found[0])}{more}), so its answers are "
        f"random or depend on the batch; export it in evaluation mode (model.eval(), training=EVAL)."
    )


def refuse_training(model: onnx.ModelProto, path: str | Path) -> None:
    """Refuse a model whose answers cannot be compared.

    Raises:
        InputError: Something in it works as in training.
    """
    note = training_note(model)
    if note is not None:
        raise InputError(f"{path} cannot be compared. {note}")


def _is_true(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and bool(numpy_helper.to_array(tensor).all())


def _is_zero(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.dims:
        return False
    return tensor.data_type == onnx.TensorProto.FLOAT and float(numpy_helper.to_array(tensor)) == 0.0
