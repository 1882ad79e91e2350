"""Walks over a model's graphs, nested ones included: their nodes, and the values that they define and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def read_values(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph reads: its outputs, its nodes' inputs, and what the graphs inside read from around them."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for _, inner in subgraphs(node):
            names.update(outer_reads(inner))
    for annotation in graph.quantization_annotation:
        names.update(entry.value for entry in annotation.quant_parameter_tensor_names)
    names.discard("")
    return names


def outer_reads(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph reads and does not define."""
    return read_values(graph) - defined_values(graph)


def describe(node: onnx.NodeProto) -> str:
    """What messages call a node: its name, else its operator and first output."""
    return node.name or f"{node.op_type}:{next((name for name in node.output if name), '')}"
