"""A model's main graph as one list of nodes: functions inlined, every constant with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.order import sorted_nodes
from lacoot_deploy.graph.model.walk import body_reads, subgraphs
from lacoot_deploy.healing.operators.base import attribute_values

Path_ = tuple[tuple[int, int], ...]
"""Where a message lies in a file: (field number, how many of that field come before it), from the outside in."""

GRAPH, FUNCTIONS = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
FUNCTION_NODE = 7
NODE_ATTRIBUTE = 5
ATTRIBUTE_TENSOR = 5
"""Field numbers of ONNX's protobuf messages."""

MAX_DEPTH = 64
"""How deep functions may call one another."""


@dataclass(eq=False)
class FlatNode:
    """A node of the flat list.

    Attributes:
        op: Operator type.
        domain: Its domain, "" for the standard one.
        version: Version of the domain's operator set.
        inputs: Operands, "" where one is left out; values of a function are written `CALL/NAME`.
        outputs: Results, likewise.
        label: What messages call it.
        attributes: Its attributes; graphs are left out.
        bodies: Graphs inside it, flat too, by attribute.
        captured: What the bodies read from around them.
    """

    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str
    attributes: Mapping[str, Any]
    bodies: Mapping[str, FlatGraph] = field(default_factory=dict)
    captured: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Every value that the node reads."""
        return tuple(name for name in (*self.inputs, *self.captured) if name)


@dataclass(frozen=True)
class Constant:
    """A constant of the file.

    Attributes:
        tensor: Its tensor; data may be external.
        path: Where it lies in the file.
        trainable: Whether it may be trained: a caller cannot override it, and it is not inside a body.
    """

    tensor: onnx.TensorProto
    path: Path_
    trainable: bool


@dataclass(eq=False)
class FlatGraph:
    """A graph as one list of nodes.

    Attributes:
        inputs: What the caller gives, in order.
        outputs: Results, in order.
        nodes: In an order in which they can run; `Constant` nodes are among the constants.
        constants: By value name.
        folder: Where external data lies.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: list[FlatNode] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    folder: Path = Path()

    def array(self, name: str) -> NDArray[Any]:
        """The values of a constant.

        Raises:
            InputError: They cannot be read.
        """
        try:
            return np.asarray(numpy_helper.to_array(self.constants[name].tensor, str(self.folder)))
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"The weight {name} cannot be read: {error}.") from None


def flatten(model: onnx.ModelProto, folder: str | Path = "") -> FlatGraph:
    """The main graph as a flat list.

    Args:
        model: The model; external data need not be loaded.
        folder: Where its external data lies.

    Raises:
        InputError: Functions call one another without end, or nodes read one another in a circle.
    """
    return _Flattener(model, Path(folder)).graph(model.graph, ((GRAPH, 0),), {}, inside=False)


class _Scope(NamedTuple):
    """Where a node stands: what its values are called there, opset versions, and the attributes of the call around."""

    names: Mapping[str, str]
    versions: Mapping[str, int]
    outer: Mapping[str, onnx.AttributeProto] | None


