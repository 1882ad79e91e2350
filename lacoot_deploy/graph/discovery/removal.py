"""What deleting a block takes out of the graph: the nodes and weights that nothing else needs any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lacoot_deploy.graph.model.index import GraphIndex, Node


def dead_after(
    graph: GraphIndex, unread: Iterable[str], *, kept: Iterable[str], dropped: Sequence[tuple[Node, str]] = ()
) -> list[Node]:
    """Nodes that die when values lose all readers, or single operands are taken from nodes that stay.

    Args:
        graph: The graph.
        unread: Values that nothing reads any more.
        kept: Values that gain readers, and stay.
        dropped: Operands that single nodes stop reading.

    Returns:
        The nodes in topological order.
    """
    lost: dict[str, set[int]] = {}
    forced, needed = set(unread), set(kept)
    for node, name in dropped:
        lost.setdefault(name, set()).add(node.index)
    stack = [graph.producer[name] for name in (*forced, *lost) if name in graph.producer]
    dead: dict[int, Node] = {}
    while stack:
        node = stack.pop()
        if node.index in dead:
            continue
        if not all(_unread(graph, name, dead, lost, forced, needed) for name in node.outputs if name):
            continue
        dead[node.index] = node
        stack.extend(graph.producer[name] for name in node.reads if name in graph.producer)
    return [dead[index] for index in sorted(dead)]


def _unread(
    graph: GraphIndex,
    name: str,
    dead: dict[int, Node],
    lost: dict[str, set[int]],
    forced: set[str],
    needed: set[str],
) -> bool:
    if name in forced:
        return True
    if name in needed or name in graph.output_set:
        return False
    gone = lost.get(name, set())
    return all(reader.index in dead or reader.index in gone for reader in graph.readers(name))


def freed_constants(graph: GraphIndex, dead: Sequence[Node]) -> list[str]:
    """Constants of the graph that only dead nodes read."""
    gone = {node.index for node in dead}
    names = dict.fromkeys(name for node in dead for name in node.reads if name in graph.initializers)
    return [
        name
        for name in names
        if name not in graph.output_set and all(reader.index in gone for reader in graph.readers(name))
    ]
