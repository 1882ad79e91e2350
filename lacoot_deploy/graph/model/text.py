"""Checks that what should be text in a model is text: a damaged file can parse and still hold broken names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from lacoot_deploy.graph.model.walk import walk_graphs


def broken_text(model: onnx.ModelProto) -> str | None:
    """What holds a name or note that is no valid UTF-8, in a few words; None where all is well.

    Protobuf's Python classes give such a field back as bytes or raise when it is read.
    """
    for what, fields in _texts(model):
        try:
            "".join(fields)
        except (UnicodeDecodeError, TypeError):
            return what
    return None


def _texts(model: onnx.ModelProto) -> Iterator[tuple[str, Iterable[str]]]:
    yield "the model's description", _lazily(model, "producer_name producer_version domain doc_string")
    yield "the model's metadata", _entries(model.metadata_props)
    yield "the operator sets", (entry.domain for entry in model.opset_import)
    yield from _graph_texts(model.graph)
    for function in model.functions:
        yield "a function", _lazily(function, "name domain overload doc_string")
        yield "a function", _function_names(function)
        for node in function.node:
            yield from _node_texts(node)


def _graph_texts(main: onnx.GraphProto) -> Iterator[tuple[str, Iterable[str]]]:
    for graph in walk_graphs(main):
        yield "a graph's description", _lazily(graph, "name doc_string")
        yield "a graph's metadata", _entries(graph.metadata_props)
        yield "a quantization annotation", _annotation_names(graph)
        for values in (graph.input, graph.output, graph.value_info):
            for value in values:
                yield "a value's type or note", _value_texts(value)
        for tensor in graph.initializer:
            yield "a weight", _tensor_texts(tensor)
        for sparse in graph.sparse_initializer:
            yield "a weight", (*_tensor_texts(sparse.values), *_tensor_texts(sparse.indices))
        for node in graph.node:
            yield from _node_texts(node)


def _node_texts(node: onnx.NodeProto) -> Iterator[tuple[str, Iterable[str]]]:
    yield "a node", _node_names(node)
    for attribute in node.attribute:
        yield "a node's attribute", _lazily(attribute, "name ref_attr_name doc_string")
        if attribute.HasField("t"):
            yield "a constant", _tensor_texts(attribute.t)


# Generators, so that a field is read where its error is caught.
def _lazily(message: Any, names: str) -> Iterator[str]:
    for name in names.split():
        yield getattr(message, name)


def _entries(entries: Iterable[onnx.StringStringEntryProto]) -> Iterator[str]:
    for entry in entries:
        yield entry.key
        yield entry.value


def _node_names(node: onnx.NodeProto) -> Iterator[str]:
    # Joined here and not one by one: a graph has many nodes.
    yield "".join(
        (*node.input, *node.output, node.name, node.op_type, node.domain, node.overload, node.doc_string)
    )
    if node.metadata_props:
        yield from _entries(node.metadata_props)


def _function_names(function: onnx.FunctionProto) -> Iterator[str]:
    yield from function.input
    yield from function.output
    yield from function.attribute
    yield from (entry.domain for entry in function.opset_import)


def _value_texts(value: onnx.ValueInfoProto) -> Iterator[str]:
    yield value.name
    yield value.doc_string
    yield from _entries(value.metadata_props)
    for dimension in value.type.tensor_type.shape.dim:
        yield dimension.dim_param


def _tensor_texts(tensor: onnx.TensorProto) -> Iterator[str]:
    yield tensor.name + tensor.doc_string
    if tensor.external_data:
        yield from _entries(tensor.external_data)
    if tensor.metadata_props:
        yield from _entries(tensor.metadata_props)


def _annotation_names(graph: onnx.GraphProto) -> Iterator[str]:
    for annotation in graph.quantization_annotation:
        yield annotation.tensor_name
        yield from _entries(annotation.quant_parameter_tensor_names)
