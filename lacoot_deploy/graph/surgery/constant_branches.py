"""Finds branches that give the same value whatever the input: such a block goes without any loss.

Training with weight decay leaves them behind: a convolution whose weights are all zero, or a ReLU that is never on. A
range is followed through each branch, per channel, with no assumption on the branch's input; where lower and upper
bound meet at the end, the branch is that constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.external import map_external
from lacoot_deploy.graph.model.walk import attribute, attributes_of
from lacoot_deploy.graph.surgery.constants import folded_constants
from lacoot_deploy.graph.surgery.cuts import Cut, Repair

Float64 = NDArray[np.float64]

FIRST_INPUTS = 16
"""Inputs of a sum that are looked at first; they settle nearly every one that is not bounded."""

MOST_WEIGHTS = 1 << 20
"""Weights that are looked at together."""

ROUNDING = 1e-5
"""A bound counts as below zero only by more than this share of its size: the runtime sums in single precision."""


@dataclass(frozen=True)
class Range:
    """Bounds of a value per channel, [C] each, or [1] where the channels are alike.

    Attributes:
        low: Lower bounds.
        high: Upper bounds.
        axis: The channel axis: 1, or -1 for the last; of no matter where the channels are alike.
    """

    low: Float64
    high: Float64
    axis: int = 1

    @property
    def constant(self) -> bool:
        """Whether both bounds are one finite number in every channel."""
        return bool(np.isfinite(self.low).all() and np.array_equal(self.low, self.high))

    def map(self, function: Callable[[Float64], Float64]) -> Range:
        """The range after a function that never falls."""
        return Range(function(self.low), function(self.high), self.axis)


ANY = Range(np.array([-np.inf]), np.array([np.inf]))

_MONOTONE: dict[str, Callable[[Float64], Float64]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "Dropout": lambda x: x,
    "GlobalAveragePool": lambda x: x,
    "MaxPool": lambda x: x,
}


def constant_cuts(model: onnx.ModelProto, blocks: Sequence[Block], folder: Path | None = None) -> list[Cut]:
    """Exact cuts of all blocks whose branch is constant: the merge becomes skip + constant.

    Args:
        model: The model.
        blocks: Its blocks; only collapsible ones of the main graph with a single unit are looked at.
        folder: Where external data lies; weights in it are taken as unknown without.

    Returns:
        Cuts that change no output, in the order of the blocks.
    """
    ranges = _Ranges(model, folder)
    cuts = []
    for block in blocks:
        if not block.collapsible or block.scope or len(block.units) != 1 or Form.SHORTCUT not in block.forms:
            continue
        unit = block.units[0]
        if unit.merge_op != "Add":
            continue
        found = ranges.of(unit.branch, unit.input)
        if not found.constant:
            continue
        repair = None
        if found.low.any():
            shift = _shift(found, block)
            if shift is None:
                continue
            axis = found.axis % len(block.output_shape or ())
            repair = Repair(axis=axis, shift=shift, scale=np.ones_like(shift))
        cuts.append(Cut(block, Form.SHORTCUT, repair))
    return cuts


def _shift(found: Range, block: Block) -> NDArray[np.float32] | None:
    """The constant per channel in single precision; None where it cannot be told which axis the channels are."""
    shape = block.output_shape
    if not shape or len(shape) <= found.axis % max(len(shape), 1):
        return None
    channels = shape[found.axis % len(shape)]
    if not isinstance(channels, int) or len(found.low) not in (1, channels):
        return None
    return np.broadcast_to(found.low, (channels,)).astype(np.float32)


class _Ranges:
    """Follows ranges through the nodes of the main graph, from the value where a branch starts."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        graph = model.graph
        self._folder, self._sizes = folder, dict[str, int]()
        public = {value.name for value in graph.input}
        self._weights = {t.name: t for t in graph.initializer if t.name not in public}
        for node in graph.node:
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
                self._weights[node.output[0]] = node.attribute[0].t
        self._weights.update(folded_constants(model, self._weights, folder))
        self._producer = {name: node for node in graph.node for name in node.output if name}

    def of(self, value: str, start: str) -> Range:
        """The range of a value when nothing is known of `start`."""
        known: dict[str, Range] = {start: ANY}
        stack = [value]
        while stack:
            name = stack[-1]
            node = self._producer.get(name)
            if name in known or node is None or node.domain not in ("", "ai.onnx"):
                known.setdefault(name, ANY)
                stack.pop()
                continue
            waiting = [i for i in node.input if i and i not in known and i not in self._weights]
            if waiting:
                stack.extend(waiting)
                continue
            known[name] = self._after(node, known)
            stack.pop()
        return known[value]

    def _after(self, node: onnx.NodeProto, known: dict[str, Range]) -> Range:
        values = [known.get(name, ANY) for name in node.input]
        kind = node.op_type
        if kind in _MONOTONE and values:
            if kind == "Relu":
                return _relu(values[0])
            # Both slopes of a hard sigmoid may be set; the bounds 0 and 1 hold for all.
            return (
                values[0].map(_MONOTONE[kind])
                if not node.attribute or kind != "HardSigmoid"
                else _unit(values[0])
            )
        if kind == "Clip":
            return self._clip(node, values[0])
        if kind == "Conv":
            return self._conv(node, values[0])
        if kind in ("Gemm", "MatMul"):
            return self._product(node, values[0])
        if kind == "BatchNormalization":
            return self._norm(node, values[0])
        if kind in ("Add", "Mul"):
            return self._combine(node, values)
        if kind == "Where":
            return self._choice(node, values)
        if kind == "Sub" and node.input[0] == node.input[1]:
            return Range(np.zeros(1), np.zeros(1))
        return ANY

    def _choice(self, node: onnx.NodeProto, values: list[Range]) -> Range:
        """What a `Where` gives whose condition is one and the same everywhere."""
        condition = self._array(node.input[0])
        if condition is None or condition.size == 0 or condition.any() != condition.all():
            return ANY
        slot = 1 if condition.any() else 2
        array = self._array(node.input[slot])
        return values[slot] if array is None else _vector(np.asarray(array, dtype=np.float64)) or ANY

    def _array(self, name: str) -> NDArray[Any] | None:
        """The values of a constant, in its own type; external ones are mapped from their file and not read."""
        tensor = self._weights.get(name)
        if tensor is None:
            return None
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor))
        if self._folder is None:
            return None
        mapped = map_external(tensor, self._folder / "model", sizes=self._sizes)
        return mapped if mapped is not None else numpy_helper.to_array(tensor, str(self._folder))

    def _small(self, name: str) -> Float64 | None:
        """The values of a constant of few entries, such as a bias."""
        array = self._array(name)
        return None if array is None else np.asarray(array, dtype=np.float64)

    def _optional(self, node: onnx.NodeProto, slot: int, default: float) -> Float64 | None:
        if slot >= len(node.input) or not node.input[slot]:
            return np.array([default])
        return self._small(node.input[slot])

    def _clip(self, node: onnx.NodeProto, value: Range) -> Range:
        limits = attributes_of(node)
        low, high = self._optional(node, 1, -np.inf), self._optional(node, 2, np.inf)
        if low is None or high is None:
            return ANY
        bottom = limits.get("min", float(low.reshape(-1)[0]))
        top = limits.get("max", float(high.reshape(-1)[0]))
        if bottom == 0:
            value = _relu(value)
        return value.map(lambda x: np.clip(x, bottom, top))

    def _conv(self, node: onnx.NodeProto, value: Range) -> Range:
        weights, bias = self._array(node.input[1]), self._optional(node, 2, 0.0)
        if weights is None or bias is None or (value.axis != 1 and len(value.low) > 1):
            return ANY
        attributes = attributes_of(node)
        group = int(attributes.get("group", 1))
        low, high = value.low, value.high
        padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") not in (
            b"NOTSET",
            b"VALID",
        )
        if padded:  # the border reads zeros
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        channels = weights.shape[1] * group
        if len(low) not in (1, channels):
            return ANY
        low, high = (np.broadcast_to(x, (channels,)).reshape(group, -1) for x in (low, high))
        rows = weights.reshape(group, weights.shape[0] // group, weights.shape[1], -1)
        return _linear(rows, low[:, None, :, None], high[:, None, :, None], bias, axis=1)

    def _product(self, node: onnx.NodeProto, value: Range) -> Range:
        attributes = attributes_of(node)
        weights = self._array(node.input[1])
        if weights is None or weights.ndim != 2 or attributes.get("transA", 0):
            return ANY
        if any(attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return ANY
        rows = weights if attributes.get("transB", 0) else weights.T
        bias = self._optional(node, 2, 0.0) if node.op_type == "Gemm" else np.array([0.0])
        if bias is None or len(value.low) not in (1, rows.shape[1]):
            return ANY
        if value.axis == 1 and len(value.low) > 1 and node.op_type != "Gemm":
            return ANY
        low, high = (
            np.broadcast_to(x, (rows.shape[1],))[None, None, :, None] for x in (value.low, value.high)
        )
        axis = 1 if node.op_type == "Gemm" else -1
        return _linear(rows[None, :, :, None], low, high, bias, axis=axis)

    def _norm(self, node: onnx.NodeProto, value: Range) -> Range:
        arrays = [self._small(name) for name in node.input[1:5]]
        if any(array is None for array in arrays) or (value.axis != 1 and len(value.low) > 1):
            return ANY
        scale, bias, mean, variance = (np.asarray(array) for array in arrays)
        epsilon = attribute(node, "epsilon", 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        low, high = _times(value, Range(factor, factor))
        return Range(low + bias - factor * mean, high + bias - factor * mean)

    def _combine(self, node: onnx.NodeProto, values: list[Range]) -> Range:
        sides = []
        for name, value in zip(node.input, values, strict=True):
            array = self._small(name)
            sides.append(value if array is None else _vector(array))
        if len(sides) != 2 or any(side is None for side in sides):
            return ANY
        left, right = sides[0] or ANY, sides[1] or ANY
        wide = [side for side in (left, right) if len(side.low) > 1]
        if len({(len(side.low), side.axis) for side in wide}) > 1:
            return ANY
        axis = wide[0].axis if wide else 1
        if node.op_type == "Add":
            return Range(left.low + right.low, left.high + right.high, axis)
        low, high = _times(left, right)
        return Range(low, high, axis)


def _vector(array: Float64) -> Range | None:
    """A constant operand as a range; None unless it is a scalar or varies along the channel axis alone."""
    if array.size == 1:
        return Range(array.reshape(1), array.reshape(1))
    flat = array.reshape(-1)
    if array.ndim == 1:
        return Range(flat, flat, -1)
    if array.ndim >= 3 and array.size == array.shape[-3] and array.shape[-2:] == (1, 1):
        return Range(flat, flat, 1)
    return None


def _linear(rows: NDArray[Any], low: Float64, high: Float64, bias: Float64, *, axis: int) -> Range:
    """Bounds of sum w x + b, [groups, outputs, inputs, positions] summed over the last two axes.

    Weights are looked at in double precision a few inputs at a time. A sum that is unbounded on both sides stays so,
    and its other weights need not be read: of a large matrix those are nearly all.
    """
    groups, outputs, inputs, positions = rows.shape
    shape = (groups, 1, inputs, 1)
    low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    bottom, top = np.zeros((groups, outputs)), np.zeros((groups, outputs))
    start, width = 0, FIRST_INPUTS
    while start < inputs:
        group, output = np.nonzero(np.isfinite(bottom) | np.isfinite(top))
        if not len(group):
            break
        part = slice(start, start + width)
        weights = rows[:, :, part][group, output].astype(np.float64)
        lows, highs = low[group, 0, part], high[group, 0, part]
        positive, negative = np.maximum(weights, 0), np.minimum(weights, 0)
        with np.errstate(invalid="ignore"):
            # A weight of zero takes no part, whatever bound it meets.
            at_low = np.where(positive > 0, positive * lows, 0) + np.where(negative < 0, negative * highs, 0)
            at_high = np.where(positive > 0, positive * highs, 0) + np.where(negative < 0, negative * lows, 0)
        bottom[group, output] += at_low.sum((1, 2))
        top[group, output] += at_high.sum((1, 2))
        start += width
        width = max(FIRST_INPUTS, MOST_WEIGHTS // (len(group) * positions))
    return Range(bottom.reshape(-1) + bias, top.reshape(-1) + bias, axis)


def _times(left: Range, right: Range) -> tuple[Float64, Float64]:
    with np.errstate(invalid="ignore"):
        corners = [
            np.where((a == 0) | (b == 0), 0, a * b)
            for a in (left.low, left.high)
            for b in (right.low, right.high)
        ]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def _relu(value: Range) -> Range:
    """A ReLU counts as never on only where its bound is below zero by more than rounding."""
    size = np.maximum(np.where(np.isfinite(value.low), np.abs(value.low), 0), np.abs(value.high))
    sure = (value.high == 0) & (value.low == 0) | (value.high < -ROUNDING * size)
    high = np.where(sure, 0, np.maximum(value.high, np.finfo(np.float64).tiny))
    return Range(np.maximum(value.low, 0), high, value.axis)


def _unit(value: Range) -> Range:
    return Range(np.zeros_like(value.low), np.ones_like(value.high), value.axis)
