"""Public inputs and outputs that belong to one block alone: the key-value cache of a decoder layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lacoot_deploy.graph.model.index import GraphIndex, Node


def private_results(
    graph: GraphIndex, merge: Node, read: Iterable[str], inside: Collection[int], live: frozenset[str]
) -> tuple[str, ...]:
    """The model's results that values of a branch lead to, if they lead to nothing else.

    Args:
        graph: The graph; a body has no public results.
        merge: The merge that the branch ends in.
        read: Values of the branch that something outside of it reads, or that are results.
        inside: Positions of the nodes of branch, skip path and merge.
        live: Values that some result of the graph depends on.

    Returns:
        The results in the model's order; () where what is read is used for anything that the merge leads to as well.
    """
    if graph.parent is not None:
        return ()
    aside, results = _ahead(graph, read, inside, live)
    if not results or (aside and not aside.isdisjoint(_ahead(graph, merge.outputs, (), live)[0])):
        return ()
    return tuple(name for name in graph.outputs if name in results)


def _ahead(
    graph: GraphIndex, values: Iterable[str], inside: Collection[int], live: frozenset[str]
) -> tuple[set[int], set[str]]:
    """The live nodes that the data of values reaches without passing some nodes, and the results among them."""
    stack = [name for name in values if name]
    nodes: set[int] = set()
    results: set[str] = set()
    while stack:
        at = stack.pop()
        if at in graph.output_set:
            results.add(at)
        for reader in graph.readers(at):
            if reader.index not in inside and reader.index not in nodes and at in reader.data:
                nodes.add(reader.index)
                stack.extend(name for name in reader.outputs if name in live)
    return nodes, results


def private_inputs(
    graph: GraphIndex, gone: Iterable[Node], released: Collection[str], kept: Collection[str]
) -> tuple[str, ...]:
    """The inputs whose data reach no result but through some nodes; who asks for their shape does not count.

    Args:
        graph: The graph.
        gone: The nodes that go.
        released: Results that go as well.
        kept: Values that take the place of what goes.
    """
    dead, made = {node.index for node in gone}, frozenset(graph.producer)
    found = []
    for name in _behind(graph, released, kept):
        nodes, around = _ahead(graph, [name], dead, made)
        aside = not any(graph.position(value) in nodes for value in kept)
        if aside and around <= set(released):
            found.append(name)
    return tuple(name for name in graph.inputs if name in found)


def _behind(graph: GraphIndex, values: Iterable[str], stop: Collection[str]) -> list[str]:
    """The inputs that values are computed from by data, without what they owe to some values."""
    seen, stack = {*values, *stop}, list(values)
    while stack:
        node = graph.producer.get(stack.pop())
        if node is not None:
            new = [name for name in node.data if name not in seen]
            seen.update(new)
            stack.extend(new)
    return [name for name in graph.inputs if name in seen and name not in stop]
