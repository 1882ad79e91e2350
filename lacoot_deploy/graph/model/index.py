"""Who makes and who reads every value of a model: one index per graph, bodies of If, Loop and Scan included.

Two things the raw file does not say are settled here, once:

* **Data paths.** Shape arithmetic is no ancestry: what comes out of a `Shape`, and what goes into the shape, axes,
  sizes or index operands of other nodes, is not followed. See `ops.data_inputs`.
* **Fused merges.** A node that holds a residual sum inside (`SkipLayerNormalization`, a convolution or `Gemm` with a
  summand) is split into parts, so that every merge looks like an `Add`. The parts share one `NodeProto`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import onnx

from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.order import sorted_nodes
from lacoot_deploy.graph.model.walk import attribute, body_reads, describe, subgraphs

if TYPE_CHECKING:
    from lacoot_deploy.graph.model.table import ShapeTable

HIDDEN = "\x00sum"
"""Suffix of the value between the parts of a fused merge; no ONNX value can bear it."""


@dataclass(eq=False, slots=True)
class Node:
    """A node, or one part of a fused node.

    Attributes:
        index: Position in topological order within its graph; parts of one node are neighbours.
        op: Operator type; a part bears the type of the operator that it stands for.
        domain: Operator domain, "" for the standard one.
        name: The node's name as in the file, often empty.
        inputs: Operands in order, "" where one is left out.
        outputs: Results in order, "" where one is left out.
        captured: Values that the node's bodies read from this graph or from the ones around it.
        data: The operands, captured values included, that the results depend on by data.
        proto: The node in the file.
        fused: The type of the fused operator that this is a part of; "" for a whole node.
        reads: Every value that the node reads, whatever for.
        output: The first result that is not left out.
    """

    index: int
    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]
    data: tuple[str, ...]
    proto: onnx.NodeProto
    fused: str = ""
    reads: tuple[str, ...] = field(init=False)
    output: str = field(init=False)

    def __post_init__(self) -> None:
        self.reads = tuple(filter(None, self.inputs)) + self.captured
        self.output = next(filter(None, self.outputs), "")

    @property
    def label(self) -> str:
        """The node's name, or `OpType:output` where it has none."""
        return describe(self.proto)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or the default."""
        return attribute(self.proto, name, default)


@dataclass(eq=False)
class GraphIndex:
    """One graph of a model.

    Attributes:
        graph: The graph in the file.
        nodes: In topological order.
        producer: Value name to the node that makes it.
        consumers: Value name to the nodes that read it, those that read it only inside a body included.
        inputs: Inputs that the caller must give, in order.
        outputs: Result names, in order.
        initializers: Tensors by name, those that are also inputs and those made by `Constant` nodes included.
        sparse: Names of sparse constants.
        overridable: Names of initializers that are also inputs.
        parent: The graph around this body; None for the main graph.
        owner: The node of the parent that this body belongs to.
        attribute: The owner's attribute that holds this body.
        scope: Path of the body from the outside in; () for the main graph.
    """

    graph: onnx.GraphProto
    nodes: list[Node] = field(default_factory=list)
    producer: dict[str, Node] = field(default_factory=dict)
    consumers: dict[str, list[Node]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)
    overridable: set[str] = field(default_factory=set)
    parent: GraphIndex | None = None
    owner: Node | None = None
    attribute: str = ""
    scope: tuple[str, ...] = ()

    @cached_property
    def output_set(self) -> frozenset[str]:
        """The graph's results as a set."""
        return frozenset(self.outputs)

    @cached_property
    def dynamic(self) -> frozenset[str]:
        """Values that depend, by data, on an input of the model or of a body around them.

        The rest is constant or made from shapes alone.
        """
        around = self.parent.dynamic if self.parent else frozenset()
        found = set(self.inputs)
        for node in self.nodes:
            if any(name in found or (name in around and self.is_outer(name)) for name in node.data):
                found.update(name for name in node.outputs if name)
        return frozenset(found) | {name for name in around if self.is_outer(name)}

    def is_outer(self, name: str) -> bool:
        """Whether a value comes from a graph around this body."""
        return (
            self.parent is not None
            and name not in self.producer
            and name not in self.initializers
            and name not in self.inputs
        )

    def readers(self, name: str) -> list[Node]:
        """The nodes of this graph that read a value, each once."""
        return self.consumers.get(name, [])

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The tensor behind a constant value; looks through the graphs around a body.

        None for a value that is no constant, or that a caller may override.
        """
        graph: GraphIndex | None = self
        while graph is not None:
            if name in graph.initializers:
                return None if name in graph.overridable else graph.initializers[name]
            if name in graph.producer or name in graph.inputs:
                return None
            graph = graph.parent
        return None

    def position(self, name: str) -> int:
        """Topological position of the node that makes a value; -1 for inputs, constants and outer values."""
        node = self.producer.get(name)
        return -1 if node is None else node.index


@dataclass(eq=False)
class ModelIndex:
    """All graphs of a model, the main graph first, each body after the graph that holds it.

    Attributes:
        model: The model.
        graphs: Main graph and bodies.
        functions: Model-local functions by (domain, name).
        inferred: Shapes by graph scope once `shapes.infer` has been here, so that they are inferred once.
        cut_from: Shapes of a model that this one was cut from: no cut changes the shape of a value that stays.
    """

    model: onnx.ModelProto
    graphs: tuple[GraphIndex, ...]
    functions: dict[tuple[str, str], onnx.FunctionProto]
    inferred: dict[tuple[str, ...], ShapeTable] | None = None
    cut_from: ShapeTable | None = None

    @property
    def main(self) -> GraphIndex:
        """The main graph."""
        return self.graphs[0]

    @property
    def opset(self) -> int:
        """Version of the standard operator set; 0 where the model imports none."""
        return max(
            (entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0
        )


def index_model(model: onnx.ModelProto) -> ModelIndex:
    """Index every graph of a model; linear in the number of nodes, reads no weights.

    Raises:
        InputError: Two nodes compute one value, or nodes read one another in a circle.
    """
    graphs: list[GraphIndex] = []
    _index_graph(model.graph, None, None, "", graphs)
    functions = {(function.domain, function.name): function for function in model.functions}
    return ModelIndex(model=model, graphs=tuple(graphs), functions=functions)


def index_graph(graph: onnx.GraphProto) -> GraphIndex:
    """Index one graph by itself, bodies not included."""
    return _index_graph(graph, None, None, "", [])


def _index_graph(
    graph: onnx.GraphProto,
    parent: GraphIndex | None,
    owner: Node | None,
    attribute: str,
    found: list[GraphIndex],
) -> GraphIndex:
    index = GraphIndex(graph=graph, parent=parent, owner=owner, attribute=attribute)
    if parent is not None and owner is not None:
        index.scope = (*parent.scope, f"{owner.label}/{attribute}")
    found.append(index)
    index.initializers = {tensor.name: tensor for tensor in graph.initializer}
    index.sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    names = [value.name for value in graph.input]
    index.overridable = set(names) & (index.initializers.keys() | index.sparse)
    index.inputs = tuple(name for name in names if name not in index.overridable)
    index.outputs = tuple(value.name for value in graph.output)
    bodies: list[tuple[Node, str, onnx.GraphProto]] = []
    for proto, operands, results in sorted_nodes(graph):
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx") and proto.output:
            tensor = _constant_tensor(proto)
            if tensor is not None:
                index.initializers[proto.output[0]] = tensor
        for node in _nodes(proto, operands, results, len(index.nodes), index.initializers):
            index.nodes.append(node)
            for name in node.outputs:
                if name:
                    index.producer[name] = node
            for name in dict.fromkeys(node.reads):
                readers = index.consumers.get(name)
                if readers is None:
                    index.consumers[name] = [node]
                else:
                    readers.append(node)
        bodies.extend((index.nodes[-1], name, body) for name, body in subgraphs(proto))
    for node, name, body in bodies:
        _index_graph(body, index, node, name, found)
    return index


def _nodes(
    proto: onnx.NodeProto,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    start: int,
    constants: Container[str],
) -> tuple[Node, ...]:
    """The node, or its parts where it is a fused merge."""
    domain, op = proto.domain, proto.op_type
    domain = "" if domain == "ai.onnx" else domain
    parts = _parts(proto, domain, inputs, outputs, constants) if op in ops.FUSED else ()
    if not parts:
        captured = body_reads(proto)
        data = ops.data_inputs(op, domain, inputs) + captured
        return (Node(start, op, domain, proto.name, inputs, outputs, captured, data, proto),)
    return tuple(
        Node(
            start + offset,
            kind,
            "",
            proto.name,
            reads,
            writes,
            (),
            ops.data_inputs(kind, "", reads),
            proto,
            fused=op,
        )
        for offset, (kind, reads, writes) in enumerate(parts)
    )


def _parts(
    proto: onnx.NodeProto,
    domain: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    constants: Container[str],
) -> ops.Parts:
    activation = attribute(proto, "activation", b"")
    activation = activation.decode(errors="replace") if isinstance(activation, bytes) else ""
    return ops.split_fused(
        proto.op_type, domain, inputs, outputs, hidden=HIDDEN, activation=activation, constants=constants
    )


def _constant_tensor(proto: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a `Constant` node in whichever attribute it is written; None for a sparse or string one."""
    make, name = onnx.helper.make_tensor, proto.output[0]
    for attr in proto.attribute:
        if attr.name == "value":
            tensor: onnx.TensorProto = attr.t
            return tensor
        if attr.name == "value_float":
            return make(name, onnx.TensorProto.FLOAT, [], [attr.f])
        if attr.name == "value_int":
            return make(name, onnx.TensorProto.INT64, [], [attr.i])
        if attr.name == "value_floats":
            return make(name, onnx.TensorProto.FLOAT, [len(attr.floats)], attr.floats)
        if attr.name == "value_ints":
            return make(name, onnx.TensorProto.INT64, [len(attr.ints)], attr.ints)
    return None
