"""Which constants of a file are weights that can be trained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.graph.model.ops import QUANTIZED, SCALING_PAIR
from lacoot_deploy.healing.flat import FlatGraph, FlatNode
from lacoot_deploy.healing.operators import find

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)

PASSING = frozenset(
    {
        "Identity",
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Cast",
        "Expand",
        "Slice",
        "Split",
    }
)
"""Operators through which a weight may come to the node that uses it."""

ENTRYWISE = frozenset({"Add", "Mul", "Sub", "Sum"})
"""Operators whose constant operand is a weight only where it looks like one: a vector, or a module's parameter."""

NEVER = frozenset({"Div", "Max", "Min", "Mean"})

LARGE = 1e4
"""A constant summand with larger entries is a mask."""

_PARAMETER = re.compile(r"^[A-Za-z_][\w-]*(\.[\w-]+)+$")


def trainable_weights(graph: FlatGraph) -> list[str]:
    """Names of the constants that can be trained, in the order in which nodes use them.

    Those are floating-point constants, not inside a body, that reach a weight operand of an operator of the table, also
    through copies, transposes and the like. A constant that is added or multiplied entry by entry counts where it is a
    vector along one axis, or bears a parameter's dotted name.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs if name}
    taken: dict[str, None] = {}
    for node in graph.nodes:
        entry = find(node.domain, node.op)
        if entry is None or node.op in NEVER:
            continue
        for place in entry.weights:
            name = node.inputs[place] if place < len(node.inputs) else ""
            source = _source(name, graph, makers)
            if source is None or source in taken:
                continue
            if node.op not in ENTRYWISE or _looks_like_weight(source, graph):
                taken[source] = None
    return list(taken)


def _source(name: str, graph: FlatGraph, makers: dict[str, FlatNode]) -> str | None:
    """The trainable constant that an operand is made of, if it is one."""
    for _ in range(16):
        if name in graph.constants:
            constant = graph.constants[name]
            size = int(np.prod(constant.tensor.dims))
            return name if constant.trainable and constant.tensor.data_type in FLOATS and size > 1 else None
        node = makers.get(name)
        if node is None or node.op not in PASSING or node.domain:
            return None
        name = node.inputs[0]
    return None


def _looks_like_weight(name: str, graph: FlatGraph) -> bool:
    dims = graph.constants[name].tensor.dims
    if sum(size > 1 for size in dims) > 1 and not _PARAMETER.match(name):
        return False
    values: NDArray[Any] = graph.array(name)
    return bool(np.isfinite(values).all() and np.abs(values).max() < LARGE)


def dependents(nodes: Iterable[FlatNode], sources: Iterable[str]) -> set[str]:
    """All values that depend on one of `sources`, those included."""
    found = set(sources)
    for node in nodes:
        if any(name in found for name in node.reads):
            found.update(name for name in node.outputs if name)
    return found


def quantised(graph: FlatGraph) -> str | None:
    """The first operator of a quantised file; None where the file is none."""
    return next((node.op for node in graph.nodes if node.op in QUANTIZED or node.op in SCALING_PAIR), None)
