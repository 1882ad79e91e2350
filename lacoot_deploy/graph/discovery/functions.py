"""Blocks inside model-local functions: a function may be called from several places, so they are named and refused."""

from __future__ import annotations

import onnx

from lacoot_deploy.graph.discovery.records import unit_record
from lacoot_deploy.graph.discovery.units import Finder
from lacoot_deploy.graph.model.blocks import Block, Reason
from lacoot_deploy.graph.model.functions import holds_residual_sum
from lacoot_deploy.graph.model.index import ModelIndex, index_graph
from lacoot_deploy.graph.model.naming import Names, Scopes
from lacoot_deploy.graph.model.table import ShapeTable


def blocks_in_functions(model: ModelIndex, names: Names) -> list[Block]:
    """The units inside the functions of a model, each refused with the advice to inline the function.

    Args:
        model: The model.
        names: The names that are taken.
    """
    found: list[Block] = []
    for function in model.model.functions:
        if not holds_residual_sum(function):
            continue
        graph = onnx.GraphProto(name=function.name, node=function.node)
        graph.input.extend(onnx.ValueInfoProto(name=name) for name in function.input)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
        index = index_graph(graph)
        label = f"{function.domain}:{function.name}" if function.domain else function.name
        for candidate in Finder(model, index, ShapeTable({}, {}), Scopes(index)).candidates():
            if candidate.reason is not None:
                continue
            name = names.take(f"{label}/{candidate.merge.output}")
            text = (
                f"The block is inside the local function {label}; inline the functions first, for example with "
                f"onnx.inliner.inline_local_functions."
            )
            found.append(
                Block(
                    name=name,
                    input=candidate.input,
                    output=candidate.output,
                    units=(unit_record(candidate, name),),
                    forms=(),
                    shape=None,
                    output_shape=None,
                    dtype=None,
                    nodes=(),
                    parameters=0,
                    macs=None,
                    reason=Reason("in_function", text, (candidate.merge.output,)),
                    scope=(label,),
                )
            )
    return found
