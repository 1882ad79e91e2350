"""Splits a model at its blocks into pieces that run one after another.

A search tries many removals. With the model in pieces, what lies before the first changed block is computed
once, a removed block costs nothing, and no session is built anew for a candidate.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.graph.model.order import sorted_nodes
from lacoot_deploy.graph.model.walk import node_reads


@dataclass(frozen=True)
class Segment:
    """A piece of a model's main graph.

    Attributes:
        name: What messages call it.
        nodes: Its nodes, in an order in which they can run.
        inputs: Names of the values it reads.
        outputs: Names of the values that other pieces, the model's outputs or a caller need.
        weights: Names of the initializers it reads, sparse ones included.
        owners: Names of the blocks that it is a part of: what of them goes when they go. A block that holds another one
            has several pieces.
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...] = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    owners: frozenset[str] = frozenset()


class Splitter:
    """The main graph of a model as pieces; dead nodes are left out, and nodes may stand in any order.

    Args:
        model: The model; nothing of it is copied.
        keep: Values that count as needed beside the model's outputs.

    Raises:
        InputError: Two nodes compute one value, or nodes wait for each other in a circle.
    """

    def __init__(self, model: onnx.ModelProto, keep: Iterable[str] = ()) -> None:
        self._model = model
        graph = model.graph
        self.outputs = tuple(output.name for output in graph.output)
        self.nodes = _live([node for node, _, _ in sorted_nodes(graph)], {*self.outputs, *keep})
        self.reads = [node_reads(node) for node in self.nodes]
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self._constant = self._constants()
        self._readers: dict[str, set[int]] = {}
        for i, names in enumerate(self.reads):
            for name in names:
                self._readers.setdefault(name, set()).add(i)

    def _constants(self) -> set[int]:
        """Nodes that give a constant: every piece that reads one gets its own copy, as if it were an initializer.

        Some exporters give one of several equal weights through nodes that copy it.
        """
        found: set[int] = set()
        for i, node in enumerate(self.nodes):
            source = node.input[0] if node.op_type == "Identity" and node.input else ""
            copied = source in self.weights or self.producer.get(source) in found
            if not node.domain and (node.op_type == "Constant" or copied):
                found.add(i)
        return found

    def split(self, blocks: Sequence[Block]) -> tuple[Segment, ...]:
        """The graph in pieces that run one after the other.

        The last piece of a block is the one that computes its output. Blocks may lie in one another or overlap: what
        several of them have in common is a piece of its own.

        Raises:
            InputError: A block lies in a subgraph or is not in the graph.
        """
        owned = {block.name: self.owned(block) for block in blocks}
        owners: dict[int, frozenset[str]] = {}
        for name, members in owned.items():
            for i in members:
                owners[i] = owners.get(i, frozenset()) | {name}
        pieces: list[list[int]] = []
        of_kind: dict[frozenset[str], list[int]] = {}
        place: dict[int, int] = {}
        for i in self._visits(blocks, owned):
            kind = owners.get(i, frozenset())
            floor = max((place[j] for j in self._sources(i)), default=0)
            known = of_kind.setdefault(kind, [])
            at = bisect_left(known, floor)
            if at == len(known):
                known.append(len(pieces))
                pieces.append([])
            place[i] = known[at]
            pieces[known[at]].append(i)
        wanted = set(self.outputs)
        for block in blocks:
            wanted.update((block.input, block.output))
            for unit in block.units[-1:]:
                wanted.add(unit.merge)
                if self.producer.get(unit.skip) not in owned[block.name]:
                    wanted.add(unit.skip)
        return tuple(
            self._segment(sorted(members), wanted, owners.get(members[0], frozenset())) for members in pieces
        )

    def _visits(self, blocks: Sequence[Block], owned: Mapping[str, set[int]]) -> list[int]:
        """All nodes but constants, in an order in which they can run: before each block what it needs."""
        seen = set(self._constant)
        order: list[int] = []
        for block in sorted(blocks, key=lambda b: (self.producer[b.output], len(owned[b.name]))):
            inside = owned[block.name]
            needed: set[int] = set()
            stack = [self.producer[block.output]]
            while stack:
                i = stack.pop()
                if i not in seen and i not in needed:
                    needed.add(i)
                    stack.extend(self._sources(i))
            order += [*sorted(needed - inside), *sorted(needed & inside)]
            seen |= needed
        return order + [i for i in range(len(self.nodes)) if i not in seen]

    def _sources(self, i: int) -> list[int]:
        """The nodes that a node reads, constants left out."""
        made = (self.producer.get(name) for name in self.reads[i])
        return [j for j in made if j is not None and j not in self._constant]

    def owned(self, block: Block) -> set[int]:
        """Places of the nodes that are of no use once the block is gone.

        Raises:
            InputError: The block lies in a subgraph or is not in the graph.
        """
        if block.scope or block.output not in self.producer:
            raise InputError(
                f"The block {block.name!r} lies in a subgraph; it cannot be searched, only named."
            )
        last = self.producer[block.output]
        inside: set[int] = set()
        for i in sorted(self.region(block.input, block.output), reverse=True):
            outputs = [name for name in self.nodes[i].output if name]
            free = not any(name in self.outputs for name in outputs)
            if i == last or (free and all(self._readers.get(name, set()) <= inside for name in outputs)):
                inside.add(i)
        return inside

    def region(self, start: str, end: str) -> set[int]:
        """Places of the nodes on any path from value `start` to value `end`."""
        before: set[int] = set()
        stack = [self.producer[end]]
        first = self.producer.get(start, -1)
        while stack:
            i = stack.pop()
            if i in before or i <= first:
                continue
            before.add(i)
            stack.extend(
                self.producer[name] for name in self.reads[i] if name in self.producer and name != start
            )
        after: set[int] = set()
        reached = {start}
        for i in sorted(before):
            if not reached.isdisjoint(self.reads[i]):
                after.add(i)
                reached.update(self.nodes[i].output)
        return after

    def whole(self, block: Block) -> Segment:
        """All pieces of a block as one, with the outputs that are read outside of it."""
        return self._segment(sorted(self.owned(block)), {block.output}, frozenset({block.name}), block.name)

    def extract(self, inputs: Iterable[str], outputs: Sequence[str], *, name: str = "part") -> Segment:
        """The part that computes `outputs`, cut off at `inputs`; inputs that it does not need are left out.

        Raises:
            InputError: An output is not a value that a node of the main graph computes.
        """
        missing = [value for value in outputs if value not in self.producer]
        if missing:
            raise InputError(f"No node computes {missing[0]!r}.")
        stop = set(inputs)
        needed: set[int] = set()
        stack = [self.producer[value] for value in outputs if value not in stop]
        while stack:
            i = stack.pop()
            if i not in needed:
                needed.add(i)
                stack.extend(self.producer[v] for v in self.reads[i] if v in self.producer and v not in stop)
        return self._build(sorted(needed), tuple(outputs), name, frozenset())

    def _segment(
        self, members: list[int], wanted: set[str], owners: frozenset[str], name: str | None = None
    ) -> Segment:
        inside = set(members)
        outputs = tuple(
            value
            for i in members
            for value in self.nodes[i].output
            if value and (value in wanted or not self._readers.get(value, set()) <= inside)
        )
        title = name or ", ".join(sorted(owners)) or f"before {self.nodes[members[-1]].output[0]}"
        return self._build(members, outputs, title, owners)

    def _build(
        self, members: Sequence[int], outputs: tuple[str, ...], name: str, owners: frozenset[str]
    ) -> Segment:
        """A segment of some nodes and copies of the constants that they read."""
        inside = set(members)
        constants: set[int] = set()
        stack = list(members)
        while stack:
            made = {self.producer.get(value) for value in self.reads[stack.pop()]}
            new = {j for j in made if j in self._constant} - inside - constants
            constants |= new
            stack.extend(new)
        nodes = [*sorted(constants), *members]
        given = {value for i in nodes for value in self.nodes[i].output if value}
        read = list(dict.fromkeys(value for i in nodes for value in self.reads[i] if value not in given))
        held = self.weights.keys() | self.sparse.keys()
        return Segment(
            name,
            tuple(self.nodes[i] for i in nodes),
            tuple(value for value in read if value not in held),
            outputs,
            tuple(value for value in read if value in held),
            owners,
        )

    def model(self, segment: Segment, types: Mapping[str, onnx.TypeProto]) -> onnx.ModelProto:
        """A segment as a model of its own; its values have the names they have in the whole.

        Args:
            segment: The segment.
            types: The type of each of its inputs; shapes in them are left out, since a shortened network may give a
                value another batch size.

        Raises:
            InputError: The type of an input is not known.
        """
        part = onnx.ModelProto(ir_version=self._model.ir_version)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        part.graph.name = segment.name
        part.graph.node.extend(segment.nodes)
        part.graph.initializer.extend(self.weights[name] for name in segment.weights if name in self.weights)
        part.graph.sparse_initializer.extend(self.sparse[n] for n in segment.weights if n in self.sparse)
        for name in segment.inputs:
            known = types.get(name)
            if known is None or not known.WhichOneof("value"):
                raise InputError(f"The type of value {name!r} is not known.")
            value = onnx.ValueInfoProto(name=name)
            value.type.CopyFrom(known)
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
            part.graph.input.append(value)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in segment.outputs)
        return part


def _live(nodes: list[onnx.NodeProto], needed: set[str]) -> list[onnx.NodeProto]:
    """The nodes, sorted ones, that contribute to values that are needed."""
    kept = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node_reads(node))
    return kept[::-1]
