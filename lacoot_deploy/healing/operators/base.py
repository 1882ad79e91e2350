"""What an operator of the table is: a function that reads a node once and gives the PyTorch function for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

Run = Callable[..., Any]
"""Operands in order (None for one that is left out) to a tensor, or to a tuple of them."""


class UnknownOperatorError(Exception):
    """A node that the table cannot run; the text says what about it."""


@dataclass(frozen=True)
class Call:
    """A node as its operator sees it.

    Attributes:
        op: Operator type.
        domain: Its domain, "" for the standard one.
        version: The version of the domain's operator set that the model imports.
        attributes: Attribute values as Python's own: numbers, texts, lists, arrays.
        operands: How many operands the node names, trailing ones that are left out aside.
        results: Names of the results, "" where one is left out.
        constants: Values of the operands that are constants, by their place.
    """

    op: str
    domain: str
    version: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    operands: int = 1
    results: tuple[str, ...] = ("",)
    constants: Mapping[int, NDArray[Any]] = field(default_factory=dict)

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one whole number."""
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """An attribute that is one number."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a text."""
        return str(self.attributes.get(name, default))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of whole numbers; None where it is left out."""
        values = self.attributes.get(name)
        return None if values is None else tuple(int(value) for value in values)

    def wants(self, place: int) -> bool:
        """Whether somebody may read the result at that place."""
        return place < len(self.results) and bool(self.results[place])

    def reader(self, place: int, attribute: str = "") -> Callable[[tuple[Any, ...]], tuple[int, ...] | None]:
        """Reads an operand that says whole numbers (a shape, axes, pads), which older operator sets give as attribute.

        A constant is read here and now; any other when the node runs, from the host's memory.
        """
        if attribute and attribute in self.attributes:
            fixed = self.integers(attribute)
            return lambda operands: fixed
        if place in self.constants:
            known = tuple(int(value) for value in self.constants[place].reshape(-1))
            return lambda operands: known
        return lambda operands: whole_numbers(operands, place)


def whole_numbers(operands: tuple[Any, ...], place: int) -> tuple[int, ...] | None:
    """The whole numbers that an operand holds; None where it is left out."""
    if place >= len(operands) or operands[place] is None:
        return None
    values = operands[place].reshape(-1).tolist()
    return tuple(int(value) for value in values)


Build = Callable[[Call], Run]


@dataclass(frozen=True)
class Operator:
    """An entry of the table.

    Attributes:
        build: Reads a node and gives the function that runs it.
        host: Places of operands that say shapes, axes or bounds: they are read on the host.
        weights: Places of operands that are weights where they are constants.
    """

    build: Build
    host: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()


MICROSOFT = "com.microsoft"

TABLE: dict[tuple[str, str], Operator] = {}
"""All operators by domain and type."""


def operator(
    *names: str, domain: str = "", host: tuple[int, ...] = (), weights: tuple[int, ...] = ()
) -> Callable[[Build], Build]:
    """Enter a function into the table under one name or more."""

    def enter(build: Build) -> Build:
        for name in names:
            TABLE[domain, name] = Operator(build, host, weights)
        return build

    return enter


def simple(domain: str = "", **functions: Run) -> None:
    """Enter operators without attributes, each with the function that runs it."""
    for name, run in functions.items():
        TABLE[domain, name] = Operator(lambda call, run=run: run)  # type: ignore[misc]


def attribute_values(
    node: onnx.NodeProto, outer: Mapping[str, onnx.AttributeProto] | None = None, folder: str = ""
) -> dict[str, Any]:
    """A node's attributes as Python values; those that refer to a function's own attributes are looked up there.

    Args:
        node: The node; graphs among its attributes are left out.
        outer: Attributes of the function call that the node's body belongs to.
        folder: Where external data lies.
    """
    found: dict[str, Any] = {}
    for entry in node.attribute:
        attribute = entry
        if entry.ref_attr_name:
            if outer is None or entry.ref_attr_name not in outer:
                continue
            attribute = outer[entry.ref_attr_name]
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value, folder)
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [item.decode(errors="replace") for item in value]
        found[entry.name] = value
    return found


_DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float32,
    onnx.TensorProto.BFLOAT16: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


def torch_dtype(element: int) -> torch.dtype:
    """PyTorch's type for ONNX's; half precision is worked with in float32.

    Raises:
        UnknownOperatorError: There is none.
    """
    if element not in _DTYPES:
        raise UnknownOperatorError(f"of element type {onnx.TensorProto.DataType.Name(element)}")
    return _DTYPES[element]


def tensor_of(array: NDArray[Any]) -> Tensor:
    """An array as a tensor of its own memory; half precision becomes float32.

    Raises:
        UnknownOperatorError: PyTorch has no such type.
    """
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    elif array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError:
        raise UnknownOperatorError(f"of element type {array.dtype}") from None
