"""Small models that were once not searched although ONNX Runtime runs them, each with samples for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from builders import GraphBuilder
from onnx import TensorProto

from lacoot_deploy.data import Samples

Case = tuple[onnx.ModelProto, Samples]
C, SIDE, COUNT = 6, 5, 24


def _images(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def _conv(g: GraphBuilder, x: str, channels: int, out: int, side: int = 3) -> str:
    weight, bias = g.normal(out, channels, side, side), g.normal(out)
    return g.op("Conv", x, weight, bias, pads=[side // 2] * 4)


def _body(g: GraphBuilder, x: str, blocks: int = 3) -> str:
    x = g.op("Relu", _conv(g, x, 3, C))
    for _ in range(blocks):
        branch = _conv(g, g.op("Relu", _conv(g, x, C, C)), C, C)
        x = g.op("Relu", g.op("Add", branch, x))
    return x


def _head(g: GraphBuilder, x: str) -> None:
    pooled = g.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    g.op("MatMul", pooled, g.normal(C, 5), output="y")


def _mlp(g: GraphBuilder, x: str, width: int = 8, blocks: int = 3, output: str = "y") -> str:
    for i in range(blocks):
        hidden = g.op("Relu", g.op("MatMul", x, g.normal(width, width)))
        last = output if i == blocks - 1 else None
        x = g.op("Add", x, g.op("MatMul", hidden, g.normal(width, width)), output=last)
    return x


def _rows(count: int = COUNT, width: int = 8) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((count, width)).astype(np.float32)


def fixed_batch(size: int) -> Case:
    """The batch fixed in the signature."""
    g = GraphBuilder()
    _head(g, _body(g, g.input("x", [size, 3, SIDE, SIDE])))
    return g.model({"y": [size, 5]}), Samples({"x": _images()})


def baked_batch(size: int) -> Case:
    """A free batch in the signature, and one size written into a Reshape."""
    g = GraphBuilder()
    x = _body(g, g.input("x", ["N", 3, SIDE, SIDE]))
    pooled = g.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    shaped = g.op("Reshape", pooled, g.weight([size, C], dtype=np.int64))
    g.op("MatMul", shaped, g.normal(C, 5), output="y")
    return g.model({"y": ["N", 5]}, infer=False), Samples({"x": _images()})


def shared_input(shape: tuple[int, ...]) -> Case:
    """A switch beside the samples that is the same for all."""
    g = GraphBuilder()
    x, scale = g.input("x", ["N", 3, SIDE, SIDE]), g.input("scale", shape)
    _head(g, _body(g, g.op("Mul", x, scale)))
    feeds = {"x": _images(), "scale": np.full(shape, 1.5, np.float32)}
    return g.model({"y": ["N", 5]}), Samples(feeds, shared=frozenset({"scale"}))


def unsorted_nodes() -> Case:
    """Nodes not in topological order."""
    g = GraphBuilder()
    _head(g, _body(g, g.input("x", ["N", 3, SIDE, SIDE])))
    model = g.model({"y": ["N", 5]})
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[1:], nodes[0]])
    return model, Samples({"x": _images()})


def dead_nodes() -> Case:
    """Nodes that nobody reads, in the middle and at the start."""
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    g.op("Shape", x)
    middle = _mlp(g, x, output="middle")
    g.op("Relu", middle)
    _mlp(g, middle)
    return g.model({"y": ["N", 8]}), Samples({"x": _rows()})


def fused_norms(post: bool) -> Case:
    """Sums and norms fused by ONNX Runtime's optimiser, of whose types no inference knows."""
    g = GraphBuilder()
    ones = np.ones(8)
    x = g.op("MatMul", g.input("x", ["N", 4, 8]), g.normal(8, 8))
    n = g.op("LayerNormalization", x, g.weight(ones), g.normal(8), axis=-1)
    for i in range(4):
        hidden = g.op("Gelu", g.op("MatMul", n, g.normal(8, 16)), domain="com.microsoft")
        branch = g.op("MatMul", hidden, g.normal(16, 8))
        inputs = [branch, x, g.weight(ones), g.normal(8), g.normal(8)]
        outputs = [f"n{i}"] if post else [f"n{i}", "", "", f"s{i}"]
        g.nodes.append(
            onnx.helper.make_node(
                "SkipLayerNormalization", inputs, outputs, name=f"SLN_{i}", domain="com.microsoft"
            )
        )
        n, x = outputs[0], outputs[-1]
    g.op("MatMul", n, g.normal(8, 3), output="y")
    tokens = np.random.default_rng(3).standard_normal((COUNT, 4, 8)).astype(np.float32)
    return g.model({"y": ["N", 4, 3]}, infer=False), Samples({"x": tokens})


def fused_convolution() -> Case:
    """A convolution that adds the skip itself."""
    g = GraphBuilder()
    x = _conv(g, g.input("x", ["N", 3, SIDE, SIDE]), 3, C)
    options = {"pads": [1] * 4, "activation": "Relu", "domain": "com.microsoft"}
    for _ in range(3):
        a = g.op("FusedConv", x, g.normal(C, C, 3, 3), g.normal(C), **options)
        x = g.op("FusedConv", a, g.normal(C, C, 3, 3), g.normal(C), x, **options)
    _head(g, x)
    return g.model({"y": ["N", 5]}, infer=False), Samples({"x": _images()})


