"""Splits a model at its blocks into pieces that run one after another.

A search tries many removals. With the model in pieces, what lies before the first changed block is computed
once, a removed block costs nothing, and no session is built anew for a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.graph.model.walk import node_reads


@dataclass(frozen=True)
class Segment:
    """A piece of a model that is a model of its own.

    Attributes:
        model: The piece; its values have the names they have in the whole.
        inputs: Names of the values it reads.
        outputs: Names of the values that later pieces, the model's outputs or a caller need.
        block: The block that the piece computes; None for what lies between blocks.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    block: Block | None


def split_at_blocks(model: onnx.ModelProto, blocks: Sequence[Block]) -> tuple[Segment, ...]:
    """Split the main graph into segments, each block one of them, in an order in which they can run.

    Args:
        model: The model; nodes in topological order, as ONNX demands.
        blocks: Blocks of the main graph that share no node.

    Raises:
        InputError: Two blocks overlap, or a block lies in a subgraph.
    """
    graph = model.graph
    nodes = list(graph.node)
    reads = [node_reads(node) for node in nodes]
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    constant = _constant_nodes(nodes, reads, producer)
    ordered = sorted(blocks, key=lambda block: producer.get(block.output, -1))
    owner: dict[int, int] = {}
    for k, block in enumerate(ordered):
        if block.scope or block.output not in producer:
            raise InputError(
                f"The block {block.name!r} lies in a subgraph; it cannot be searched, only named."
            )
        for i in region(block.input, block.output, nodes, reads, producer):
            if owner.setdefault(i, k) != k:
                raise InputError(f"The blocks {ordered[owner[i]].name!r} and {block.name!r} overlap.")
    stage: dict[int, int] = {}
    for i in range(len(nodes)):
        if i in constant:
            continue
        if i in owner:
            stage[i] = 2 * owner[i] + 1
            continue
        latest = 0
        for name in reads[i]:
            j = producer.get(name)
            if j is not None and j not in constant:
                latest = max(latest, stage[j] + (stage[j] % 2))
        stage[i] = latest
    members: dict[int, list[int]] = {}
    for i, s in stage.items():
        members.setdefault(s, []).append(i)
    wanted = {output.name for output in graph.output}
    for block in ordered:
        wanted.update((block.input, block.output))
        wanted.update(unit.merge for unit in block.units[-1:])
    return tuple(
        _segment(
            model, members[s], reads, producer, constant, stage, wanted, ordered[s // 2] if s % 2 else None
        )
        for s in sorted(members)
    )


def extract(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str], *, name: str = "part"
) -> Segment:
    """The part of the main graph that computes `outputs`, cut off at `inputs`.

    Inputs that the part does not need are left out.

    Raises:
        InputError: An output is not a value that a node of the main graph computes.
    """
    nodes = list(model.graph.node)
    reads = [node_reads(node) for node in nodes]
    producer = {value: i for i, node in enumerate(nodes) for value in node.output if value}
    missing = [value for value in outputs if value not in producer]
    if missing:
        raise InputError(f"No node computes {missing[0]!r}.")
    stop = set(inputs)
    needed: set[int] = set()
    stack = [producer[value] for value in outputs if value not in stop]
    while stack:
        i = stack.pop()
        if i in needed:
            continue
        needed.add(i)
        stack.extend(producer[v] for v in reads[i] if v in producer and v not in stop)
    return _build(model, sorted(needed), reads, tuple(outputs), name, None)


def region(
    start: str,
    end: str,
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[tuple[str, ...]],
    producer: dict[str, int],
) -> set[int]:
    """Indices of the nodes on any path from value `start` to value `end`."""
    before: set[int] = set()
    stack = [producer[end]]
    first = producer.get(start, -1)
    while stack:
        i = stack.pop()
        if i in before or i <= first:
            continue
        before.add(i)
        stack.extend(producer[name] for name in reads[i] if name in producer and name != start)
    after: set[int] = set()
    reached = {start}
    for i in sorted(before):
        if not reached.isdisjoint(reads[i]):
            after.add(i)
            reached.update(nodes[i].output)
    return after


def _constant_nodes(
    nodes: Sequence[onnx.NodeProto], reads: Sequence[tuple[str, ...]], producer: dict[str, int]
) -> set[int]:
    """Constant nodes: every segment that reads one gets its own copy, as if it were an initializer."""
    return {i for i, node in enumerate(nodes) if node.op_type == "Constant" and not node.domain}


def _segment(
    model: onnx.ModelProto,
    members: list[int],
    reads: Sequence[tuple[str, ...]],
    producer: dict[str, int],
    constant: set[int],
    stage: dict[int, int],
    wanted: set[str],
    block: Block | None,
) -> Segment:
    nodes = model.graph.node
    inside = set(members)
    made = {name for i in members for name in nodes[i].output if name}
    used_elsewhere = {name for i in stage if i not in inside for name in reads[i]}
    outputs = tuple(
        name for i in members for name in nodes[i].output if name in wanted or name in used_elsewhere
    )
    constants = sorted(
        {producer[name] for i in members for name in reads[i] if producer.get(name) in constant}
    )
    title = block.name if block is not None else f"before {min(made)}"
    return _build(model, constants + members, reads, outputs, title, block)


def _build(
    model: onnx.ModelProto,
    members: Sequence[int],
    reads: Sequence[tuple[str, ...]],
    outputs: tuple[str, ...],
    name: str,
    block: Block | None,
) -> Segment:
    graph = model.graph
    made = {value for i in members for value in graph.node[i].output if value}
    read = list(dict.fromkeys(value for i in members for value in reads[i] if value not in made))
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
    types = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    part = onnx.ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = name
    part.graph.node.extend(graph.node[i] for i in members)
    part.graph.initializer.extend(weights[value] for value in read if value in weights)
    part.graph.sparse_initializer.extend(sparse[value] for value in read if value in sparse)
    inputs = tuple(value for value in read if value not in weights and value not in sparse)
    for value in inputs:
        known = types.get(value)
        if known is None or not known.type.WhichOneof("value"):
            raise InputError(f"The type of value {value!r} cannot be inferred; the model cannot be searched.")
        part.graph.input.append(_type_only(known))
    part.graph.output.extend(onnx.ValueInfoProto(name=value) for value in outputs)
    return Segment(part, inputs, outputs, block)


def _type_only(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A value with its element type and no shape: a shortened network may give it another batch size."""
    out = onnx.ValueInfoProto()
    out.CopyFrom(value)
    if out.type.HasField("tensor_type"):
        out.type.tensor_type.ClearField("shape")
    return out
