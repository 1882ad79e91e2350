"""The constants of a model's main graph: which are fixed, who reads them, and how one is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import node_reads

FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
"""Element types that weights can be worked out anew in."""


class Weights:
    """Initializers and `Constant` nodes of one model, with the number of readers of every value.

    Args:
        model: The model; `put` and `drop_unread` change it in place.
        folder: Where its external data lies, if it has any.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self._model, self._base = model, folder
        graph = model.graph
        self._tensors: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        public = {value.name for value in graph.input}
        self._overridable = {name for name in self._tensors if name in public}
        self._constants: dict[str, onnx.TensorProto] = {
            node.output[0]: node.attribute[0].t
            for node in graph.node
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value"
        }
        # Some exporters give one of several equal weights through nodes that copy it.
        for node in graph.node:
            source = node.input[0] if node.op_type == "Identity" and node.input else ""
            if source in self._constants or (source in self._tensors and source not in self._overridable):
                self._constants[node.output[0]] = self.tensor(source)
        self._names = {name for node in graph.node for name in node.output} | public
        self.readers: dict[str, int] = {output.name: 1 for output in graph.output}
        for node in graph.node:
            # A value that one node reads twice has two readers.
            own = [name for name in node.input if name]
            for name in [*own, *(name for name in node_reads(node) if name not in own)]:
                self.readers[name] = self.readers.get(name, 0) + 1

    def known(self, name: str) -> bool:
        """Whether a value is a floating-point constant that no caller may override."""
        if name in self._overridable or not (name in self._tensors or name in self._constants):
            return False
        return self.tensor(name).data_type in FLOAT_TYPES

    def has(self, node: onnx.NodeProto, slot: int) -> bool:
        """Whether an input of a node is such a constant."""
        return slot < len(node.input) and self.known(node.input[slot])

    def tensor(self, name: str) -> onnx.TensorProto:
        """The tensor of a constant; its data may be external."""
        tensor: onnx.TensorProto = self._tensors[name] if name in self._tensors else self._constants[name]
        return tensor

    def array(self, name: str) -> NDArray[Any]:
        """The values of a constant, in its own type."""
        base = "" if self._base is None else str(self._base)
        return np.asarray(numpy_helper.to_array(self.tensor(name), base))

    def fresh(self, wish: str) -> str:
        """A name that no value has: the wish, or the first free numbered form of it."""
        taken = self._tensors.keys() | self._names
        name, number = wish, 1
        while name in taken:
            number += 1
            name = f"{wish}_{number}"
        self._names.add(name)
        return name

    def put(self, node: onnx.NodeProto, slot: int, values: NDArray[Any], dtype: Any, wish: str) -> None:
        """Give an input of a node new values, in place where nothing else reads the old ones.

        Args:
            node: A node of the main graph.
            slot: Which of its inputs; one beyond its last is added.
            values: The values.
            dtype: The type they are stored in.
            wish: Name of a new constant, where one is needed.

        Raises:
            InputError: A value leaves the range of the type.
        """
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(values, dtype=dtype)
        if not np.isfinite(cast).all():
            raise InputError(f"The new weights of {wish} leave the range of {np.dtype(dtype).name}.")
        name = node.input[slot] if slot < len(node.input) else ""
        if name in self._tensors and self.readers.get(name) == 1 and name not in self._overridable:
            tensor = numpy_helper.from_array(cast, name)
            tensor.doc_string = self._tensors[name].doc_string
            tensor.metadata_props.extend(self._tensors[name].metadata_props)
            if list(self._tensors[name].dims) != list(tensor.dims):
                self._forget_shape(name)
            self._tensors[name].CopyFrom(tensor)
            return
        fresh = self.fresh(wish)
        self._model.graph.initializer.append(numpy_helper.from_array(cast, fresh))
        self._tensors[fresh] = self._model.graph.initializer[-1]
        self.readers[fresh] = 1
        if name:
            self.readers[name] -= 1
        while len(node.input) <= slot:
            node.input.append("")
        node.input[slot] = fresh

    def _forget_shape(self, name: str) -> None:
        """Drop what the graph notes of a weight's shape; some exporters note it."""
        notes = self._model.graph.value_info
        for place in range(len(notes) - 1, -1, -1):
            if notes[place].name == name:
                del notes[place]

    def drop_unread(self) -> None:
        """Drop constants that lost their last reader, and the nodes that gave them."""
        graph = self._model.graph
        for place in range(len(graph.node) - 1, -1, -1):
            node = graph.node[place]
            if node.op_type in ("Constant", "Identity") and self.readers.get(node.output[0]) == 0:
                for name in node.input:
                    self.readers[name] -= 1
                del graph.node[place]
        unread = {name for name, count in self.readers.items() if count == 0} - self._overridable
        for place in range(len(graph.initializer) - 1, -1, -1):
            if graph.initializer[place].name in unread:
                del graph.initializer[place]