class _Flattener:
    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self.folder = folder
        self.versions = _versions(model.opset_import)
        self.functions = {
            (f.domain, f.name, getattr(f, "overload", "")): (i, f) for i, f in enumerate(model.functions)
        }

    def graph(
        self, graph: onnx.GraphProto, path: Path_, names: Mapping[str, str], *, inside: bool
    ) -> FlatGraph:
        """A graph; `names` are those of the values around it that a function call has renamed."""
        public = {value.name for value in graph.input}
        renamed = {**names}
        prefix = names.get("", "")
        if prefix:
            own = [*public, *(t.name for t in graph.initializer), *(o for n in graph.node for o in n.output)]
            renamed.update({name: prefix + name for name in own if name})

        def rename(name: str) -> str:
            return renamed.get(name, name) if name else ""

        initial = {t.name for t in graph.initializer}
        flat = FlatGraph(
            inputs=tuple(rename(value.name) for value in graph.input if value.name not in initial),
            outputs=tuple(rename(value.name) for value in graph.output),
            folder=self.folder,
        )
        for place, tensor in enumerate(graph.initializer):
            free = not inside and tensor.name not in public
            flat.constants[rename(tensor.name)] = Constant(tensor, (*path, (GRAPH_INITIALIZER, place)), free)
        for sparse in graph.sparse_initializer:
            flat.constants[rename(sparse.values.name)] = Constant(_dense(sparse), (), False)
        places = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
        for node, inputs, outputs in sorted_nodes(graph):
            where = (*path, (GRAPH_NODE, next((places[name] for name in outputs if name), 0)))
            scope = _Scope(renamed, self.versions, None)
            self._add(flat, node, (inputs, outputs), where, scope, inside=inside)
        return flat

    def _add(
        self,
        flat: FlatGraph,
        node: onnx.NodeProto,
        ends: tuple[Sequence[str], Sequence[str]],
        path: Path_,
        scope: _Scope,
        *,
        inside: bool,
        depth: int = 0,
    ) -> None:
        names, versions, outer = scope
        inputs, outputs = (tuple(names.get(name, name) if name else "" for name in end) for end in ends)
        domain = "" if node.domain == "ai.onnx" else node.domain
        called = self.functions.get((node.domain, node.op_type, getattr(node, "overload", "")))
        if called is not None:
            self._inline(flat, node, called, (inputs, outputs), outer, inside, depth)
            return
        if node.op_type == "Constant" and not domain and outputs:
            for place, attribute in enumerate(node.attribute):
                if attribute.name == "value" and not attribute.ref_attr_name:
                    where = (*path, (NODE_ATTRIBUTE, place), (ATTRIBUTE_TENSOR, 0))
                    flat.constants[outputs[0]] = Constant(attribute.t, where, not inside)
                    return
        bodies = {
            name: self.graph(body, (), names if names.get("") else {}, inside=True)
            for name, body in subgraphs(node)
        }
        reads = body_reads(node) if bodies else ()
        flat.nodes.append(
            FlatNode(
                op=node.op_type,
                domain=domain,
                version=versions.get(domain, 1),
                inputs=inputs,
                outputs=outputs,
                label=node.name or f"{node.op_type}:{next(filter(None, outputs), '')}",
                attributes=attribute_values(node, outer, str(self.folder)),
                bodies=bodies,
                captured=tuple(names.get(name, name) for name in reads),
            )
        )

    def _inline(
        self,
        flat: FlatGraph,
        node: onnx.NodeProto,
        called: tuple[int, onnx.FunctionProto],
        ends: tuple[tuple[str, ...], tuple[str, ...]],
        outer: Mapping[str, onnx.AttributeProto] | None,
        inside: bool,
        depth: int,
    ) -> None:
        """The body of a function in place of its call."""
        place, function = called
        if depth > MAX_DEPTH:
            raise InputError(
                f"The function {function.name} calls itself without end; the model is not valid."
            )
        (inputs, outputs), prefix = ends, f"{next(filter(None, ends[1]), node.name)}/"
        names = {"": prefix}
        for inner in function.node:
            names.update({name: prefix + name for name in inner.output if name})
        names.update({name: "" for name in function.input})
        names.update(dict(zip(function.input, inputs, strict=False)))
        given = {**(outer or {}), **{a.name: a for a in node.attribute if not a.ref_attr_name}}
        given |= {
            a.name: outer[a.ref_attr_name] for a in node.attribute if outer and a.ref_attr_name in outer
        }
        for default in function.attribute_proto:
            given.setdefault(default.name, default)
        for inner, result in zip(function.output, outputs, strict=False):
            if inner in function.input:
                flat.nodes.append(
                    FlatNode("Identity", "", 17, (names[inner],), (result,), prefix + inner, {})
                )
            elif result:
                names[inner] = result
        versions = {**self.versions, **_versions(function.opset_import)}
        for number, inner in enumerate(function.node):
            where = ((FUNCTIONS, place), (FUNCTION_NODE, number))
            ends_of = (tuple(inner.input), tuple(inner.output))
            scope = _Scope(names, versions, given)
            self._add(flat, inner, ends_of, where, scope, inside=inside, depth=depth + 1)


def _versions(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(sparse.values)
    places = numpy_helper.to_array(sparse.indices)
    full = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        full.reshape(-1)[places] = values
    else:
        full[tuple(places.T)] = values
    return numpy_helper.from_array(full, sparse.values.name)
