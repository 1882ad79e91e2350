"""What a model or a part of it costs: parameters, and multiply-adds for one sample.

Only operators that multiply weights or activations count: convolutions, matrix products, attention, recurrent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

import lacoot_deploy.graph.shapes.infer as static
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Shape
from lacoot_deploy.graph.model.index import GraphIndex, ModelIndex, Node, index_model
from lacoot_deploy.graph.model.table import ShapeTable
from lacoot_deploy.graph.model.tolerant import attempt
from lacoot_deploy.graph.shapes.dims import sample_value

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
        macs: Multiply-adds for one sample, free dimensions taken as 1, every body counted once; None where an
            operator's work is not known.
        opset: Version of the standard operator set.
    """

    nodes: int
    parameters: int
    macs: int | None
    opset: int


def model_costs(model: onnx.ModelProto) -> ModelCosts:
    """Nodes, parameters and multiply-adds of a whole model; reads no weights."""
    return costs_of(index_model(model))


def costs_of(index: ModelIndex) -> ModelCosts:
    """Nodes, parameters and multiply-adds of an indexed model."""
    return Costs(index, static.infer(index)).whole()


class Costs:
    """Costs of parts of an indexed model.

    Args:
        model: The model.
        tables: Shapes by graph scope, as from `shapes.infer`.
    """

    def __init__(self, model: ModelIndex, tables: Mapping[tuple[str, ...], ShapeTable]) -> None:
        self._model = model
        self._tables = tables
        self._counted: dict[int, int | None] = {}
        self._bodies: dict[int, list[GraphIndex]] = {}
        for graph in model.graphs:
            if graph.owner is not None:
                self._bodies.setdefault(id(graph.owner), []).append(graph)
        first = next(
            (
                shape
                for name in model.main.inputs
                if (shape := tables[()].shape(name)) is not None and len(shape) > 1
            ),
            (),
        )
        self._batch = first[0] if first and isinstance(first[0], int) else 1

    def whole(self) -> ModelCosts:
        """Costs of the whole model."""
        graphs, main = self._model.graphs, self._model.main
        return ModelCosts(
            nodes=sum(len(graph.graph.node) for graph in graphs),
            parameters=sum(self.parameters(graph, graph.initializers) for graph in graphs),
            macs=self.macs(main, main.nodes),
            opset=self._model.opset,
        )

    def macs(self, graph: GraphIndex, nodes: Iterable[Node]) -> int | None:
        """Multiply-adds of nodes of one graph, the bodies in them included; None where one cannot be counted."""
        total = self._total(graph, nodes)
        return None if total is None else total // self._batch

    def _total(self, graph: GraphIndex, nodes: Iterable[Node]) -> int | None:
        total = 0
        for node in nodes:
            key = id(node)
            if key not in self._counted:
                self._counted[key] = self._with_bodies(graph, node)
            count = self._counted[key]
            if count is None:
                return None
            total += count
        return total

    def _with_bodies(self, graph: GraphIndex, node: Node) -> int | None:
        total = node_macs(node, self._tables[graph.scope])
        for body in self._bodies.get(id(node), ()):
            inner = self._total(body, body.nodes)
            total = None if total is None or inner is None else total + inner
        return total

    def parameters(self, graph: GraphIndex, names: Iterable[str]) -> int:
        """Number of weight elements among the named constants of a graph."""
        return sum(_elements(graph.initializers[name]) for name in names if name in graph.initializers)


def _elements(tensor: onnx.TensorProto) -> int:
    if not tensor.dims or tensor.data_type not in _WEIGHT_TYPES:
        return 0
    return math.prod(tensor.dims)


def node_macs(node: Node, table: ShapeTable) -> int | None:
    """Multiply-adds of one node, free dimensions as 1: 0 for operators that do not multiply, None where unknown."""
    if node.domain not in ops.KNOWN_DOMAINS:
        return None
    rule = _RULES.get(node.op)
    if rule is not None:
        return attempt(rule, node, table, unknown=None)
    return None if node.op in ops.LINEAR else 0


def _size(shape: Iterable[Any]) -> int:
    return math.prod(sample_value(dim) for dim in shape)


def _shapes(node: Node, table: ShapeTable, *places: int) -> list[Shape | None]:
    names = [node.inputs[place] if place < len(node.inputs) else "" for place in places]
    return [table.shape(name) if name else None for name in names]


def _conv(weight_at: int) -> Callable[[Node, ShapeTable], int | None]:
    def rule(node: Node, table: ShapeTable) -> int | None:
        (weight,), result = _shapes(node, table, weight_at), table.shape(node.output)
        return None if weight is None or result is None else _size(result) * _size(weight[1:])

    return rule


def _conv_transpose(node: Node, table: ShapeTable) -> int | None:
    data, weight = _shapes(node, table, 0, 1)
    return None if data is None or weight is None else _size(data) * _size(weight[1:])


def _matmul(left: int, right: int) -> Callable[[Node, ShapeTable], int | None]:
    def rule(node: Node, table: ShapeTable) -> int | None:
        a, b = _shapes(node, table, left, right)
        result = table.shape(node.output)
        if result is None:
            return None
        turned = node.attribute("transA", 0)
        inner = None if not a else a[-2 if turned and len(a) > 1 else -1]
        if not isinstance(inner, int) and b:
            turned = node.attribute("transB", 0)
            inner = b[-1] if turned or len(b) == 1 else b[-2]
        return None if inner is None else _size(result) * sample_value(inner)

    return rule


def _recurrent(node: Node, table: ShapeTable) -> int | None:
    x, w, r = _shapes(node, table, 0, 1, 2)
    return None if x is None or w is None or r is None else _size(x[:-1]) * (_size(w) + _size(r))


def _packed_attention(node: Node, table: ShapeTable) -> int | None:
    """Attention that projects its input to queries, keys and values first."""
    x, weight = _shapes(node, table, 0, 1)
    if x is None or weight is None or len(x) != 3 or len(weight) != 2:
        return None
    width = sample_value(weight[1]) // 3
    return _size(x) * sample_value(weight[1]) + 2 * _size(x[:2]) * sample_value(x[1]) * width


def _attention(node: Node, table: ShapeTable) -> int | None:
    """The products of queries with keys and of their weights with values."""
    if node.domain and node.op != "MultiHeadAttention" and node.op != "GroupQueryAttention":
        return _packed_attention(node, table)
    query, key = _shapes(node, table, 0, 1)
    if query is None or len(query) not in (3, 4):
        return None
    length = (key or query)[-2]
    return 2 * _size(query) * sample_value(length)


def _blockwise(node: Node, table: ShapeTable) -> int | None:
    result, inner = table.shape(node.output), node.attribute("K", None)
    return None if result is None or inner is None else _size(result) * int(inner)


def _einsum(node: Node, table: ShapeTable) -> int | None:
    equation = node.attribute("equation", b"").decode().replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, _shapes(node, table, *range(len(terms))), strict=True):
        if shape is None or len(term) != len(shape):
            return None
        for letter, dim in zip(term, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), sample_value(dim))
    return math.prod(sizes.values())


_RULES: dict[str, Callable[[Node, ShapeTable], int | None]] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "DeformConv"), _conv(1)),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MatMul", "MatMulInteger", "Gemm", "FusedGemm", "FusedMatMul"), _matmul(0, 1)),
    **dict.fromkeys(("TransposeMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _matmul(0, 1)),
    **dict.fromkeys(("QLinearMatMul", "QGemm"), _matmul(0, 3)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
    "QAttention": _packed_attention,
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _blockwise),
    "Einsum": _einsum,
}