def nested_blocks() -> Case:
    """A residual unit inside the branch of another, by the names of the modules that they came from."""
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    v = g.op("MatMul", x, g.normal(8, 8))
    inner = g.op("MatMul", g.op("Relu", g.op("MatMul", v, g.normal(8, 8))), g.normal(8, 8))
    total = g.op("Add", inner, g.op("MatMul", v, g.normal(8, 8)))
    g.op("Add", x, g.op("MatMul", total, g.normal(8, 8)), output="sum")
    g.op("MatMul", "sum", g.normal(8, 8), output="y")
    parts = ("attn/v", "attn/q", "attn/act", "attn/k", "attn/pe", "attn", "proj", None)
    for node, part in zip(g.nodes, parts, strict=False):
        node.name = f"/b/{part}/{node.op_type}" if part else f"/b/{node.op_type}"
    return g.model({"y": ["N", 8]}), Samples({"x": _rows()})


def stale_notes() -> Case:
    """Notes of inner values that an edit left behind."""
    model, samples = fixed_batch(1)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for value in model.graph.value_info:
        if value.name.startswith("relu"):
            value.type.tensor_type.shape.dim[1].dim_value = C + 2
    return model, samples


def copied_weights() -> Case:
    """Equal biases stored once, and given to the others by nodes that copy the one."""
    g = GraphBuilder()
    x, bias = g.input("x", ["N", 8]), g.normal(8)
    for i in range(3):
        hidden = g.op("Relu", g.op("Add", g.op("MatMul", x, g.normal(8, 8)), bias))
        out = g.op("Add", g.op("MatMul", hidden, g.normal(8, 8)), g.op("Identity", bias))
        x = g.op("Add", x, out, output="y" if i == 2 else None)
    return g.model({"y": ["N", 8]}), Samples({"x": _rows()})


def rows_of_a_detector(batch: str | int) -> Case:
    """Boxes that are found: as many rows as there are in the picture."""
    g = GraphBuilder()
    x = _body(g, g.input("x", [batch, 3, SIDE, SIDE]))
    found = _conv(g, x, C, 5, 1)
    flat = g.op("Reshape", found, g.weight([0, 5, SIDE * SIDE], dtype=np.int64))
    rows = g.op("Transpose", flat, perm=[0, 2, 1], output="rows")
    boxes, scores = (
        g.op("Slice", rows, *(g.weight([n], dtype=np.int64) for n in (start, end, 2)))
        for start, end in ((0, 4), (4, 5))
    )
    g.op(
        "NonMaxSuppression",
        boxes,
        g.op("Transpose", scores, perm=[0, 2, 1]),
        g.weight([3], dtype=np.int64),
        g.weight([0.5]),
        g.weight([0.0]),
        output="selected",
    )
    model = g.model({"selected": ["found", 3]}, dtype=TensorProto.INT64, infer=False)
    return model, Samples({"x": _images()})


def stacked_outputs() -> Case:
    """An auxiliary output that counts layers first, beside one of integers."""
    g = GraphBuilder()
    x = _mlp(g, g.input("x", ["N", 8]))
    first = g.op("Unsqueeze", x, g.weight([0], dtype=np.int64))
    g.op("Concat", first, first, axis=0, output="stack")
    g.op("ArgMax", x, axis=1, keepdims=0, output="index")
    model = g.model({"y": ["N", 8], "stack": [2, "N", 8], "index": ["N"]}, infer=False)
    model.graph.output[2].type.tensor_type.elem_type = TensorProto.INT64
    return model, Samples({"x": _rows()})


def decoder_with_cache() -> Case:
    """Keys of the past come in, those of the future go out; the mask is as long as both."""
    g = GraphBuilder()
    x = g.op("Gather", g.normal(20, 8), g.input("ids", ["B", "S"], TensorProto.INT64))
    past = g.input("past.key", ["B", "P", 8])
    mask = g.op("Cast", g.input("mask", ["B", "P+S"], TensorProto.INT64), to=1)
    bias = g.op(
        "Unsqueeze",
        g.op("Mul", g.op("Sub", g.weight(1.0), mask), g.weight(-1e9)),
        g.weight([1], dtype=np.int64),
    )
    keys = g.op("Concat", past, g.op("MatMul", x, g.normal(8, 8)), axis=1, output="present.key")
    scores = g.op("Add", g.op("MatMul", x, g.op("Transpose", keys, perm=[0, 2, 1])), bias)
    x = g.op("Add", x, g.op("MatMul", g.op("Softmax", scores, axis=-1), keys))
    for _ in range(3):
        x = g.op("Add", x, g.op("MatMul", g.op("Relu", g.op("MatMul", x, g.normal(8, 16))), g.normal(16, 8)))
    g.op("MatMul", x, g.normal(8, 20), output="logits")
    model = g.model({"logits": ["B", "S", 20], "present.key": ["B", "P+S", 8]}, infer=False)
    r = np.random.default_rng(4)
    feeds = {
        "ids": r.integers(0, 20, (COUNT, 3)),
        "mask": np.ones((COUNT, 7), np.int64),
        "past.key": r.standard_normal((COUNT, 4, 8)).astype(np.float32),
    }
    return model, Samples(feeds)


CASES: dict[str, Callable[[], Case]] = {
    "fixed batch 1": lambda: fixed_batch(1),
    "fixed batch 2": lambda: fixed_batch(2),
    "batch 1 in a Reshape": lambda: baked_batch(1),
    "batch 4 in a Reshape": lambda: baked_batch(4),
    "scalar input": lambda: shared_input(()),
    "switch": lambda: shared_input((1,)),
    "unsorted": unsorted_nodes,
    "dead nodes": dead_nodes,
    "fused pre-norm": lambda: fused_norms(post=False),
    "fused post-norm": lambda: fused_norms(post=True),
    "fused convolution": fused_convolution,
    "nested blocks": nested_blocks,
    "stale notes": stale_notes,
    "copied weights": copied_weights,
    "rows of a detector": lambda: rows_of_a_detector("N"),
    "rows, batch 1": lambda: rows_of_a_detector(1),
    "stacked outputs": stacked_outputs,
    "decoder with cache": decoder_with_cache,
}
