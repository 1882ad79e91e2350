"""Finds the nodes that surgery left without a purpose, and spares those that had none before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def nested_graphs(node: Any) -> Iterator[Any]:
    """The onnx-graphsurgeon graphs directly inside a node."""
    return iter(node.subgraphs()) if node.attrs else iter(())


def live_nodes(graph: Any) -> set[int]:
    """Identities of the nodes, nested ones included, that contribute to the outputs of a graphsurgeon graph."""
    return _live(graph)[0]


def _live(graph: Any) -> tuple[set[int], set[str]]:
    live: set[int] = set()
    needed = {tensor.name for tensor in graph.outputs}
    made: set[str] = set()
    rest: dict[str, Any] = {}

    def keep(node: Any) -> list[str]:
        live.add(id(node))
        made.update([tensor.name for tensor in node.outputs])
        reads = [tensor.name for tensor in node.inputs if tensor.name]
        for inner in nested_graphs(node):
            inner_live, inner_outside = _live(inner)
            live.update(inner_live)
            reads.extend(inner_outside)
        needed.update(reads)
        return reads

    # One pass from the end is all it takes where every node stands behind what it reads.
    for node in reversed(graph.nodes):
        names = [tensor.name for tensor in node.outputs if tensor.name]
        if needed.isdisjoint(names):
            rest.update(dict.fromkeys(names, node))
        else:
            keep(node)
    waiting = [name for name in needed if name in rest]
    while waiting:
        node = rest[waiting.pop()]
        if id(node) not in live:
            waiting.extend(name for name in keep(node) if name in rest)
    return live, needed - made


def drop_dead_nodes(graph: Any, *, live_before: set[int], original: set[int]) -> None:
    """Delete the nodes that contributed to an output before surgery and no longer do.

    Nodes that contributed to nothing before stay, unless they read what is deleted. Order is kept.

    Args:
        graph: The onnx-graphsurgeon graph, changed in place.
        live_before: `live_nodes` of the graph before surgery.
        original: Identities of all nodes that were there before surgery.
    """
    _drop(graph, live_nodes(graph), live_before, original, frozenset())


def _drop(
    graph: Any, live: set[int], live_before: set[int], original: set[int], gone_outside: frozenset[str]
) -> None:
    gone = set(gone_outside)
    kept = list(graph.nodes)
    while True:
        # Once is enough where every node stands behind what it reads.
        left = []
        for node in kept:
            idle = id(node) in original and id(node) not in live_before
            if id(node) in live or (idle and not _reads_any(node, gone)):
                left.append(node)
                gone.difference_update(tensor.name for tensor in node.outputs)
            else:
                gone.update(tensor.name for tensor in node.outputs if tensor.name)
        if len(left) == len(kept):
            break
        kept = left
    gone.difference_update(tensor.name for node in kept for tensor in node.outputs)
    graph.nodes = kept
    for node in kept:
        for inner in nested_graphs(node):
            _drop(inner, live, live_before, original, frozenset(gone))


def _reads_any(node: Any, names: set[str]) -> bool:
    if any(tensor.name in names for tensor in node.inputs):
        return True
    return any(_reads_any(inner_node, names) for inner in nested_graphs(node) for inner_node in inner.nodes)
