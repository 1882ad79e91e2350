"""The arithmetic that models do on shapes, done ahead: what a `Reshape` or `Slice` will be told.

Values are small arrays whose entries are numbers or symbolic dimensions (`dims`); None stands for an unknown entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.graph.model.blocks import Shape
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.tolerant import attempt
from lacoot_deploy.graph.shapes import dims

Value = NDArray[Any]
MAX_ELEMENTS = 128
_BITS = 63


class ShapeValues:
    """Small values of one graph, as far as known ahead.

    Args:
        graph: The indexed graph.
        shape: Looks up shapes.
        outer: Values of the graph around a body.
    """

    def __init__(
        self, graph: GraphIndex, shape: Callable[[str], Shape | None], outer: ShapeValues | None = None
    ) -> None:
        self._graph = graph
        self._shape = shape
        self._outer = outer
        self._known: dict[str, Value | None] = {}

    def get(self, name: str) -> Value | None:
        """The value, or None where nothing is known of it."""
        if not name:
            return None
        if name not in self._known:
            tensor = self._graph.constant(name)
            if tensor is not None:
                self._known[name] = attempt(_load, tensor, unknown=None)
            elif self._outer is not None and self._graph.is_outer(name):
                return self._outer.get(name)
            else:
                return None
        return self._known[name]

    def numbers(self, name: str) -> list[Any] | None:
        """The entries of a value of at most one axis; None where nothing is known of it."""
        value = self.get(name)
        return None if value is None else list(value.reshape(-1))

    def visit(self, node: Node) -> None:
        """Work out what a node computes, if its operator is one that shapes are computed with."""
        rule = _RULES.get(node.op)
        if rule is None or node.domain or len(node.outputs) != 1:
            return
        value = attempt(rule, self, node, unknown=None)
        if value is not None and value.size <= MAX_ELEMENTS:
            self._known[node.outputs[0]] = value

    def shape_of(self, name: str) -> Shape | None:
        """The shape of a value."""
        return self._shape(name)


def _load(tensor: onnx.TensorProto) -> Value | None:
    kinds = onnx.TensorProto
    wanted = (kinds.INT64, kinds.INT32, kinds.FLOAT, kinds.DOUBLE, kinds.BOOL, kinds.FLOAT16)
    if tensor.data_location == kinds.EXTERNAL or tensor.data_type not in wanted:
        return None
    if math.prod(tensor.dims) > MAX_ELEMENTS or len(tensor.dims) > 2:
        return None
    return _objects(onnx.numpy_helper.to_array(tensor))


def _objects(array: NDArray[Any]) -> Value:
    result = np.empty(array.shape, dtype=object)
    result[...] = array.tolist()
    return result


def _shape_op(values: ShapeValues, node: Node) -> Value | None:
    shape = values.shape_of(node.inputs[0])
    if shape is None:
        return None
    part = shape[node.attribute("start", 0) : node.attribute("end", None)]
    result = np.empty(len(part), dtype=object)
    result[:] = part
    return result


def _size(values: ShapeValues, node: Node) -> Value | None:
    shape = values.shape_of(node.inputs[0])
    return None if shape is None else _scalar(dims.product(shape))


def _scalar(entry: Any) -> Value:
    result = np.empty((), dtype=object)
    result[()] = entry
    return result


def _is_number(entry: Any) -> bool:
    return isinstance(entry, (int, float))


def _binary(
    exact: Callable[[Any, Any], Any], symbolic: Callable[[Any, Any], Any] | None
) -> Callable[[ShapeValues, Node], Value | None]:
    def pair(a: Any, b: Any) -> Any:
        if _is_number(a) and _is_number(b):
            try:
                return _in_range(exact(a, b))
            except (ZeroDivisionError, OverflowError, ValueError):
                return None
        if symbolic is None or isinstance(a, float) or isinstance(b, float):
            return None
        return symbolic(a, b)

    combine = np.frompyfunc(pair, 2, 1)

    def rule(values: ShapeValues, node: Node) -> Value | None:
        a, b = values.get(node.inputs[0]), values.get(node.inputs[1])
        if a is None or b is None or a.size * b.size > MAX_ELEMENTS:
            return None
        return _wrap(combine(a, b))

    return rule


def _wrap(result: Any) -> Value:
    return result if isinstance(result, np.ndarray) else _scalar(result)


def _unary(exact: Callable[[Any], Any]) -> Callable[[ShapeValues, Node], Value | None]:
    apply = np.frompyfunc(lambda entry: exact(entry) if _is_number(entry) else None, 1, 1)

    def rule(values: ShapeValues, node: Node) -> Value | None:
        value = values.get(node.inputs[0])
        return None if value is None else _wrap(apply(value))

    return rule


def _cast(values: ShapeValues, node: Node) -> Value | None:
    value = values.get(node.inputs[0])
    if value is None:
        return None
    to = node.attribute("to", 0)
    kinds = onnx.TensorProto

    def convert(entry: Any) -> Any:
        if not _is_number(entry):
            return entry if to in (kinds.INT64, kinds.INT32) else None
        if to in (kinds.INT64, kinds.INT32):
            return int(entry) if math.isfinite(entry) else None
        if to == kinds.BOOL:
            return bool(entry)
        return float(entry) if to in (kinds.FLOAT, kinds.DOUBLE) else None

    return _wrap(np.frompyfunc(convert, 1, 1)(value))


def _same(values: ShapeValues, node: Node) -> Value | None:
    return values.get(node.inputs[0])


def _gather(values: ShapeValues, node: Node) -> Value | None:
    data, where = values.get(node.inputs[0]), values.get(node.inputs[1])
    if (
        data is None
        or where is None
        or data.ndim == 0
        or not all(isinstance(i, int) for i in where.reshape(-1))
    ):
        return None
    try:
        return _wrap(np.take(data, where.astype(np.int64), axis=node.attribute("axis", 0)))
    except (IndexError, ValueError):
        return None


def _slice(values: ShapeValues, node: Node) -> Value | None:
    data = values.get(node.inputs[0])
    spans = slices(values, node, 1 if data is None else data.ndim)
    if data is None or spans is None:
        return None
    index = [slice(None)] * data.ndim
    for axis, (start, end, step) in spans.items():
        if not all(isinstance(bound, int) for bound in (start, end, step)) or step == 0:
            return None
        low = max(start + data.shape[axis], 0) if start < 0 else start
        high: int | None = end + data.shape[axis] if -data.shape[axis] <= end < 0 else end
        if step < 0 and end < -data.shape[axis]:
            high = None
        index[axis] = slice(low, high, step)
    return data[tuple(index)]


def slices(values: ShapeValues, node: Node, rank: int) -> dict[int, tuple[Any, Any, Any]] | None:
    """Start, end and step of a `Slice` by axis; None where even the axes are unknown."""
    if len(node.inputs) > 1:
        starts, ends = values.numbers(node.inputs[1]), values.numbers(node.inputs[2])
        axes = values.numbers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
        has_axes = len(node.inputs) > 3 and bool(node.inputs[3])
        steps = values.numbers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else None
    else:
        starts, ends = list(node.attribute("starts", [])), list(node.attribute("ends", []))
        axes, steps = node.attribute("axes", None), None
        has_axes = axes is not None
    if has_axes and axes is None:
        return None
    if axes is None:
        if starts is None:
            return None
        axes = list(range(len(starts)))
    if not all(isinstance(axis, int) for axis in axes):
        return None
    starts = starts or [None] * len(axes)
    ends = ends or [None] * len(axes)
    if steps is None:
        unknown = len(node.inputs) > 4 and bool(node.inputs[4])
        steps = [None if unknown else 1] * len(axes)
    if not len(starts) == len(ends) == len(steps) == len(axes):
        return None
    return {axis % rank: (s, e, t) for axis, s, e, t in zip(axes, starts, ends, steps, strict=True)}


def _concat(values: ShapeValues, node: Node) -> Value | None:
    parts = [values.get(name) for name in node.inputs]
    shapes = [values.shape_of(name) for name in node.inputs]
    filled = []
    for part, shape in zip(parts, shapes, strict=True):
        if part is None:
            # An unknown entry takes its place, so that the ones around it still count.
            if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > MAX_ELEMENTS:
                return None
            part = np.full((shape[0],), None, dtype=object)
        filled.append(part)
    if any(part.ndim != 1 for part in filled):
        return None
    return np.concatenate(filled)


def _unsqueeze(values: ShapeValues, node: Node) -> Value | None:
    value = values.get(node.inputs[0])
    if value is None or value.ndim > 1:
        return None
    axes = values.numbers(node.inputs[1]) if len(node.inputs) > 1 else node.attribute("axes", None)
    if axes is None or not all(isinstance(axis, int) for axis in axes):
        return None
    rank = value.ndim + len(axes)
    shape = list(value.shape)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return value.reshape(shape)


def _squeeze(values: ShapeValues, node: Node) -> Value | None:
    value = values.get(node.inputs[0])
    return None if value is None or value.size != 1 else value.reshape(())


def _reshape(values: ShapeValues, node: Node) -> Value | None:
    value, target = values.get(node.inputs[0]), values.numbers(node.inputs[1])
    if value is None or target is None or not all(isinstance(n, int) for n in target):
        return None
    try:
        return value.reshape(target)
    except ValueError:
        return None


def _fill(values: ShapeValues, node: Node) -> Value | None:
    shape = values.numbers(node.inputs[0])
    if (
        shape is None
        or not all(isinstance(n, int) and n >= 0 for n in shape)
        or math.prod(shape) > MAX_ELEMENTS
    ):
        return None
    tensor = node.attribute("value", None)
    entry = 0.0 if tensor is None else onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()[0]
    return np.full(shape, entry, dtype=object)


def _expand(values: ShapeValues, node: Node) -> Value | None:
    value, shape = values.get(node.inputs[0]), values.numbers(node.inputs[1])
    if value is None or shape is None or not all(isinstance(n, int) and n > 0 for n in shape):
        return None
    target = np.broadcast_shapes(value.shape, tuple(shape))
    return np.broadcast_to(value, target) if math.prod(target) <= MAX_ELEMENTS else None


def _where(values: ShapeValues, node: Node) -> Value | None:
    chosen, a, b = (values.get(name) for name in node.inputs)
    if chosen is None or a is None or b is None or max(chosen.size, a.size, b.size) > MAX_ELEMENTS:
        return None
    pick = np.frompyfunc(lambda c, x, y: None if c is None else (x if c else y), 3, 1)
    return _wrap(pick(chosen, a, b))


def _reduce_prod(values: ShapeValues, node: Node) -> Value | None:
    value = values.get(node.inputs[0])
    if value is None or value.ndim > 1 or any(isinstance(entry, float) for entry in value.reshape(-1)):
        return None
    total = _scalar(dims.product(value.reshape(-1)))
    return total.reshape(1) if node.attribute("keepdims", 1) and value.ndim else total


def _transpose(values: ShapeValues, node: Node) -> Value | None:
    value = values.get(node.inputs[0])
    return None if value is None else np.transpose(value, node.attribute("perm", None))


def _range(values: ShapeValues, node: Node) -> Value | None:
    bounds = [values.numbers(name) for name in node.inputs]
    if any(bound is None or len(bound) != 1 or not isinstance(bound[0], int) for bound in bounds):
        return None
    start, limit, step = (bound[0] for bound in bounds if bound)
    if step == 0 or not 0 <= (limit - start) / step <= MAX_ELEMENTS:
        return None
    return _objects(np.arange(start, limit, step))


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return dims.divide(a, b)
    return a / b


def _power(a: Any, b: Any) -> Any:
    # Integers grow without bound here, and would long before they are thrown away.
    return None if isinstance(b, int) and abs(b) > _BITS else a**b


def _in_range(entry: Any) -> Any:
    """The entry, or None where it has no place in 64 bits and so says nothing about a shape."""
    return None if isinstance(entry, int) and entry.bit_length() > _BITS else entry


def _known_equal(a: Any, b: Any) -> Any:
    return True if a is not None and a == b else None


def _known_less(a: Any, b: Any) -> Any:
    # A dimension is never negative: `Where(shape < 0, ...)` and the like are decided.
    return False if isinstance(a, str) and isinstance(b, int) and b <= 0 else None


_RULES: dict[str, Callable[[ShapeValues, Node], Value | None]] = {
    "Shape": _shape_op,
    "Size": _size,
    "Add": _binary(lambda a, b: a + b, dims.add),
    "Sub": _binary(lambda a, b: a - b, dims.subtract),
    "Mul": _binary(lambda a, b: a * b, dims.multiply),
    "Div": _binary(_quotient, dims.divide),
    "Mod": _binary(lambda a, b: a % b, dims.modulo),
    "Max": _binary(max, None),
    "Min": _binary(min, None),
    "Pow": _binary(_power, None),
    "Equal": _binary(lambda a, b: a == b, _known_equal),
    "Less": _binary(lambda a, b: a < b, _known_less),
    "Greater": _binary(lambda a, b: a > b, None),
    "And": _binary(lambda a, b: bool(a and b), None),
    "Or": _binary(lambda a, b: bool(a or b), None),
    "Neg": _unary(lambda a: -a),
    "Floor": _unary(lambda a: float(math.floor(a))),
    "Ceil": _unary(lambda a: float(math.ceil(a))),
    "Sqrt": _unary(lambda a: math.sqrt(a) if a >= 0 else None),
    "Abs": _unary(abs),
    "Not": _unary(lambda a: not a),
    "Cast": _cast,
    "Identity": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "ConstantOfShape": _fill,
    "Expand": _expand,
    "Where": _where,
    "ReduceProd": _reduce_prod,
    "Transpose": _transpose,
    "Range": _range,
}
