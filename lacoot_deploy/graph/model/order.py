"""The nodes of a graph in topological order."""

from __future__ import annotations

import heapq

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import body_reads

Entry = tuple[onnx.NodeProto, tuple[str, ...], tuple[str, ...]]


def sorted_nodes(graph: onnx.GraphProto) -> list[Entry]:
    """Nodes, operands and results in topological order: the file's own where it is one, else a stable sort of it.

    Raises:
        InputError: Two nodes compute one value, or nodes wait for each other in a circle.
    """
    nodes = [(node, tuple(node.input), tuple(node.output)) for node in graph.node]
    made: dict[str, int] = {}
    for i, (_, _, results) in enumerate(nodes):
        for name in results:
            if name and made.setdefault(name, i) != i:
                raise InputError(f"The model is not valid: {name} is computed by two nodes.")
    late = made.get
    if all(late(name, -1) < i for i, (_, operands, _) in enumerate(nodes) for name in operands) and all(
        late(name, -1) < i for i, (node, _, _) in enumerate(nodes) for name in body_reads(node)
    ):
        return nodes
    order = _kahn(
        [
            {made[name] for name in (*operands, *body_reads(node)) if name in made}
            for node, operands, _ in nodes
        ]
    )
    if len(order) < len(nodes):
        name = next(iter(nodes[min(set(range(len(nodes))) - set(order))][2]), "")
        raise InputError(
            f"The model is not valid: to compute {name}, its nodes read one another in a circle."
        )
    return [nodes[i] for i in order]


def _kahn(needs: list[set[int]]) -> list[int]:
    """Positions in topological order, as near to the old order as can be; those on or behind a circle are left out."""
    readers: list[list[int]] = [[] for _ in needs]
    waiting = [len(sources) for sources in needs]
    for i, sources in enumerate(needs):
        for source in sources:
            readers[source].append(i)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers[i]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order
