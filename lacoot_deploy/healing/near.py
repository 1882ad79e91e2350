"""Which weights lie beside a hole, and where the part of a network begins that depends on trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.healing.ends import Likeness
from lacoot_deploy.healing.flat import FlatGraph
from lacoot_deploy.healing.network import Network
from lacoot_deploy.healing.operators import find
from lacoot_deploy.healing.program import FROM_SHAPES, needed_nodes
from lacoot_deploy.healing.weights import dependents


def near_holes(cut: Network, dense: FlatGraph, likeness: Likeness, weights: Sequence[str]) -> list[str]:
    """The weights of the blocks before and behind each hole, and those that the dense network does not have (repairs).

    Args:
        cut: The cut network.
        dense: The dense network's graph.
        likeness: Of the two.
        weights: The weights that can be trained; all of them are given back where no hole is found.
    """
    holes = {value for value, targets in likeness.targets.items() if value not in targets}
    new = {name for name in weights if name not in dense.constants}
    for node in cut.graph.nodes:
        if new.intersection(node.inputs):
            holes.update(node.inputs, node.outputs)
    beside: set[str] = set(new)
    for block in find_blocks(cut.model):
        if not block.scope and {block.input, block.output} & holes:
            beside.update(_reads_between(cut.graph, block.input, block.output))
    made_of = {name: dependents(cut.graph.nodes, [name]) for name in weights}
    moving = dependents(cut.graph.nodes, cut.graph.inputs)
    found = [name for name in weights if beside & (made_of[name] - moving)]
    return found or list(weights)


def frontier(graph: FlatGraph, weights: Iterable[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Values that no trained weight reaches, that nodes behind trained weights read, and that take work to compute.

    ONNX Runtime computes them once; what needs no linear operator is as well computed in PyTorch.
    """
    trained = dependents(graph.nodes, weights)
    moving = dependents(graph.nodes, graph.inputs)
    worked: set[str] = set()
    for node in graph.nodes:
        entry = find(node.domain, node.op)
        linear = entry is None or (
            bool(entry.weights) and node.op not in ("Add", "Mul", "Sub", "Sum", "Gather")
        )
        steered = node.op in FROM_SHAPES
        if moving.intersection(node.outputs) and (
            linear or (worked.intersection(node.reads) and not steered) or node.bodies
        ):
            worked.update(name for name in node.outputs if name)
    read = {
        name
        for node in needed_nodes(graph, wanted, ())
        if trained.intersection(node.outputs)
        for name in node.reads
    }
    return tuple(sorted(name for name in read if name in worked and name not in trained))


def _reads_between(graph: FlatGraph, start: str, end: str) -> set[str]:
    """What the nodes on the ways from one value to another read."""
    behind = dependents(graph.nodes, [start])
    needed, found = {end}, set[str]()
    for node in reversed(graph.nodes):
        if (
            needed.intersection(node.outputs)
            and behind.intersection(node.outputs)
            and start not in node.outputs
        ):
            found.update(node.reads)
            needed.update(node.reads)
    return found
