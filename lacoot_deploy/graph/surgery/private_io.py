"""Takes the public inputs and outputs that belonged to removed blocks out of a model, and numbers the rest anew."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import (
    initializer_names,
    node_reads,
    read_values,
    walk_graphs,
)
from lacoot_deploy.graph.surgery.carry import keep
from lacoot_deploy.graph.surgery.cuts import Cut

_SHAPE_READERS = ("Shape", "Size")


def drop_private_io(model: onnx.ModelProto, cuts: Sequence[Cut]) -> None:
    """Drop the private inputs and outputs of cut blocks, and what only they needed, in place.

    Where something that stays asks a private input for its shape, it asks another input of the same declared shape:
    the caches of all layers are equally long.

    Raises:
        InputError: The shape of a private input is needed, and no input that stays has the same.
    """
    graph = model.graph
    outputs = {name for cut in cuts for name in cut.block.private_outputs}
    if not outputs:
        return
    inputs = {name for cut in cuts for name in cut.block.private_inputs}
    nodes = list(graph.node)
    before = _needed(nodes, [value.name for value in graph.output])
    keep(graph.output, [value.name not in outputs for value in graph.output])
    gone = before - _needed(nodes, [value.name for value in graph.output])
    dropped = [nodes[place] for place in sorted(gone)]
    made = {name for node in dropped for name in node.output}
    lost = {name for node in dropped for name in node_reads(node)}
    keep(graph.node, [place not in gone for place in range(len(nodes))])
    _ask_others(graph, inputs)
    read = set(read_values(graph))
    keep(graph.input, [value.name not in inputs or value.name in read for value in graph.input])
    kept = {value.name for value in graph.input}
    stale = (lost - read - kept) & set(initializer_names(graph))
    keep(graph.initializer, [tensor.name not in stale for tensor in graph.initializer])
    keep(graph.sparse_initializer, [sparse.values.name not in stale for sparse in graph.sparse_initializer])
    keep(graph.value_info, [value.name not in made for value in graph.value_info])
    keep(
        graph.quantization_annotation,
        [note.tensor_name not in made for note in graph.quantization_annotation],
    )


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


def _ask_others(graph: onnx.GraphProto, inputs: Collection[str]) -> None:
    declared = {value.name: value.type.SerializeToString() for value in graph.input}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name not in inputs:
                continue
            others = [
                other
                for other, kind in declared.items()
                if other not in inputs and kind == declared[name] and _is_fully_named(graph, other)
            ]
            if node.op_type not in _SHAPE_READERS or not others:
                raise InputError(
                    f"The input {name} cannot go with its block: {node.op_type} {node.name!r}, which stays, reads it."
                )
            node.input[slot] = others[0]


def _is_fully_named(graph: onnx.GraphProto, name: str) -> bool:
    """Whether every dimension of an input has a number or a symbol: only then are equal declarations equal sizes."""
    value = next(value for value in graph.input if value.name == name)
    shape = value.type.tensor_type.shape
    return value.type.tensor_type.HasField("shape") and all(d.dim_value > 0 or d.dim_param for d in shape.dim)


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
