"""What deleting a block takes out of the graph: the nodes and weights that nothing else needs any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

from lacoot_deploy.graph.model.index import GraphIndex, Node


def dead_after(
    graph: GraphIndex,
    unread: Iterable[str],
    *,
    kept: Iterable[str],
    dropped: Sequence[tuple[Node, str]] = (),
    released: Collection[str] = (),
    idle: AbstractSet[int],
) -> list[Node]:
    """Nodes that die when values lose all readers, or single operands are taken from nodes that stay.

    What contributes to no result of the graph keeps nothing alive, and goes with what it reads.

    Args:
        graph: The graph.
        unread: Values that nothing reads any more.
        kept: Values that gain readers, and stay.
        dropped: Operands that single nodes stop reading.
        released: Results of the graph that go as well.
        idle: Positions of the nodes that contribute to no result.

    Returns:
        The nodes in topological order.
    """
    lost: dict[str, set[int]] = {}
    for node, name in dropped:
        lost.setdefault(name, set(idle)).add(node.index)
    forced, needed = set(unread), set(kept)
    needed |= graph.output_set.difference(released)
    stack = [graph.producer[name] for name in (*forced, *lost, *released) if name in graph.producer]
    dead: dict[int, Node] = {}
    while stack:
        node = stack.pop()
        if node.index in dead:
            continue
        if node.index not in idle and not all(
            _unread(graph, name, dead, lost.get(name, idle), forced, needed) for name in node.outputs if name
        ):
            continue
        dead[node.index] = node
        makers = (graph.producer[name] for name in node.reads if name in graph.producer)
        stack.extend(maker for maker in makers if maker.index not in idle)
        gone = (name for name in node.outputs if name not in forced)
        stack.extend(reader for name in gone for reader in graph.readers(name) if reader.index in idle)
    return [dead[index] for index in sorted(dead)]


def _unread(
    graph: GraphIndex,
    name: str,
    dead: dict[int, Node],
    lost: AbstractSet[int],
    forced: set[str],
    needed: set[str],
) -> bool:
    if name in forced:
        return True
    if name in needed:
        return False
    return all(reader.index in dead or reader.index in lost for reader in graph.readers(name))


def freed_constants(graph: GraphIndex, dead: Sequence[Node]) -> list[str]:
    """Constants of the graph that only dead nodes read."""
    gone = {node.index for node in dead}
    names = dict.fromkeys(name for node in dead for name in node.reads if name in graph.initializers)
    return [
        name
        for name in names
        if name not in graph.output_set and all(reader.index in gone for reader in graph.readers(name))
    ]
