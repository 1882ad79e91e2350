"""Which provider runs which node, and whether a node on the CPU is mere shape arithmetic or real work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# ONNX Runtime itself keeps these on the CPU when they only compute shapes.
_SHAPE_SOURCES = {"Shape", "Size"}
_SHAPE_OPS = _SHAPE_SOURCES | {
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "Range", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceSum", "Reshape", "Round", "Slice", "Split", "Squeeze",
    "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where one node runs.

    Attributes:
        node: The node's name as ONNX Runtime knows it (fused nodes have names of its own making).
        op: Its operator.
        provider: ONNX Runtime's name of the provider.
        shape_arithmetic: The node only computes shapes, which is best done on the CPU.
    """

    node: str
    op: str
    provider: str
    shape_arithmetic: bool = False


def placements(session: Any, shape_nodes: frozenset[str]) -> tuple[Placement, ...]:
    """Every node of a session with its provider; () where the session did not record it.

    Args:
        session: An `onnxruntime.InferenceSession` with `session.record_ep_graph_assignment_info` set.
        shape_nodes: Names of the nodes known to be shape arithmetic.
    """
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except (
        Exception
    ):  # ONNX Runtime raises its generic failure where the record was not asked for or not built in
        return ()
    return tuple(
        Placement(node.name, node.op_type, graph.ep_name, node.name in shape_nodes)
        for graph in subgraphs
        for node in graph.get_nodes()
    )


def shape_arithmetic_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the nodes whose inputs all come from Shape, Size, constants or other such nodes."""
    fixed = {tensor.name for tensor in model.graph.initializer} | {""}
    fixed |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    arithmetic: set[str] = set()
    names = set()
    for node in model.graph.node:
        if node.op_type in _SHAPE_SOURCES:
            derived = True
        elif node.op_type in _SHAPE_OPS:
            derived = all(value in fixed or value in arithmetic for value in node.input)
        else:
            derived = False
        if derived:
            arithmetic.update(node.output)
            names.add(node.name)
    return frozenset(names - {""})
