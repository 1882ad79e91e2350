"""Shapes of values, without running the model and without reading its weights.

ONNX's own inference comes first, on a copy in which every large weight is replaced by its type, so that neither
external data nor gigabytes of weights are touched. What it leaves open is followed through the graph symbolically
(see `symbolic`). Shapes measured in a probe run, where given, supersede both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import compress
from operator import not_

import numpy as np
import onnx

from lacoot_deploy.graph.blocks import Dim, Shape
from lacoot_deploy.graph.dims import bounded
from lacoot_deploy.graph.index import GraphIndex, ModelIndex, index_model
from lacoot_deploy.graph.shape_values import ShapeValues
from lacoot_deploy.graph.symbolic import propagate

SMALL = 256
"""Constants with at most this many elements are kept for inference: they may be shapes."""


class ShapeTable:
    """Shape and element type of the values of one graph and of the graphs around it."""

    def __init__(
        self, shapes: dict[str, Shape], dtypes: dict[str, int], parent: ShapeTable | None = None
    ) -> None:
        self._shapes = shapes
        self._dtypes = dtypes
        self._parent = parent

    def __contains__(self, name: object) -> bool:
        return name in self._shapes and name in self._dtypes

    def shape(self, name: str) -> Shape | None:
        """The shape as far as known; None where not even the rank is."""
        table: ShapeTable | None = self
        while table is not None:
            if name in table._shapes:
                return table._shapes[name]
            table = table._parent
        return None

    def dtype(self, name: str) -> str | None:
        """Numpy's name of the element type; None where unknown."""
        table: ShapeTable | None = self
        while table is not None:
            if name in table._dtypes:
                return dtype_name(table._dtypes[name])
            table = table._parent
        return None


def same_shape(a: Shape | None, b: Shape | None) -> bool | None:
    """Whether two shapes are equal: True and False are proven, None is undecided.

    A symbol equals itself and nothing else provably; two different symbols may still be equal at run time.
    """
    if a is None or b is None:
        return None
    if len(a) != len(b):
        return False
    verdict: bool | None = True
    for left, right in zip(a, b, strict=True):
        if isinstance(left, int) and isinstance(right, int):
            if left != right:
                return False
        elif left is None or right is None or left != right:
            verdict = None
    return verdict


@lru_cache(maxsize=64)
def dtype_name(elem_type: int) -> str | None:
    """Numpy's name of an ONNX element type; None where it has no type, or one that ONNX does not define."""
    if elem_type == onnx.TensorProto.UNDEFINED or elem_type not in onnx.TensorProto.DataType.values():
        return None
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name)
    except (KeyError, TypeError):
        return str(onnx.TensorProto.DataType.Name(elem_type)).lower()


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
    inferred = _onnx_inference(model.model)
    tables: dict[tuple[str, ...], ShapeTable] = {}
    values: dict[tuple[str, ...], ShapeValues] = {}
    bodies = _pair_bodies(inferred)
    for graph in model.graphs:
        parent = tables[graph.parent.scope] if graph.parent is not None else None
        proto = bodies.get(_route(graph))
        known, dtypes = _declared([graph.graph, *([proto] if proto is not None else [])])
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


def undecided_values(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of main-graph values whose shapes a probe run must settle before every block is decided."""
    from lacoot_deploy.graph.discovery import undecided
    from lacoot_deploy.graph.tolerant import invalid_is_refused

    with invalid_is_refused(model):
        return undecided(index_model(model))


Route = tuple[tuple[int, str, int], ...]


def _route(graph: GraphIndex) -> Route:
    """Path to a body by output name, which survives the copy that is inferred on."""
    parts: list[tuple[int, str, int]] = []
    at = graph
    while at.parent is not None and at.owner is not None:
        proto = at.owner.proto
        for attr in proto.attribute:
            if attr.name == at.attribute:
                for number, body in enumerate([attr.g] if attr.HasField("g") else attr.graphs):
                    if body is at.graph:
                        parts.append((0, f"{next(iter(proto.output), '')}|{attr.name}", number))
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
            for attr in node.attribute:
                for number, body in enumerate([attr.g] if attr.HasField("g") else attr.graphs):
                    stack.append(((*route, (0, f"{next(iter(node.output), '')}|{attr.name}", number)), body))
    return found


def _declared(graphs: Iterable[onnx.GraphProto]) -> tuple[dict[str, Shape], dict[str, int]]:
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, int] = {}
    for graph in graphs:
        for value in (*graph.value_info, *graph.input, *graph.output):
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


def _onnx_inference(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """ONNX's inference on a copy without weights; None where it refuses the model as a whole."""
    bare = skeleton(model)
    try:
        return onnx.shape_inference.infer_shapes(bare, check_type=False, strict_mode=False, data_prop=True)
    except Exception:  # the C++ side raises several unrelated types; symbolic propagation goes on without it
        return None


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose large or external weights are inputs with a type: the same shapes, none of the bytes."""
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    graph = model.graph
    copy.graph.name = graph.name
    copy.graph.input.extend(graph.input)
    copy.graph.output.extend(graph.output)
    copy.graph.value_info.extend(graph.value_info)
    names = {value.name for value in graph.input}

    def as_input(name: str, tensor: onnx.TensorProto) -> None:
        if name not in names:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            )

    small = [_is_small(tensor) for tensor in graph.initializer]
    copy.graph.initializer.extend(compress(graph.initializer, small))
    for tensor in compress(graph.initializer, map(not_, small)):
        as_input(tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        if sparse.values.name not in names:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(
                    sparse.values.name, sparse.values.data_type, list(sparse.dims)
                )
            )
    large = [node for node in graph.node if node.op_type == "Constant" and _is_large_constant(node)]
    for node in large:
        as_input(node.output[0], node.attribute[0].t)
    if large:
        gone = {node.output[0] for node in large}
        copy.graph.node.extend(node for node in graph.node if not (node.output and node.output[0] in gone))
    else:
        copy.graph.node.extend(graph.node)
    return copy


def _is_large_constant(node: onnx.NodeProto) -> bool:
    if len(node.output) != 1 or len(node.attribute) != 1 or node.attribute[0].name != "value":
        return False
    return not _is_small(node.attribute[0].t)


def _is_small(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return bool(math.prod(tensor.dims) <= SMALL)
