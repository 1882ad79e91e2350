"""One main graph under edit: who makes and reads each value, its shapes and weights, and how nodes are taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

import lacoot_deploy.graph.shapes.infer as static
from lacoot_deploy.graph.model.index import index_model
from lacoot_deploy.graph.model.pauses import no_cycle_search
from lacoot_deploy.graph.model.walk import attributes_of, defined_values, node_reads
from lacoot_deploy.graph.model.weights import Weights


class Editor:
    """A model whose main graph loses nodes, one pair at a time; `finish` leaves it whole.

    Values that stay keep their shapes, so shapes are inferred once.

    Attributes:
        model: The model, changed in place.
        weights: Its constants.
        shapes: Shapes of its values as they were at the start.
        outputs: Names of the graph's results.

    Args:
        model: The model.
        folder: Where its external data lies, if it has any.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self.model = model
        with no_cycle_search():
            self.shapes = static.infer(index_model(model))[()]
        self.weights = Weights(model, folder)
        self.outputs = frozenset(output.name for output in model.graph.output)
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self._values = defined_values(model.graph)
        self._gone: set[int] = set()
        self._forgotten: set[str] = set()
        self._behind: dict[int, onnx.NodeProto] = {}
        self.producers: dict[str, onnx.NodeProto] = {
            name: node for node in self.nodes for name in node.output if name
        }
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node_reads(node)):
                self._readers.setdefault(name, []).append(node)

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that read a value, those that read it only inside a body included."""
        return self._readers.get(value, [])

    def sole_reader(self, value: str) -> onnx.NodeProto | None:
        """The one node that reads a value, once and for its data; None where there are others or it is a result."""
        readers = self.readers(value)
        if value in self.outputs or len(readers) != 1:
            return None
        return readers[0] if list(readers[0].input).count(value) == 1 else None

    def rank(self, value: str) -> int | None:
        """Number of axes of a value; None where unknown."""
        shape = self.shapes.shape(value)
        return None if shape is None else len(shape)

    def is_false(self, name: str) -> bool:
        """Whether a value is a constant false."""
        tensor = next((t for t in self.model.graph.initializer if t.name == name), None)
        if tensor is None:
            made = self.producers.get(name)
            tensor = None if made is None or made.op_type != "Constant" else attributes_of(made).get("value")
        return tensor is not None and not np.asarray(onnx.numpy_helper.to_array(tensor)).any()

    def alive(self, node: onnx.NodeProto) -> bool:
        """Whether a node is still there."""
        return id(node) not in self._gone

    def read_instead(self, reader: onnx.NodeProto, old: str, new: str) -> None:
        """Let a node read another value in place of one."""
        counts = self.weights.readers
        for slot, name in enumerate(reader.input):
            if name == old:
                reader.input[slot] = new
                counts[new], counts[old] = counts.get(new, 0) + 1, counts.get(old, 1) - 1
        self._readers[old] = [node for node in self.readers(old) if node is not reader]
        if not any(node is reader for node in self.readers(new)):
            self._readers.setdefault(new, []).append(reader)

    def give_instead(self, node: onnx.NodeProto, value: str) -> None:
        """Let a node with one result give an existing value, whose own node must be taken out."""
        self.producers.pop(node.output[0], None)
        node.output[0] = value
        self.producers[value] = node

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out; what it reads loses a reader."""
        self._gone.add(id(node))
        for name in node_reads(node):
            self._readers[name] = [reader for reader in self.readers(name) if reader is not node]
        for name in node.input:
            if name and self.weights.readers.get(name):
                self.weights.readers[name] -= 1
        for name in node.output:
            if self.producers.get(name) is node:
                del self.producers[name]

    def forget_shape(self, value: str) -> None:
        """Drop what the file notes of a value that has become another under its old name."""
        self._forgotten.add(value)

    def append(self, node: onnx.NodeProto, op: str, constant: Any, wish: str) -> onnx.NodeProto:
        """Put a node with a constant operand behind one; it takes over the result that the first one gave."""
        value = node.output[0]
        inner = self.weights.fresh(f"{value}/{wish}_input")
        self.give_instead(node, inner)
        made = helper.make_node(op, [inner], [value], name=self.weights.fresh(f"{value}/{wish}"))
        made.metadata_props.extend(node.metadata_props)
        self.nodes.append(made)
        self.producers[value] = made
        self._readers[inner] = [made]
        self._behind[id(node)] = made
        self.weights.put(made, 1, constant, constant.dtype, f"{value}/{wish}_constant")
        return made

    def finish(self) -> None:
        """Write the nodes that are left back, and drop weights and notes that nothing uses any more."""
        if not self._gone and not self._behind:
            return
        added = {id(node) for node in self._behind.values()}
        kept: list[onnx.NodeProto] = []
        for node in self.nodes:
            if id(node) in added:
                continue
            place: onnx.NodeProto | None = node
            while place is not None:
                if id(place) not in self._gone:
                    kept.append(place)
                place = self._behind.get(id(place))
        graph = self.model.graph
        copies = onnx.GraphProto()
        copies.node.extend(kept)
        del graph.node[:]
        graph.node.extend(copies.node)
        self.weights.drop_unread()
        gone = self._values - defined_values(graph) | self._forgotten
        for notes, name in (
            (graph.value_info, "name"),
            (graph.quantization_annotation, "tensor_name"),
        ):
            for place_ in range(len(notes) - 1, -1, -1):
                if getattr(notes[place_], name) in gone:
                    del notes[place_]


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give a node an attribute in place of the one it had; None takes it away."""
    for place in range(len(node.attribute) - 1, -1, -1):
        if node.attribute[place].name == name:
            del node.attribute[place]
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))
