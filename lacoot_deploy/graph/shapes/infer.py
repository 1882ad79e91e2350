"""Shapes of values, without running the model and without reading its weights.

ONNX's own inference comes first, on a copy in which every large weight is replaced by its type, so that neither
external data nor gigabytes of weights are touched. What it leaves open is followed through the graph symbolically
(see `symbolic`). Shapes measured in a probe run, where given, supersede both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from lacoot_deploy.graph.model.blocks import Dim, Shape
from lacoot_deploy.graph.model.index import GraphIndex, ModelIndex
from lacoot_deploy.graph.model.skeleton import skeleton
from lacoot_deploy.graph.model.table import ShapeTable
from lacoot_deploy.graph.model.walk import subgraphs
from lacoot_deploy.graph.shapes.dims import bounded
from lacoot_deploy.graph.shapes.notes import false_notes
from lacoot_deploy.graph.shapes.notes import infer as infer_bare
from lacoot_deploy.graph.shapes.symbolic import propagate
from lacoot_deploy.graph.shapes.values import ShapeValues


def infer(
    model: ModelIndex, *, shapes: Mapping[str, Shape] | None = None
) -> dict[tuple[str, ...], ShapeTable]:
    """Tables of shapes by graph scope.

    Args:
        model: The indexed model.
        shapes: Shapes measured in a probe run, by value name of the main graph; they supersede what is inferred.
    """
    if not shapes and model.inferred is not None:
        return model.inferred
    if not shapes and model.cut_from is not None and _covers(model.cut_from, model):
        model.inferred = {(): model.cut_from}
        return model.inferred
    wrong = false_notes(model.model)
    inferred = _onnx_inference(model.model, wrong)
    tables: dict[tuple[str, ...], ShapeTable] = {}
    values: dict[tuple[str, ...], ShapeValues] = {}
    bodies = _pair_bodies(inferred)
    for graph in model.graphs:
        parent = tables[graph.parent.scope] if graph.parent is not None else None
        proto = bodies.get(_route(graph))
        known, dtypes = _declared(
            [graph.graph, *([proto] if proto is not None else [])],
            wrong if graph.parent is None else set(),
        )
        for name, tensor in graph.initializers.items():
            known[name] = tuple(tensor.dims)
            dtypes[name] = tensor.data_type
        measured = dict(shapes) if shapes and graph.parent is None else {}
        known.update(measured)
        around = values[graph.parent.scope] if graph.parent is not None else None
        outer = parent.shape if parent else None
        values[graph.scope] = propagate(graph, known, dtypes, outer, fixed=measured.keys(), around=around)
        tables[graph.scope] = ShapeTable(known, dtypes, parent)
    if not shapes:
        model.inferred = tables
    return tables


def _covers(table: ShapeTable, model: ModelIndex) -> bool:
    """Whether a table tells all that there is to tell of a model: one graph, every value and weight in it."""
    graph = model.main
    names = (*graph.producer, *graph.inputs, *graph.initializers)
    return len(model.graphs) == 1 and not model.functions and all(name in table for name in names)


Route = tuple[str, ...]


def _route(graph: GraphIndex) -> Route:
    """Path to a body by output name, which survives the copy that is inferred on."""
    parts: list[str] = []
    at = graph
    while at.parent is not None and at.owner is not None:
        parts.append(f"{next(iter(at.owner.proto.output), '')}|{at.attribute}")
        at = at.parent
    return tuple(reversed(parts))


def _pair_bodies(model: onnx.ModelProto | None) -> dict[Route, onnx.GraphProto]:
    if model is None:
        return {}
    found: dict[Route, onnx.GraphProto] = {}
    stack: list[tuple[Route, onnx.GraphProto]] = [((), model.graph)]
    while stack:
        route, graph = stack.pop()
        found[route] = graph
        for node in graph.node:
            for name, body in subgraphs(node):
                stack.append(((*route, f"{next(iter(node.output), '')}|{name}"), body))
    return found


def _declared(graphs: Iterable[onnx.GraphProto], wrong: set[str]) -> tuple[dict[str, Shape], dict[str, int]]:
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, int] = {}
    for graph in graphs:
        for value in (*(v for v in graph.value_info if v.name not in wrong), *graph.input, *graph.output):
            if not value.type.HasField("tensor_type"):
                continue
            tensor = value.type.tensor_type
            if tensor.elem_type:
                dtypes[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                shape = tuple(_dim(dim) for dim in tensor.shape.dim)
                known = shapes.get(value.name)
                shapes[value.name] = _tighter(known, shape) if known is not None else shape
    return shapes, dtypes


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        # Some exporters write 0 or -1 for a free dimension.
        return int(dim.dim_value) if dim.dim_value > 0 else None
    return bounded(str(dim.dim_param)) if dim.dim_param else None


def _tighter(a: Shape, b: Shape) -> Shape:
    """Of two statements about one value, dimension by dimension the one that says more; the first where both do."""
    if len(a) != len(b):
        return a
    return tuple(
        y if x is None or (isinstance(x, str) and isinstance(y, int)) else x
        for x, y in zip(a, b, strict=True)
    )


def _onnx_inference(model: onnx.ModelProto, wrong: set[str]) -> onnx.ModelProto | None:
    """ONNX's inference on a copy without weights, and without notes that are not true."""
    bare = skeleton(model)
    if wrong:
        kept = [note for note in bare.graph.value_info if note.name not in wrong]
        del bare.graph.value_info[:]
        bare.graph.value_info.extend(kept)
    return infer_bare(bare)
