"""Gates that mix or scale a value by what is computed from it: highway layers, squeeze and excitation. Refused."""

from __future__ import annotations

from collections.abc import Callable

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.discovery.paths import LAYOUT, between
from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.table import ShapeTable, same_shape

_SQUASHING = frozenset({"Sigmoid", "HardSigmoid", "Tanh", "Softmax", "Clip"})


def gated_sum(graph: GraphIndex, merge: Node, is_linear: Callable[[Node], bool]) -> Candidate | None:
    """A highway layer, `t * H(x) + (1 - t) * x`: the part of x that goes past is scaled by the input itself."""
    operands = [name for name in merge.inputs if name in graph.dynamic]
    if len(operands) != 2:
        return None
    for skip, branch in (operands, operands[::-1]):
        scaled = graph.producer.get(skip)
        if scaled is None or scaled.op != "Mul" or scaled.domain:
            continue
        for x, gate in _either_way(scaled):
            found = _gate(graph, x, gate, is_linear)
            other = between(graph, x, branch)
            if found is None or other is None or not any(map(is_linear, other)):
                continue
            nodes = {node.index: node for node in (*found, *other)}
            text = (
                f"The merge mixes {x} with its branch by the gate {gate}, which is computed from {x}: there is no skip "
                f"path that would remain."
            )
            region = [nodes[index] for index in sorted(nodes)]
            return Candidate(
                merge, x, skip, (branch,), region, (scaled,), reason=Reason("gated", text, (x, gate))
            )
    return None


def gated_product(
    graph: GraphIndex, merge: Node, is_linear: Callable[[Node], bool], table: ShapeTable
) -> Candidate | None:
    """A gate of its own, `x * s(F(x))`, that scales what it reads; none where both factors are computed alike."""
    for x, gate in _either_way(merge):
        if same_shape(table.shape(x), table.shape(merge.output)) is False:
            continue
        found = _gate(graph, x, gate, is_linear)
        if found is not None and any(map(is_linear, found)):
            text = f"The merge multiplies {x} by a gate computed from it ({gate}) and adds nothing: no skip path."
            return Candidate(merge, x, x, (gate,), found, (), reason=Reason("gated", text, (x, gate)))
    return None


def _either_way(product: Node) -> tuple[tuple[str, str], ...]:
    """The two factors of a product in both orders; none where it has another number."""
    if len(product.inputs) != 2:
        return ()
    a, b = product.inputs
    return ((a, b), (b, a))


def _gate(graph: GraphIndex, x: str, gate: str, is_linear: Callable[[Node], bool]) -> list[Node] | None:
    """The nodes from a value to the gate on it, which ends in a squashing function, perhaps taken from one."""
    if not _is_squashed(graph, gate):
        return None
    found = between(graph, x, gate)
    return found if found is not None and any(map(is_linear, found)) else None


def _is_squashed(graph: GraphIndex, value: str) -> bool:
    for _ in range(6):
        node = graph.producer.get(value)
        if node is None or node.op in _SQUASHING:
            return node is not None
        sources = [name for name in node.data if name in graph.dynamic]
        if node.op not in LAYOUT | {"Sub", "Add", "Mul", "Div"} or len(sources) != 1:
            return False
        value = sources[0]
    return False
