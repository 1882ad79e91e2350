"""Lets onnx-graphsurgeon see only the wiring of a model, and carries everything else over from the original.

The round trip through onnx-graphsurgeon is lossy: metadata, doc strings, denotations, annotations, overloads and
several attribute types do not come back. So it is given a bare copy of the model that holds node keys and value
names and nothing else, and what it did to the wiring is then applied to a full copy of the original. Fields that
surgery did not touch are never rebuilt, so they cannot be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import (
    defined_values,
    describe,
    initializer_names,
    read_values,
    subgraphs,
    walk_nodes,
)

NODE_KEY = "lacoot-node:"
"""Prefix of the names that nodes have in the wiring; the number behind it is the node's place in `walk_nodes`."""

FREE_INITIALIZERS_SINCE_IR = 4
"""The IR version from which on an initializer need not be listed as a graph input too."""


def wiring(model: onnx.ModelProto) -> onnx.ModelProto:
    """The bare wiring of a model: keyed nodes, value names, nested graphs; no weights, types or attributes.

    Initializers appear as inputs: onnx-graphsurgeon would copy those that a nested graph reads into it.
    """
    bare = onnx.ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    _copy_wiring(model.graph, bare.graph, count())
    return bare


def _copy_wiring(graph: onnx.GraphProto, bare: onnx.GraphProto, keys: Iterator[int]) -> None:
    bare.name = graph.name or "graph"
    for node in graph.node:
        copy = bare.node.add(name=f"{NODE_KEY}{next(keys)}", op_type=node.op_type)
        copy.input.extend(node.input)
        copy.output.extend(node.output)
        if node.HasField("domain"):
            copy.domain = node.domain
        for label, inner in subgraphs(node):
            attribute = copy.attribute.add(name=label, type=onnx.AttributeProto.GRAPH)
            _copy_wiring(inner, attribute.g, keys)
    for name in _sources(graph):
        bare.input.add(name=name)
    for value in graph.output:
        bare.output.add(name=value.name)


def _sources(graph: onnx.GraphProto) -> list[str]:
    return list(dict.fromkeys([*(value.name for value in graph.input), *initializer_names(graph)]))


def wiring_differences(before: onnx.GraphProto, after: onnx.GraphProto) -> Iterator[str]:
    """What differs between two wirings, one phrase each; nothing where `carry_over` would change nothing."""
    for kind in ("input", "output", "initializer"):
        if [value.name for value in getattr(before, kind)] != [value.name for value in getattr(after, kind)]:
            yield f"the {kind}s of graph {before.name!r}"
    if len(before.node) != len(after.node):
        yield f"the number of nodes of graph {before.name!r}"
    for ours, theirs in zip(before.node, after.node, strict=False):
        bodies, others = dict(subgraphs(ours)), dict(subgraphs(theirs))
        same = ours.name == theirs.name and ours.input == theirs.input and ours.output == theirs.output
        if not same or bodies.keys() != others.keys():
            yield f"node {ours.op_type}:{next((name for name in ours.output if name), '')}"
        else:
            for label, body in bodies.items():
                yield from wiring_differences(body, others[label])


def carry_over(model: onnx.ModelProto, after: onnx.ModelProto) -> tuple[str, ...]:
    """Make a model's wiring that of `after`, in place, and drop what only the removed nodes used.

    Args:
        model: A full copy of the model whose `wiring` was given to onnx-graphsurgeon.
        after: That wiring as onnx-graphsurgeon exported it.

    Returns:
        What was changed, one phrase each; empty where nothing was.

    Raises:
        InputError: The wiring has its surviving nodes in another order, or reads a value that nothing defines.
    """
    nodes = {f"{NODE_KEY}{number}": node for number, node in enumerate(walk_nodes(model.graph))}
    reads, defined = set(read_values(model.graph)), defined_values(model.graph)
    undefined = reads - defined
    called = _called_functions(model)
    changes: list[str] = []
    keys = {id(node): key for key, node in nodes.items()}
    reads, defined = _carry_graph(
        model.graph, after.graph, nodes, keys, changes, model.ir_version, (reads, defined)
    )
    if changes:
        dangling = reads - defined - undefined
        if dangling:
            raise InputError(
                f"The graph cannot be rewired: {min(dangling)} would be read but no longer computed; "
                f"its nodes may not be in topological order."
            )
        _drop_functions(model, called)
    return tuple(changes)


