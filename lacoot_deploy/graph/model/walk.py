"""Walks over a model's graphs, nested ones included: their nodes, and the values that they define and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterable[tuple[str, onnx.GraphProto]]:
    """The graphs in a node's attributes, each under the attribute's name (and number, in a list of graphs)."""
    return _subgraphs(node) if node.attribute else ()


def _subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for number, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{number}]", graph


def has_bodies(node: onnx.NodeProto) -> bool:
    """Whether a node holds graphs, which may read values around them by name."""
    return any(True for _ in subgraphs(node))


def walk_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of the graphs inside it, each node before what it holds."""
    for node in graph.node:
        yield node
        for _, inner in subgraphs(node):
            yield from walk_nodes(inner)


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph itself and all graphs inside it."""
    yield graph
    for node in graph.node:
        for _, inner in subgraphs(node):
            yield from walk_graphs(inner)


def initializer_names(graph: onnx.GraphProto) -> list[str]:
    """Names of a graph's dense and sparse initializers, in order."""
    return [tensor.name for tensor in graph.initializer] + [
        sparse.values.name for sparse in graph.sparse_initializer
    ]


def defined_values(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph itself defines: inputs, initializers and node outputs."""
    names = {value.name for value in graph.input}
    names.update(initializer_names(graph))
    for node in graph.node:
        names.update(node.output)
    names.discard("")
    return names


def read_values(graph: onnx.GraphProto) -> dict[str, None]:
    """Names that a graph reads: its nodes' inputs, what the graphs inside read from around them, and its outputs."""
    names: dict[str, None] = {}
    for node in graph.node:
        names.update(dict.fromkeys((*node.input, *body_reads(node))))
    names.update(dict.fromkeys(value.name for value in graph.output))
    for annotation in graph.quantization_annotation:
        names.update(dict.fromkeys(entry.value for entry in annotation.quant_parameter_tensor_names))
    names.pop("", None)
    return names


def outer_reads(graph: onnx.GraphProto) -> dict[str, None]:
    """Names that a graph, or one inside it, reads and does not define, in the order of first use."""
    defined = defined_values(graph)
    return {name: None for name in read_values(graph) if name not in defined}


def body_reads(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that the graphs inside a node read from around it, in the order of first use."""
    if not node.attribute:
        return ()
    return tuple(dict.fromkeys(name for _, inner in subgraphs(node) for name in outer_reads(inner)))


def node_reads(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names of the values that a node reads, those that the graphs inside it read from around it included."""
    return tuple(dict.fromkeys((*filter(None, node.input), *body_reads(node))))


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute in Python's types (text as bytes); the default where it has none of that type."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value if default is None or isinstance(value, type(default)) else default
    return default


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """All attributes of a node by name."""
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def describe(node: onnx.NodeProto) -> str:
    """What messages call a node: its name, else its operator and first output."""
    return node.name or f"{node.op_type}:{next((name for name in node.output if name), '')}"
