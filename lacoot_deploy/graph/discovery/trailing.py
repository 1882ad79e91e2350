"""The activation and the norm right after a merge, whole or spelt out in small operators."""

from __future__ import annotations

from dataclasses import dataclass

from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.index import GraphIndex, Node

POINTWISE = frozenset(
    {
        "Sigmoid", "Tanh", "Erf", "Softplus", "HardSigmoid", "Clip", "Relu", "Mul", "Add", "Div", "Sub",
        "Pow", "Cast", "Max", "Min", "Exp", "Neg", "Abs",
    }
)  # fmt: skip
_BENDING = frozenset({"Sigmoid", "Tanh", "Erf", "Softplus", "HardSigmoid", "Clip", "Relu", "Max", "Min"})
_AVERAGING = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "InstanceNormalization"})
_ROOTS = frozenset({"Sqrt", "Reciprocal", "Pow", "ReduceL2", "InstanceNormalization"})
_NORM_STEPS = _AVERAGING | frozenset(
    {"Sub", "Mul", "Div", "Add", "Pow", "Sqrt", "Reciprocal", "Cast", "Reshape", "Max", "Clip"}
)
_MAX_NODES = 24


@dataclass(frozen=True)
class Tail:
    """An operator after a merge, perhaps in several nodes.

    Attributes:
        kind: `activation` or `norm`.
        nodes: Its nodes in topological order.
        output: The one value that leaves it.
    """

    kind: str
    nodes: tuple[Node, ...]
    output: str


def find_tail(graph: GraphIndex, value: str) -> Tail | None:
    """The activation or norm that alone reads a value; None where something else reads it too."""
    if value in graph.output_set:
        return None
    readers = graph.readers(value)
    if not readers or any(node.captured for node in readers):
        return None
    if len(readers) == 1:
        node = readers[0]
        if value in node.captured or not node.inputs or node.inputs[0] != value:
            return _absorb(graph, value, "activation") or _absorb(graph, value, "norm")
        if node.op in ops.ACTIVATIONS and node.op != "Erf":
            # A lone Sigmoid, Tanh or Clip is an activation; as one operand of more it is part of a larger one.
            return Tail("activation", (node,), node.output)
        if node.op in ops.NORMS and node.op != "InstanceNormalization":
            return Tail("norm", (node,), node.output)
    return _absorb(graph, value, "activation") or _absorb(graph, value, "norm")


def _absorb(graph: GraphIndex, value: str, kind: str) -> Tail | None:
    """Grow a region from a value along allowed operators until one single value leaves it."""
    allowed = POINTWISE if kind == "activation" else _NORM_STEPS
    inner = {value}
    taken: list[Node] = []
    queue = {node.index: node for node in graph.readers(value)}
    while queue and len(taken) < _MAX_NODES:
        node = queue.pop(min(queue))
        if node.op not in allowed or node.domain or node.captured:
            return None
        if any(name in graph.dynamic and name not in inner for name in node.data):
            return None
        taken.append(node)
        inner.update(name for name in node.outputs if name)
        for name in node.outputs:
            for reader in graph.readers(name):
                queue[reader.index] = reader
        if any(name in graph.output_set for name in node.outputs[:1]) and queue:
            return None
        frontier = _frontier(graph, value, taken)
        if len(frontier) == 1 and _is_complete(taken, kind):
            return _finish(graph, kind, taken, frontier[0])
    return None


def _frontier(graph: GraphIndex, value: str, taken: list[Node]) -> list[str]:
    own = {node.index for node in taken}
    names = [value, *(name for node in taken for name in node.outputs if name)]
    return [
        name
        for name in names
        if name in graph.output_set or any(reader.index not in own for reader in graph.readers(name))
    ]


def _is_complete(taken: list[Node], kind: str) -> bool:
    kinds = {node.op for node in taken}
    if kind == "activation":
        # A single operator was looked at before; here at least one bend and one product with the input itself.
        return bool(kinds & _BENDING) and len(taken) > 1 and taken[-1].op in ("Mul", "Div", "Max")
    return (
        bool(kinds & _AVERAGING)
        and bool(kinds & _ROOTS)
        and taken[-1].op in ("Mul", "Div", "InstanceNormalization")
    )


def _finish(graph: GraphIndex, kind: str, taken: list[Node], output: str) -> Tail:
    """Take along the constant factors and offsets that belong to the operator: gamma, beta, the 0.5 of a GELU."""
    kinds = {node.op for node in taken}
    if kind == "norm":
        wanted = ["Cast", "Reshape", "Mul", "Add", "Cast"]
    elif kinds & {"Erf", "Tanh", "Clip"}:
        wanted = ["Mul", "Div"]
    else:
        wanted = []
    nodes = list(taken)
    for op in wanted:
        readers = graph.readers(output)
        if len(readers) != 1 or output in graph.output_set or readers[0].op != op:
            continue
        node = readers[0]
        others = [name for name in node.data if name != output]
        if node.captured or any(name in graph.dynamic for name in others):
            continue
        if kind == "activation" and any(
            (t := graph.constant(name)) is None or list(t.dims) not in ([], [1]) for name in others
        ):
            continue
        nodes.append(node)
        output = node.output
    return Tail(kind, tuple(nodes), output)
