"""Lets a runtime see inner values: a copy of the model that gives them as outputs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import defined_values


def expose_values(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Give a copy of a model with inner values of its main graph added as outputs, behind the ones it has.

    Args:
        model: The model; its external data need not be loaded.
        names: Values to expose, in the order wanted; those that are outputs already are not repeated.

    Returns:
        A new model. The added outputs carry their type where the model notes it.

    Raises:
        InputError: The main graph has no value of that name.
    """
    graph = model.graph
    known = defined_values(graph)
    present = {output.name for output in graph.output}
    typed = {value.name: value for value in (*graph.value_info, *graph.input)}
    added = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise InputError(f"The model's main graph has no value {name}, so it cannot be read out.")
        if name not in present:
            added.append(typed.get(name, onnx.ValueInfoProto(name=name)))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.output.extend(added)
    return result
