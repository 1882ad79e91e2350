"""Bounds on values that hold for every input: which values are known to be non-negative, or clipped to a range.

A block that ends in a `Relu` can be bypassed exactly only where its input has been through one too; a `Clip` (`Relu6`)
only where the input is within its bounds already.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.tolerant import attempt

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
_MAX_CONSTANT = 4096


class Ranges:
    """Bounds of the values of one graph, by name; worked out in one pass when they are first asked for."""

    def __init__(self, graph: GraphIndex, parent: Ranges | None = None) -> None:
        self.graph = graph
        self._parent = parent
        self._known: dict[str, Bounds] = {}
        self._looked = False

    def _look(self) -> None:
        """Go through the graph once, when the first bounds are asked for; most networks need none."""
        self._looked = True
        for node in self.graph.nodes:
            rule = _RULES.get(node.op) if node.domain in ("", "com.microsoft") else None
            if rule is None:
                continue
            bounds = attempt(rule, self, node, unknown=ANY)
            if bounds != ANY:
                for name in node.outputs:
                    if name:
                        self._known[name] = bounds

    def of(self, name: str) -> Bounds:
        """Least and greatest value that the named value can hold."""
        if not self._looked:
            self._look()
        if name in self._known:
            return self._known[name]
        tensor = self.graph.constant(name)
        if tensor is not None:
            bounds = attempt(constant_bounds, tensor, unknown=ANY)
            self._known[name] = bounds
            return bounds
        if self._parent is not None and self.graph.is_outer(name):
            return self._parent.of(name)
        return ANY

    def within(self, name: str, bounds: Bounds) -> bool:
        """Whether the value lies within bounds for every input."""
        low, high = self.of(name)
        return low >= bounds[0] and high <= bounds[1]

    def clip_bounds(self, node: Node) -> Bounds:
        """The bounds that a `Clip` or `Relu` enforces; not a number where they are not constant."""
        if node.op == "Relu":
            return (0.0, math.inf)
        if node.fused:
            low, high = _fused(self, node)
            return (low, high) if (low, high) != ANY else (math.nan, math.nan)
        low, high = node.attribute("min", -math.inf), node.attribute("max", math.inf)
        if len(node.inputs) > 1 and node.inputs[1]:
            low = self._scalar(node.inputs[1])
        if len(node.inputs) > 2 and node.inputs[2]:
            high = self._scalar(node.inputs[2])
        return (low, high)

    def _scalar(self, name: str) -> float:
        low, high = self.of(name)
        return low if low == high else math.nan


def constant_bounds(tensor: onnx.TensorProto) -> Bounds:
    """Bounds of a small constant; nothing is known of a large or external one."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or math.prod(tensor.dims) > _MAX_CONSTANT:
        return ANY
    if tensor.data_type == onnx.TensorProto.STRING:
        return ANY
    values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
    if values.size == 0 or not np.all(np.isfinite(values)):
        return ANY
    return (float(values.min()), float(values.max()))


def _same(ranges: Ranges, node: Node) -> Bounds:
    return ranges.of(node.inputs[0])


def _union(ranges: Ranges, node: Node) -> Bounds:
    bounds = [ranges.of(name) for name in node.data] or [ANY]
    return (min(low for low, _ in bounds), max(high for _, high in bounds))


def _fixed(low: float, high: float) -> Callable[[Ranges, Node], Bounds]:
    return lambda _ranges, _node: (low, high)


def _clip(ranges: Ranges, node: Node) -> Bounds:
    low, high = ranges.of(node.inputs[0])
    floor, ceiling = ranges.clip_bounds(node)
    floor = -math.inf if math.isnan(floor) else floor
    ceiling = math.inf if math.isnan(ceiling) else ceiling
    return (min(max(low, floor), ceiling), max(min(high, ceiling), floor))


def _fused(ranges: Ranges, node: Node) -> Bounds:
    """What the activation inside a fused operator enforces."""
    name = node.attribute("activation", b"").decode()
    if name == "Clip":
        given = node.attribute("activation_params", [])
        return (given[0], given[1]) if len(given) == 2 else ANY
    known = {"Relu": (0.0, math.inf), "Tanh": (-1.0, 1.0)}
    return {**known, **dict.fromkeys(("Sigmoid", "HardSigmoid"), (0.0, 1.0))}.get(name, ANY)


def _padded(ranges: Ranges, node: Node) -> Bounds:
    low, high = ranges.of(node.inputs[0])
    if node.op == "AveragePool":
        counts = node.attribute("count_include_pad", 0)
        return (min(low, 0.0), max(high, 0.0)) if counts else (low, high)
    mode = node.attribute("mode", b"constant")
    if mode != b"constant":
        return (low, high)
    if len(node.inputs) > 2 and node.inputs[2]:
        fill = ranges.of(node.inputs[2])
    else:
        value = node.attribute("value", 0.0)
        fill = (value, value)
    return (min(low, fill[0]), max(high, fill[1]))