def _carry_graph(
    graph: onnx.GraphProto,
    after: onnx.GraphProto,
    nodes: dict[str, onnx.NodeProto],
    keys: dict[int, str],
    changes: list[str],
    ir_version: int,
    known: tuple[set[str], set[str]] | None = None,
) -> tuple[set[str], set[str]]:
    """Rewire one graph and the graphs inside it; gives the values that it reads and defines then.

    `known` are those that it reads and defines now.
    """
    reads, defined = known or (set(read_values(graph)), defined_values(graph))
    before = len(changes)
    kept = {node.name for node in after.node}
    renames: dict[str, str] = {}
    for position in range(len(graph.node) - 1, -1, -1):
        node = graph.node[position]
        if keys[id(node)] not in kept:
            changes.append(f"node {describe(node)} is gone")
            del graph.node[position]
    for position, bare in enumerate(after.node):
        node = nodes.get(bare.name)
        if node is None:
            changes.append(f"node {bare.name} is new")
            graph.node.insert(position, bare)
            continue
        if position >= len(graph.node) or graph.node[position] is not node:
            raise InputError(f"The order of the nodes around {describe(node)} cannot be kept.")
        _carry_node(node, bare, changes, renames)
        inner_after = dict(subgraphs(bare))
        for label, inner in subgraphs(node):
            _carry_graph(inner, inner_after[label], nodes, keys, changes, ir_version)
    _carry_signature(graph, after, changes)
    _carry_initializers(graph, after, changes)
    if len(changes) == before:
        return reads, defined
    now = set(read_values(graph)), defined_values(graph)
    _drop_dead_values(graph, reads - now[0], defined - now[1], renames, ir_version)
    return now


def _carry_node(
    node: onnx.NodeProto, bare: onnx.NodeProto, changes: list[str], renames: dict[str, str]
) -> None:
    if list(node.input) != list(bare.input):
        changes.append(f"inputs of node {describe(node)}")
        del node.input[:]
        node.input.extend(bare.input)
    if list(node.output) != list(bare.output):
        changes.append(f"outputs of node {describe(node)}")
        renames.update((old, new) for old, new in zip(node.output, bare.output, strict=False) if old != new)
        del node.output[:]
        node.output.extend(bare.output)
    if [label for label, _ in subgraphs(node)] != [label for label, _ in subgraphs(bare)]:
        raise InputError(f"The graphs inside node {describe(node)} cannot be represented.")


def _carry_signature(graph: onnx.GraphProto, after: onnx.GraphProto, changes: list[str]) -> None:
    if _sources(graph) != [value.name for value in after.input]:
        changes.append(f"inputs of graph {graph.name!r}")
    if [value.name for value in graph.output] != [value.name for value in after.output]:
        changes.append(f"outputs of graph {graph.name!r}")


def _carry_initializers(graph: onnx.GraphProto, after: onnx.GraphProto, changes: list[str]) -> None:
    for tensor in after.initializer:
        changes.append(f"initializer {tensor.name} is new")
        graph.initializer.append(tensor)


def _drop_dead_values(
    graph: onnx.GraphProto, dead: set[str], gone: set[str], renames: dict[str, str], ir_version: int
) -> None:
    """Drop weights that only removed nodes read (`dead`), and notes on values that are `gone`.

    An initializer that is also a graph input is part of the public signature and stays, except before IR version 4,
    where every initializer had to be listed as an input whether or not it was meant to be one.
    """
    inputs = {value.name for value in graph.input}
    dead_inputs = (
        dead & set(initializer_names(graph)) & inputs if ir_version < FREE_INITIALIZERS_SINCE_IR else set()
    )
    dead = dead - inputs | dead_inputs
    keep(graph.initializer, [tensor.name not in dead for tensor in graph.initializer])
    keep(graph.sparse_initializer, [sparse.values.name not in dead for sparse in graph.sparse_initializer])
    keep(graph.input, [value.name not in dead_inputs for value in graph.input])
    keep(graph.value_info, [value.name not in gone for value in graph.value_info])
    annotated = {annotation.tensor_name for annotation in graph.quantization_annotation}
    for annotation in graph.quantization_annotation:
        renamed = renames.get(annotation.tensor_name)
        if renamed and renamed not in annotated:
            annotation.tensor_name = renamed
    keep(
        graph.quantization_annotation,
        [annotation.tensor_name not in gone for annotation in graph.quantization_annotation],
    )


def keep(entries: object, wanted: Sequence[bool]) -> None:
    """Delete from a repeated field the entries that are not wanted."""
    for position in range(len(wanted) - 1, -1, -1):
        if not wanted[position]:
            del entries[position]  # type: ignore[attr-defined]


FunctionKey = tuple[str, str, str]


def _function_key(domain: str, name: str, overload: str) -> FunctionKey:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _called_functions(model: onnx.ModelProto) -> set[FunctionKey]:
    """The local functions that the graph calls, directly or through others."""
    bodies = {_function_key(f.domain, f.name, f.overload): f for f in model.functions}
    called: set[FunctionKey] = set()
    waiting = [list(walk_nodes(model.graph))] if bodies else []
    while waiting:
        for node in waiting.pop():
            key = _function_key(node.domain, node.op_type, node.overload)
            if key in bodies and key not in called:
                called.add(key)
                waiting.append(_function_nodes(bodies[key].node))
    return called


def _function_nodes(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found = []
    for node in nodes:
        found.append(node)
        for _, inner in subgraphs(node):
            found.extend(walk_nodes(inner))
    return found


def _drop_functions(model: onnx.ModelProto, called_before: set[FunctionKey]) -> None:
    dead = called_before - _called_functions(model)
    keep(model.functions, [_function_key(f.domain, f.name, f.overload) not in dead for f in model.functions])
