"""Activations that an exporter spelled out: small regions of elementwise nodes that compute one function of one value.

A region is taken for an activation by what it computes: it is run on a grid and compared with the known functions, so
that every way to write GELU, SiLU or HardSwish is found without a pattern for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.graph.linear.editor import Editor

Float64 = NDArray[np.float64]

LARGEST_REGION = 16
"""Nodes of a spelled-out activation, at most."""

_NONLINEAR = {
    "Sigmoid",
    "Tanh",
    "Erf",
    "Softplus",
    "HardSigmoid",
    "Clip",
    "Relu",
    "Exp",
    "Log",
    "Pow",
    "Sqrt",
}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Neg", "Cast"}
_JOINS = {"Mul", "Div"}
_GRID = np.linspace(-8.0, 8.0, 65)
_TOLERANCE = 1e-3

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Float64) -> Float64:
    return np.asarray(1 / (1 + np.exp(-x)))


FUNCTIONS: dict[str, Callable[[Float64], Float64]] = {
    "Gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "Gelu (tanh)": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "Gelu (quick)": lambda x: x * _sigmoid(1.702 * x),
    "Silu": lambda x: x * _sigmoid(x),
    "HardSwish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "Relu6": lambda x: np.clip(x, 0, 6),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
}
"""Names of activations and what they compute; the nearest, within a thousandth, gives the name."""


@dataclass(frozen=True)
class Region:
    """A spelled-out activation.

    Attributes:
        kind: Name of the function, or `Elementwise` for one that is not known.
        input: The value that it is a function of.
        output: Its result.
        nodes: Its nodes in graph order.
    """

    kind: str
    input: str
    output: str
    nodes: tuple[onnx.NodeProto, ...]


def find_regions(editor: Editor) -> list[Region]:
    """The spelled-out activations of a model's main graph, in graph order, no node in two of them."""
    place = {id(node): number for number, node in enumerate(editor.nodes)}
    found: list[Region] = []
    taken: set[int] = set()
    for node in editor.nodes:
        if node.op_type not in _JOINS or id(node) in taken or not _is_member(editor, node):
            continue
        region = _region(editor, node, place)
        if region is not None and not taken & {id(member) for member in region.nodes}:
            found.append(region)
            taken |= {id(member) for member in region.nodes}
    return found


def _is_member(editor: Editor, node: onnx.NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type not in _NONLINEAR | _ARITHMETIC:
        return False
    constants = [name for name in node.input if name and editor.weights.known(name)]
    return len(node.output) == 1 and all(math.prod(editor.weights.tensor(n).dims) == 1 for n in constants)


def _operands(editor: Editor, node: onnx.NodeProto) -> list[str]:
    return list(dict.fromkeys(name for name in node.input if name and not editor.weights.known(name)))


def _region(editor: Editor, end: onnx.NodeProto, place: dict[int, int]) -> Region | None:
    """The nodes between one value and a product of two functions of it."""
    members = {id(end): end}
    open_values = _operands(editor, end)
    if len(open_values) < 2:
        return None
    while len(open_values) > 1:
        makers = {name: editor.producers.get(name) for name in open_values}
        known = [(place[id(maker)], name) for name, maker in makers.items() if maker is not None]
        if not known:
            return None
        # The value made last cannot be what the others are functions of.
        name = max(known)[1]
        maker = makers[name]
        if maker is None or not _is_member(editor, maker) or len(members) == LARGEST_REGION:
            return None
        members[id(maker)] = maker
        rest = [value for value in open_values if value != name]
        open_values = list(dict.fromkeys([*rest, *_operands(editor, maker)]))
    if not open_values or not any(node.op_type in _NONLINEAR for node in members.values()):
        return None
    return _named(editor, members, open_values[0], end, place)


def _named(
    editor: Editor, members: dict[int, onnx.NodeProto], start: str, end: onnx.NodeProto, place: dict[int, int]
) -> Region | None:
    """The region, with a factor that may follow, under the name of what it computes."""
    candidates = [(members, end)]
    after = editor.sole_reader(end.output[0])
    if after is not None and after.op_type in _JOINS and _is_member(editor, after):
        candidates.append(({**members, id(after): after}, after))
    closed = None
    for inside, last in candidates:
        nodes = tuple(sorted(inside.values(), key=lambda node: place[id(node)]))
        if not _is_closed(editor, nodes, last):
            continue
        kind = _kind(editor, nodes, start, last.output[0])
        if kind is not None:
            return Region(kind, start, last.output[0], nodes)
        closed = closed or Region("Elementwise", start, last.output[0], nodes)
    return closed


def _is_closed(editor: Editor, nodes: tuple[onnx.NodeProto, ...], last: onnx.NodeProto) -> bool:
    """Whether nothing outside reads an inner value."""
    inside = {id(node) for node in nodes}
    for node in nodes:
        value = node.output[0]
        if node is not last and (
            value in editor.outputs or any(id(reader) not in inside for reader in editor.readers(value))
        ):
            return False
    return True


def _kind(editor: Editor, nodes: tuple[onnx.NodeProto, ...], start: str, end: str) -> str | None:
    values = _on_grid(editor, nodes, start, end)
    if values is None:
        return None
    gaps = {kind: float(np.abs(values - function(_GRID)).max()) for kind, function in FUNCTIONS.items()}
    best = min(gaps, key=gaps.__getitem__)
    return best if gaps[best] <= _TOLERANCE else None


def _on_grid(editor: Editor, nodes: tuple[onnx.NodeProto, ...], start: str, end: str) -> Float64 | None:
    from onnx.reference import ReferenceEvaluator

    made = {node.output[0] for node in nodes}
    constants = {name for node in nodes for name in node.input if name and name not in made | {start}}
    types = {editor.weights.tensor(name).data_type for name in constants}
    dtype = types.pop() if len(types) == 1 else onnx.TensorProto.FLOAT
    array_type = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    graph = onnx.helper.make_graph(
        list(nodes),
        "region",
        [onnx.helper.make_tensor_value_info(start, dtype, [len(_GRID)])],
        [onnx.helper.make_tensor_value_info(end, dtype, [len(_GRID)])],
        [onnx.numpy_helper.from_array(editor.weights.array(name), name) for name in sorted(constants)],
    )
    model = onnx.helper.make_model(graph, opset_imports=editor.model.opset_import)
    try:
        with np.errstate(all="ignore"):
            (values,) = ReferenceEvaluator(model).run(None, {start: _GRID.astype(array_type)})
    except Exception:  # what ONNX's evaluator raises on an operator it does not know has no common base
        return None
    result = np.asarray(values, dtype=np.float64)
    return result if result.shape == _GRID.shape and np.isfinite(result).all() else None