def _resize(ranges: Ranges, node: Node) -> Bounds:
    if node.attribute("mode") == b"cubic":
        return ANY
    low, high = ranges.of(node.inputs[0])
    if node.attribute("coordinate_transformation_mode") == b"tf_crop_and_resize":
        # What lies outside of the crop is filled with a value of its own.
        fill = node.attribute("extrapolation_value", 0.0)
        return (min(low, fill), max(high, fill))
    return (low, high)


def _sum(ranges: Ranges, node: Node) -> Bounds:
    bounds = [ranges.of(name) for name in node.inputs if name]
    return (sum(low for low, _ in bounds), sum(high for _, high in bounds))


def _product(ranges: Ranges, node: Node) -> Bounds:
    if node.inputs[0] == node.inputs[1]:
        return (0.0, math.inf)
    (a, b), (c, d) = (ranges.of(name) for name in node.inputs[:2])
    if any(math.isinf(v) for v in (a, b, c, d)):
        return (0.0, math.inf) if a >= 0 and c >= 0 else ANY
    corners = (a * c, a * d, b * c, b * d)
    return (min(corners), max(corners))


def _quotient(ranges: Ranges, node: Node) -> Bounds:
    a, b = ranges.of(node.inputs[0])
    c, d = ranges.of(node.inputs[1])
    if c <= 0:
        return ANY
    if math.isinf(a) or math.isinf(b) or math.isinf(d):
        return (0.0, math.inf) if a >= 0 else ANY
    corners = (a / c, a / d, b / c, b / d)
    return (min(corners), max(corners))


def _non_negative_of(ranges: Ranges, node: Node) -> Bounds:
    low, high = ranges.of(node.inputs[0])
    return (0.0, max(abs(low), abs(high)))


def _dequantised(ranges: Ranges, node: Node) -> Bounds:
    """What integers of eight bits can stand for."""
    tensor = ranges.graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    limits = {"UINT8": (0, 255), "INT8": (-128, 127)}
    kind = "" if tensor is None else onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind not in limits:
        return ANY
    least, most = limits[kind]
    (low, high), zero = ranges.of(node.inputs[1]), ranges.of(node.inputs[2])
    if low < 0 or math.isinf(high) or zero[0] != zero[1]:
        return ANY
    return ((least - zero[0]) * high, (most - zero[0]) * high)


def _keeps_sign(ranges: Ranges, node: Node) -> Bounds:
    return (0.0, math.inf) if ranges.of(node.inputs[0])[0] >= 0 else ANY


def _max(ranges: Ranges, node: Node) -> Bounds:
    bounds = [ranges.of(name) for name in node.inputs if name]
    return (max(low for low, _ in bounds), max(high for _, high in bounds))


def _min(ranges: Ranges, node: Node) -> Bounds:
    bounds = [ranges.of(name) for name in node.inputs if name]
    return (min(low for low, _ in bounds), min(high for _, high in bounds))


_KEEP = (
    "Identity", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice",
    "Split", "Gather", "GatherElements", "GatherND", "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool",
    "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin", "ReduceMean", "CenterCropPad",
)  # fmt: skip
# Sums and means of values within bounds are rounded, but never across zero: that is all that matters for a Relu.

_RULES: dict[str, Callable[[Ranges, Node], Bounds]] = {
    **dict.fromkeys(_KEEP, _same),
    **dict.fromkeys(("Concat", "Where"), _union),
    **dict.fromkeys(("Sigmoid", "Softmax", "HardSigmoid", "Hardmax"), _fixed(0.0, 1.0)),
    **dict.fromkeys(
        ("Exp", "Softplus", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Sqrt"), _fixed(0.0, math.inf)
    ),
    **dict.fromkeys(("Tanh", "Erf", "Softsign", "Sin", "Cos"), _fixed(-1.0, 1.0)),
    **dict.fromkeys(("Relu", "Clip"), _clip),
    **dict.fromkeys(("AveragePool", "Pad"), _padded),
    **dict.fromkeys(("FusedConv", "FusedGemm", "NhwcFusedConv"), _fused),
    **dict.fromkeys(
        ("LeakyRelu", "Elu", "Gelu", "Mish", "HardSwish", "ReduceSum", "ThresholdedRelu"), _keeps_sign
    ),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Add", "Sum"), _sum),
    "DequantizeLinear": _dequantised,
    "Mul": _product,
    "Div": _quotient,
    "Abs": _non_negative_of,
    "Max": _max,
    "Min": _min,
    "Cast": lambda ranges, node: _keeps_sign(ranges, node),
}
