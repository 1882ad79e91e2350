"""Takes the public inputs and outputs that belonged to removed blocks out of a model, and numbers the rest anew."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.index import index_model
from lacoot_deploy.graph.model.walk import (
    initializer_names,
    node_reads,
    read_values,
    walk_graphs,
)
from lacoot_deploy.graph.shapes.infer import infer
from lacoot_deploy.graph.surgery.carry import keep
from lacoot_deploy.graph.surgery.cuts import Cut


def drop_private_io(model: onnx.ModelProto, cuts: Sequence[Cut]) -> None:
    """Drop the private inputs and outputs of cut blocks, and what only they needed, in place.

    Where something that stays asks for the shape of a private input, or of what is made of it, it asks another value of
    the same shape: the caches of all layers are equally long.

    Raises:
        InputError: The shape of a private input is needed, and no value that stays is known to have the same.
    """
    outputs = {name for cut in cuts for name in cut.block.private_outputs}
    if not outputs:
        return
    inputs = {name for cut in cuts for name in cut.block.private_inputs}
    graph = model.graph
    before = [value.name for value in graph.output]
    keep(graph.output, [value.name not in outputs for value in graph.output])
    _prune(graph, before)
    if _ask_others(model, inputs):
        _prune(graph, [*before, *inputs, *(name for node in graph.node for name in node.output)])
    read = read_values(graph)
    keep(graph.input, [value.name not in inputs or value.name in read for value in graph.input])


def _prune(graph: onnx.GraphProto, before: Iterable[str]) -> None:
    """Delete the nodes that some values needed and the results do not, with their weights and notes."""
    nodes = list(graph.node)
    gone = _needed(nodes, before) - _needed(nodes, [value.name for value in graph.output])
    dropped = [nodes[place] for place in sorted(gone)]
    made = {name for node in dropped for name in node.output}
    lost = {name for node in dropped for name in node_reads(node)}
    keep(graph.node, [place not in gone for place in range(len(nodes))])
    lost -= {*read_values(graph), *(value.name for value in graph.input)}
    keep(graph.initializer, [tensor.name not in lost for tensor in graph.initializer])
    keep(graph.sparse_initializer, [sparse.values.name not in lost for sparse in graph.sparse_initializer])
    keep(graph.value_info, [value.name not in made for value in graph.value_info])
    notes = graph.quantization_annotation
    keep(notes, [note.tensor_name not in made for note in notes])


def _needed(nodes: Sequence[onnx.NodeProto], results: Iterable[str]) -> set[int]:
    """Places of the nodes that results depend on."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    found: set[int] = set()
    stack = list(results)
    while stack:
        place = makers.get(stack.pop())
        if place is not None and place not in found:
            found.add(place)
            stack.extend(node_reads(nodes[place]))
    return found


def _ask_others(model: onnx.ModelProto, inputs: Collection[str]) -> bool:
    """Let what asks for the size of private inputs, or of what is made of them, ask others; whether anything did."""
    index = index_model(model)
    graph = index.main
    if not any(graph.readers(name) for name in inputs):
        return False
    table = infer(index)[()]
    tainted = set(inputs)
    for node in graph.nodes:
        if not tainted.isdisjoint(node.data):
            tainted.update(name for name in node.outputs if name)
    results = tainted.intersection(graph.outputs)
    if results:
        raise InputError(
            f"The output {min(results)}, which stays, is computed from an input that goes with its block."
        )
    sizes = {name: table.shape(name) for name in (*graph.inputs, *graph.producer) if name not in tainted}
    for node in graph.nodes:
        for slot, name in enumerate(node.inputs):
            if name not in tainted or name in node.data:
                continue
            wanted = table.shape(name)
            fits = (
                other
                for other, shape in sizes.items()
                if graph.position(other) < node.index and shape == wanted
            )
            other = None if wanted is None or None in wanted else next(fits, None)
            if other is None:
                raise InputError(
                    f"The inputs of a block cannot go with it: {node.op} {node.name!r}, which stays, asks for the "
                    f"size of {name}, and no other value is known to have it."
                )
            node.proto.input[slot] = other
    return True


def renumber_io(model: onnx.ModelProto, removed: Iterable[str]) -> dict[str, str]:
    """Give the public names that are numbered like removed ones numbers without gaps, in place.

    Args:
        model: A model that has lost inputs and outputs.
        removed: Their names, such as `past_key_values.3.key`.

    Returns:
        New names by old names, those that stay the same left out.

    Raises:
        InputError: A new name is taken by another value.
    """
    graph = model.graph
    public = [value.name for values in (graph.input, graph.output) for value in values]
    renamed: dict[str, str] = {}
    for head, tail in sorted({_template(name, public) for name in removed}):
        pattern = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail))
        numbered = [(int(found[1]), name) for name in public if (found := pattern.fullmatch(name))]
        for number, (_, name) in enumerate(sorted(numbered)):
            renamed[name] = f"{head}{number}{tail}"
    renamed = {old: new for old, new in renamed.items() if old != new}
    taken = {name for node in graph.node for name in (*node.input, *node.output)}.union(
        initializer_names(graph), public
    )
    clash = next((new for new in renamed.values() if new in taken and new not in renamed), None)
    if clash is not None:
        raise InputError(f"The inputs and outputs cannot be numbered anew: another value is called {clash}.")
    for inner in walk_graphs(graph):
        _rename(inner, renamed)
    return renamed


def layer_numbers(names: Iterable[str], graph: onnx.GraphProto) -> tuple[int, ...]:
    """The numbers of the layers that inputs and outputs of a graph belong to, sorted."""
    public = [value.name for values in (graph.input, graph.output) for value in values]
    found = set()
    for name in names:
        head, tail = _template(name, public)
        number = name[len(head) : len(name) - len(tail)]
        found.update([int(number)] if number.isdigit() else [])
    return tuple(sorted(found))


def _template(name: str, public: Collection[str]) -> tuple[str, str]:
    """What is before and behind the layer's number in a name: the number in which most other names differ."""
    best: tuple[int, str, str] = (-1, name, "")
    for found in re.finditer(r"\d+", name):
        head, tail = name[: found.start()], name[found.end() :]
        pattern = re.compile(re.escape(head) + r"\d+" + re.escape(tail))
        best = max(best, (sum(bool(pattern.fullmatch(other)) for other in public), head, tail))
    return best[1], best[2]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            for slot, name in enumerate(values):
                if name in names:
                    values[slot] = names[name]
    for entries in (graph.input, graph.output, graph.value_info):
        for value in entries:
            value.name = names.get(value.name, value.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)
