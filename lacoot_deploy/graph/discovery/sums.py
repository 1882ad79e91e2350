"""Sums of two branches with no skip path: detection heads, gates, two towers. They are named, and refused."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from lacoot_deploy.graph.model.index import GraphIndex, Node

_MAX_NODES = 1000
_BOTH = 3


def common_source(
    graph: GraphIndex, operands: Sequence[str], is_linear: Callable[[Node], bool]
) -> tuple[str, list[Node]] | None:
    """The nearest value that two operands both come from, if work is done on the way to each.

    Args:
        graph: The graph.
        operands: The operands of a sum; there are two different ones.
        is_linear: Whether a node holds weights or multiplies activations.

    Returns:
        The value and the nodes from it to the sum; None where the operands share nothing near, or one of them is
        mere arithmetic.
    """
    sides: dict[str, int] = {}
    heap: list[tuple[int, str]] = []

    def reach(name: str, side: int) -> None:
        before = sides.get(name, 0)
        if name in graph.dynamic and before | side != before:
            sides[name] = before | side
            heapq.heappush(heap, (-graph.position(name), name))

    for side, name in zip((1, 2), dict.fromkeys(operands), strict=True):
        reach(name, side)
    work = {1: False, 2: False}
    passed: list[Node] = []
    done: set[tuple[str, int]] = set()
    while heap and len(passed) < _MAX_NODES:
        _, name = heapq.heappop(heap)
        side = sides[name]
        if (name, side) in done:
            continue
        done.add((name, side))
        if side == _BOTH:
            nodes = {node.index: node for node in passed}
            return (name, [nodes[index] for index in sorted(nodes)]) if all(work.values()) else None
        node = graph.producer.get(name)
        if node is None:
            continue
        passed.append(node)
        work[side] = work[side] or is_linear(node)
        for source in node.data:
            reach(source, side)
    return None
