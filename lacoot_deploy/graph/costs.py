"""What a model or a part of it costs: parameters, and multiply-adds for one sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx

from lacoot_deploy.graph import shapes as static
from lacoot_deploy.graph.blocks import Shape
from lacoot_deploy.graph.index import GraphIndex, Node, index_model

_WEIGHT_TYPES = frozenset(
    value
    for name, value in onnx.TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT", "DOUBLE", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"))
)


@dataclass(frozen=True)
class ModelCosts:
    """Size of a model.

    Attributes:
        nodes: Nodes of the main graph and of all bodies.
        parameters: Elements of all weights; scalars, shapes and other integer constants are none.
        macs: Multiply-adds for one sample, free dimensions taken as 1, bodies counted once; None where the shapes of
            an operator that multiplies are unknown.
        opset: Version of the standard operator set.
    """

    nodes: int
    parameters: int
    macs: int | None
    opset: int


def model_costs(model: onnx.ModelProto) -> ModelCosts:
    """Nodes, parameters and multiply-adds of a whole model; reads no weights."""
    index = index_model(model)
    tables = static.infer(index)
    macs: int | None = 0
    for graph in index.graphs:
        part = total_macs(graph.nodes, tables[graph.scope])
        macs = None if macs is None or part is None else macs + part
    return ModelCosts(
        nodes=sum(len(graph.graph.node) for graph in index.graphs),
        parameters=sum(parameters(graph, graph.initializers) for graph in index.graphs),
        macs=macs,
        opset=index.opset,
    )


def parameters(graph: GraphIndex, names: Iterable[str]) -> int:
    """Number of weight elements among the named constants of a graph."""
    return sum(_parameters(graph.initializers[name]) for name in names if name in graph.initializers)


def _parameters(tensor: onnx.TensorProto) -> int:
    if not tensor.dims or tensor.data_type not in _WEIGHT_TYPES:
        return 0
    return math.prod(tensor.dims)


def total_macs(nodes: Iterable[Node], table: static.ShapeTable) -> int | None:
    """Multiply-adds of nodes for one sample; None where one of them cannot be counted."""
    total = 0
    for node in nodes:
        count = node_macs(node, table)
        if count is None:
            return None
        total += count
    return total


def node_macs(node: Node, table: static.ShapeTable) -> int | None:
    """Multiply-adds of one node for one sample: 0 for operators that do not multiply, None where unknown."""
    rule = _RULES.get(node.op)
    if rule is None:
        return 0
    return rule(node, table)


def _size(shape: Shape, *, sample: bool = True) -> int:
    """Number of elements, free dimensions as 1; with `sample`, the leading (batch) dimension too."""
    dims = shape[1:] if sample else shape
    return math.prod(dim if isinstance(dim, int) else 1 for dim in dims)


def _conv(node: Node, table: static.ShapeTable) -> int | None:
    weight, result = table.shape(node.inputs[1]), table.shape(node.output)
    if weight is None or result is None:
        return None
    return _size(result) * _size(weight)


def _conv_transpose(node: Node, table: static.ShapeTable) -> int | None:
    weight, data = table.shape(node.inputs[1]), table.shape(node.inputs[0])
    if weight is None or data is None:
        return None
    return _size(data) * _size(weight)


def _matmul(node: Node, table: static.ShapeTable) -> int | None:
    a, b, result = (table.shape(name) for name in (*node.inputs[:2], node.output))
    if a is None or result is None or b is None:
        return None
    inner = a[-1] if isinstance(a[-1], int) else b[-2] if len(b) > 1 else b[-1]
    # The first of several leading dimensions is the batch; a plain matrix product has rows for samples.
    return _size(result) * (inner if isinstance(inner, int) else 1)


def _gemm(node: Node, table: static.ShapeTable) -> int | None:
    weight, result = table.shape(node.inputs[1]), table.shape(node.output)
    if weight is None:
        return None
    # Rows count as samples only where they are the batch: the product of a reshaped sequence is one row each.
    rows = result[0] if result and isinstance(result[0], int) else 1
    del rows
    return _size(weight, sample=False)


def _recurrent(node: Node, table: static.ShapeTable) -> int | None:
    x, w, r = (table.shape(name) for name in node.inputs[:3])
    if x is None or w is None or r is None:
        return None
    steps = x[0] if isinstance(x[0], int) else 1
    return steps * (_size(w, sample=False) + _size(r, sample=False))


def _attention(node: Node, table: static.ShapeTable) -> int | None:
    """The two products of scores and values, the projection included where the operator holds it."""
    query = table.shape(node.inputs[0])
    if query is None or not isinstance(query[-1], int):
        return None
    length = query[-2] if isinstance(query[-2], int) else 1
    width = query[-1] * (query[1] if len(query) == 4 and isinstance(query[1], int) else 1)
    total = 2 * length * length * width
    if node.domain and node.op in ("Attention", "QAttention"):
        weight = table.shape(node.inputs[1])
        if weight is None:
            return None
        total += length * _size(weight, sample=False)
    return total


def _n_bits(node: Node, table: static.ShapeTable) -> int | None:
    result = table.shape(node.output)
    inner = next((attr.i for attr in node.proto.attribute if attr.name == "K"), None)
    return None if result is None or inner is None else _size(result) * int(inner)


_RULES: dict[str, Callable[[Node, static.ShapeTable], int | None]] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "NhwcConv", "NhwcFusedConv"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(
        ("MatMul", "MatMulInteger", "FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _matmul
    ),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _n_bits),
}
