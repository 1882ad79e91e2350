"""Which values of the cut network answer to which of the dense one, and where the head begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.graph.model.walk import initializer_names
from lacoot_deploy.healing.flat import FlatGraph, FlatNode
from lacoot_deploy.healing.operators import find
from lacoot_deploy.healing.weights import dependents

MOST_FEATURES = 8
"""How many values before the heads are matched where no single one dominates all outputs."""


@dataclass(frozen=True)
class Pair:
    """A value of the cut network and what it should be.

    Attributes:
        value: Its name in the cut network.
        target: The name of the dense network's value.
        kind: `end` (of a block that stays), `hole` (what is read in place of a removed block) or `features`.
    """

    value: str
    target: str
    kind: str


@dataclass(frozen=True)
class Likeness:
    """What two main graphs have in common.

    Attributes:
        nodes: Share of the cut network's nodes that the dense one has too, 0..1.
        targets: For values of the cut network, what the dense network's nodes read in their place.
        names: Values that both have.
    """

    nodes: float
    targets: dict[str, frozenset[str]]
    names: frozenset[str]


def likeness(dense: onnx.ModelProto, cut: onnx.ModelProto) -> Likeness:
    """Compare two main graphs node by node; a node is the same where operator and first result are.

    Where a node of the cut network reads v and the same node of the dense one reads w, v stands for w: behind a hole
    that is the dense network's value behind the removed block, which is what the next block received.
    """
    there = {_first(node): node for node in dense.graph.node}
    fixed = {*_constants(dense.graph), *_constants(cut.graph)}
    targets: dict[str, set[str]] = {}
    same = work = 0
    for node in cut.graph.node:
        if node.op_type == "Constant":
            continue
        work += 1
        other = there.get(_first(node))
        if other is None or other.op_type != node.op_type:
            continue
        same += 1
        for ours, theirs in zip(node.input, other.input, strict=False):
            if ours and theirs and ours not in fixed and theirs not in fixed:
                targets.setdefault(ours, set()).add(theirs)
    names = _values(dense.graph) & _values(cut.graph)
    return Likeness(same / max(work, 1), {v: frozenset(w) for v, w in targets.items()}, frozenset(names))


def _first(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _constants(graph: onnx.GraphProto) -> set[str]:
    return {*initializer_names(graph), *(_first(n) for n in graph.node if n.op_type == "Constant")}


def _values(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node if node.op_type != "Constant" for name in node.output if name}


def pair_ends(likeness: Likeness, blocks: Iterable[Block], inputs: Iterable[str]) -> list[Pair]:
    """The ends of the cut network's blocks and the values before its holes, each with its target.

    Args:
        likeness: Of the dense and the cut network.
        blocks: Blocks of the cut network.
        inputs: Public inputs; they need no target.
    """
    pairs: dict[str, Pair] = {}
    skipped = set(inputs)
    for block in blocks:
        if block.scope or block.output in skipped:
            continue
        target = _target(block.output, likeness)
        if target is not None:
            pairs[block.output] = Pair(block.output, target, "end")
    for value, targets in likeness.targets.items():
        if value in pairs or value in skipped or len(targets) != 1 or value in targets:
            continue
        pairs[value] = Pair(value, next(iter(targets)), "hole")
    return list(pairs.values())


def _target(value: str, likeness: Likeness) -> str | None:
    """What the dense network has in place of a value; its own name where readers do not agree."""
    targets = likeness.targets.get(value, frozenset())
    if len(targets) == 1:
        return next(iter(targets))
    return value if value in likeness.names else None


@dataclass(frozen=True)
class Head:
    """What lies behind the features.

    Attributes:
        features: The last values that every way to the outputs leads through.
        nodes: The nodes behind them.
    """

    features: tuple[str, ...]
    nodes: tuple[FlatNode, ...]


def find_head(graph: FlatGraph, weights: Sequence[str], ends: Sequence[str]) -> Head | None:
    """The head of a network: its last linear operators with weights, and the values that they read.

    The features are the last value that dominates all outputs with an operator that holds weights behind it; where no
    inner value dominates them all, such a value for every output. None where that value lies before the end of the last
    block: then there is no head.

    Args:
        graph: The cut network.
        weights: Names of its trainable weights.
        ends: Ends of its blocks.
    """
    moving = dependents(graph.nodes, graph.inputs)
    heavy = dependents(graph.nodes, weights)
    places = {name: place for place, node in enumerate(graph.nodes) for name in node.outputs}
    last = max((places.get(name, -1) for name in ends), default=-1)
    outputs = [name for name in graph.outputs if name in moving]
    together = _behind(graph, outputs, moving, heavy)
    parts = [together] if together is not None else [_behind(graph, [o], moving, heavy) for o in outputs]
    found = [part for part in parts if part is not None and places.get(part[0], -1) >= last]
    if not found or len(found) != len(parts) or len(found) > MOST_FEATURES:
        return None
    nodes = dict.fromkeys(node for _, behind in found for node in behind)
    return Head(tuple(dict.fromkeys(value for value, _ in found)), tuple(nodes))


def _behind(
    graph: FlatGraph, outputs: Sequence[str], moving: set[str], heavy: set[str]
) -> tuple[str, list[FlatNode]] | None:
    """The last dominator of some outputs with a linear operator behind it, and the nodes behind it."""
    frontier, passed, linear = set(outputs), list[FlatNode](), False
    for node in reversed(graph.nodes):
        if len(frontier) == 1 and linear:
            value = next(iter(frontier))
            return None if value in graph.inputs else (value, passed)
        results = frontier.intersection(node.outputs)
        if not results:
            continue
        frontier -= results
        frontier.update(name for name in node.reads if name in moving)
        passed.append(node)
        entry = find(node.domain, node.op)
        slots = entry.weights if entry is not None else ()
        weighted = any(
            i < len(node.inputs) and _constant_weight(node.inputs[i], moving, heavy) for i in slots
        )
        linear = linear or (weighted and node.op not in ("Add", "Mul", "Sub", "Sum"))
    return None


def _constant_weight(name: str, moving: set[str], heavy: set[str]) -> bool:
    """Whether an operand is made of weights alone."""
    return name in heavy and name not in moving


def head_weights(graph: FlatGraph, weights: Sequence[str], head: Head) -> list[str]:
    """The weights that only nodes of the head read, also through copies and transposes."""
    behind = set(map(id, head.nodes))
    moving = dependents(graph.nodes, graph.inputs)
    found = []
    for weight in weights:
        reached = dependents(graph.nodes, [weight]) - moving
        readers = [n for n in graph.nodes if reached.intersection(n.reads) and moving.intersection(n.outputs)]
        if readers and all(id(node) in behind for node in readers):
            found.append(weight)
    return found
