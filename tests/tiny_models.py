"""Models of a few nodes for the runtime and bench tests, each with an answer that numpy computes too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[int | str | None]]],
    outputs: dict[str, tuple[int, Sequence[int | str | None] | None]],
    weights: dict[str, np.ndarray] | None = None,
    domains: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """A model from nodes; inputs and outputs as name: (element type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in ({"": 17} | (domains or {})).items()
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def classifier(
    weight: np.ndarray | None = None, *, classes: int = 4, features: int = 6, batch: int | str = "n"
) -> onnx.ModelProto:
    """logits = x @ weight."""
    if weight is None:
        weight = np.random.default_rng(0).standard_normal((features, classes)).astype(np.float32)
    return make_model(
        [helper.make_node("MatMul", ["x", "w"], ["logits"], name="head")],
        {"x": (TensorProto.FLOAT, [batch, weight.shape[0]])},
        {"logits": (TensorProto.FLOAT, [batch, weight.shape[1]])},
        {"w": weight.astype(np.float32)},
    )


def chain(blocks: int, *, channels: int = 8, side: int = 8, seed: int = 0) -> onnx.ModelProto:
    """A chain of identical residual blocks: h + conv(relu(h)); inner values are h0 (the input), h1, h2, ..."""
    rng = np.random.default_rng(seed)
    kernel = (0.05 * rng.standard_normal((channels, channels, 3, 3))).astype(np.float32)
    nodes, weights = [], {}
    for i in range(blocks):
        weights[f"w{i}"] = kernel
        nodes += [
            helper.make_node("Relu", [f"h{i}"], [f"r{i}"], name=f"relu{i}"),
            helper.make_node("Conv", [f"r{i}", f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Add", [f"h{i}", f"c{i}"], [f"h{i + 1}"], name=f"add{i}"),
        ]
    shape = ["n", channels, side, side]
    return make_model(
        nodes,
        {"h0": (TensorProto.FLOAT, shape)},
        {f"h{blocks}": (TensorProto.FLOAT, shape)},
        weights,
    )


def text_encoder(rows: int = 7, width: int = 3) -> onnx.ModelProto:
    """Mean of embeddings under a mask: ids [n, t], mask [n, t] to [n, width]."""
    table = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    return make_model(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["embedded"], name="embed"),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT, name="cast"),
            helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"], name="unsqueeze"),
            helper.make_node("Mul", ["embedded", "mask3"], ["masked"], name="apply"),
            helper.make_node("ReduceMean", ["masked"], ["pooled"], axes=[1], keepdims=0, name="pool"),
        ],
        {
            "input_ids": (TensorProto.INT64, ["batch", "sequence"]),
            "attention_mask": (TensorProto.INT64, ["batch", "sequence"]),
        },
        {"pooled": (TensorProto.FLOAT, ["batch", width])},
        {"table": table, "last": np.array([2], dtype=np.int64)},
    )
