"""How an operator's result shapes follow from its operands', symbols included; one small function per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lacoot_deploy.graph.model.blocks import Dim, Shape
from lacoot_deploy.graph.model.index import Node
from lacoot_deploy.graph.shapes import dims
from lacoot_deploy.graph.shapes.values import ShapeValues, slices
from lacoot_deploy.graph.shapes.windows import (
    Lookup,
    Shapes,
    conv,
    conv_transpose,
    global_pool,
    pool,
    resize,
    strided,
)

Rule = Callable[[Node, Lookup, ShapeValues], Shapes]


def broadcast(a: Shape | None, b: Shape | None) -> Shape | None:
    """Shape of an elementwise result."""
    if a is None or b is None:
        return None
    size = max(len(a), len(b))
    left: Shape = (1,) * (size - len(a)) + a
    right: Shape = (1,) * (size - len(b)) + b
    return tuple(_broadcast_dim(x, y) for x, y in zip(left, right, strict=True))


def _broadcast_dim(x: Dim, y: Dim) -> Dim:
    if x == y or y == 1:
        return x
    if x == 1:
        return y
    if isinstance(x, int):
        return x
    return y if isinstance(y, int) else None


def _elementwise(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape: Shape | None = ()
    for name in node.inputs:
        if name:
            shape = broadcast(shape, lookup(name))
    return (shape,)


def _unary(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    return (lookup(node.inputs[0]) if node.inputs else None,)


def _matmul(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    a, b = lookup(node.inputs[0]), lookup(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return ()
    batch = broadcast(a[:-2], b[:-2])
    return () if batch is None else ((*batch, a[-2], b[-1]),)


def _fused_matmul(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    a, b = lookup(node.inputs[0]), lookup(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return ()
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        return ()
    batch = broadcast(a[:-2], b[:-2])
    rows = a[-1] if node.attribute("transA", 0) else a[-2]
    return () if batch is None else ((*batch, rows, b[-2] if node.attribute("transB", 0) else b[-1]),)


def _blockwise(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, width = lookup(node.inputs[0]), node.attribute("N", None)
    return () if shape is None or width is None else ((*shape[:-1], width),)


def _embedding(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    tokens, table = lookup(node.inputs[0]), lookup(node.inputs[2])
    return () if tokens is None or table is None else ((*tokens, table[-1]),)


def _gemm(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    a, b = lookup(node.inputs[0]), lookup(node.inputs[1])
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return ()
    return ((a[1] if node.attribute("transA", 0) else a[0], b[0] if node.attribute("transB", 0) else b[1]),)


def _transpose(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape = lookup(node.inputs[0])
    if shape is None:
        return ()
    order = node.attribute("perm", list(range(len(shape)))[::-1])
    return (tuple(shape[axis] for axis in order),) if len(order) == len(shape) else ()


def _reshape(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape = lookup(node.inputs[0])
    target = values.numbers(node.inputs[1])
    if target is None:
        return ()
    if not node.attribute("allowzero", 0):
        target = [
            (shape[place] if shape is not None and place < len(shape) else None) if dim == 0 else dim
            for place, dim in enumerate(target)
        ]
    if target.count(-1) == 1:
        rest = dims.product(dim for dim in target if dim != -1)
        whole = dims.product(shape) if shape is not None else None
        target[target.index(-1)] = dims.divide(whole, rest)
    elif target.count(None) == 1 and shape is not None:
        # One unknown entry is what the others leave over.
        place = target.index(None)
        rest = dims.product(dim for dim in target if dim is not None)
        target[place] = dims.divide(dims.product(shape), rest)
    if any(isinstance(dim, (float, bool)) for dim in target):
        return ()
    return (tuple(target),)


def _flatten(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape = lookup(node.inputs[0])
    if shape is None:
        return ()
    axis = node.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return ((dims.product(shape[:axis]), dims.product(shape[axis:])),)


def _axes(node: Node, values: ShapeValues) -> list[int] | None:
    """The axes of `Squeeze`, `Unsqueeze` and reductions, from the operand or the attribute; [] where left out."""
    if len(node.inputs) > 1 and node.inputs[1]:
        found = values.numbers(node.inputs[1])
        return None if found is None or not all(isinstance(axis, int) for axis in found) else found
    return list(node.attribute("axes", []))


def _squeeze(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, axes = lookup(node.inputs[0]), _axes(node, values)
    if shape is None or axes is None:
        return ()
    if not axes:
        return () if any(not isinstance(dim, int) for dim in shape) else (tuple(d for d in shape if d != 1),)
    gone = {axis % len(shape) for axis in axes}
    return (tuple(dim for axis, dim in enumerate(shape) if axis not in gone),)


def _unsqueeze(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, axes = lookup(node.inputs[0]), _axes(node, values)
    if shape is None or not axes:
        return ()
    rank = len(shape) + len(axes)
    result = list(shape)
    for axis in sorted(axis % rank for axis in axes):
        result.insert(axis, 1)
    return (tuple(result),)


def _reduce(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, axes = lookup(node.inputs[0]), _axes(node, values)
    if shape is None or axes is None:
        return ()
    if not axes and node.attribute("noop_with_empty_axes", 0):
        return (shape,)
    gone = {axis % len(shape) for axis in axes} or set(range(len(shape)))
    if node.attribute("keepdims", 1):
        return (tuple(1 if axis in gone else dim for axis, dim in enumerate(shape)),)
    return (tuple(dim for axis, dim in enumerate(shape) if axis not in gone),)


def _slice(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape = lookup(node.inputs[0])
    spans = None if shape is None else slices(values, node, len(shape))
    if shape is None or spans is None:
        return ()
    result = list(shape)
    for axis, (start, end, step) in spans.items():
        result[axis] = _span(shape[axis], start, end, step)
    return (tuple(result),)


def _span(size: Dim, start: Any, end: Any, step: Any) -> Dim:
    """Length of a slice; None where it cannot be told."""
    if not isinstance(step, int) or step == 0:
        return None
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(
            range(size)[start if abs(start) < 2**60 else None : end if abs(end) < 2**60 else None : step]
        )
    if step < 0:
        return size if abs(step) == 1 and start == -1 and isinstance(end, int) and end < -(2**31) else None
    if not isinstance(start, (int, str)) or not isinstance(end, (int, str)):
        return None
    whole = isinstance(end, int) and end >= 2**31 - 1
    high: Dim = (
        size if whole or end == size else dims.add(size, end) if isinstance(end, int) and end < 0 else end
    )
    if isinstance(high, int) and isinstance(size, str):
        return None
    if isinstance(high, str) and high != size and isinstance(end, str):
        # A symbolic end may lie beyond the size; it does not in arithmetic that sizes are cut back with.
        return dims.subtract(high, start) if start == 0 and step == 1 else None
    low: Dim = dims.add(size, start) if isinstance(start, int) and start < 0 else start
    length = dims.subtract(high, low)
    return length if step == 1 else strided(length, step, -1, "floor", 1)


def _split(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape = lookup(node.inputs[0])
    if shape is None:
        return ()
    axis = node.attribute("axis", 0) % len(shape)
    sizes = values.numbers(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    if sizes is None:
        sizes = list(node.attribute("split", []))
    if len(sizes) != len(node.outputs):
        if len(node.inputs) > 1 and node.inputs[1]:
            return ()
        count, size = len(node.outputs), shape[axis]
        if isinstance(size, int):
            each = -(-size // count)
            sizes = [each] * (count - 1) + [size - each * (count - 1)]
        else:
            sizes = [dims.divide(size, count)] * count
    return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)


def _concat(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    parts = [lookup(name) for name in node.inputs]
    known = [part for part in parts if part is not None]
    if not known or len({len(part) for part in known}) != 1:
        return ()
    rank = len(known[0])
    axis = node.attribute("axis", 0) % rank
    result: list[Dim] = []
    for place in range(rank):
        column = [part[place] for part in known]
        if place != axis:
            result.append(next((dim for dim in column if isinstance(dim, int)), column[0]))
        elif len(known) < len(parts):
            result.append(None)
        else:
            total: Dim = 0
            for dim in column:
                total = dims.add(total, dim)
            result.append(total)
    return (tuple(result),)


def _gather(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    data, where = lookup(node.inputs[0]), lookup(node.inputs[1])
    if data is None or where is None:
        return ()
    axis = node.attribute("axis", 0) % len(data)
    return ((*data[:axis], *where, *data[axis + 1 :]),)


def _gather_elements(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    return (lookup(node.inputs[1]),)


def _expand(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, target = lookup(node.inputs[0]), values.numbers(node.inputs[1])
    return () if shape is None or target is None else (broadcast(shape, tuple(target)),)


def _fill(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    target = values.numbers(node.inputs[0])
    return () if target is None else (tuple(target),)


def _tile(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, counts = lookup(node.inputs[0]), values.numbers(node.inputs[1])
    if shape is None or counts is None or len(shape) != len(counts):
        return ()
    return (tuple(dims.multiply(dim, count) for dim, count in zip(shape, counts, strict=True)),)


def _pad(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape = lookup(node.inputs[0])
    if shape is None:
        return ()
    rank = len(shape)
    pads = values.numbers(node.inputs[1]) if len(node.inputs) > 1 else list(node.attribute("pads", []))
    axes = values.numbers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else list(range(rank))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return ()
    result = list(shape)
    for place, axis in enumerate(axes):
        result[axis % rank] = dims.add(dims.add(shape[axis % rank], pads[place]), pads[place + len(axes)])
    return (tuple(result),)


def _depth_to_space(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    shape, size = lookup(node.inputs[0]), node.attribute("blocksize", 1)
    if shape is None or len(shape) != 4:
        return ()
    change = dims.multiply if node.op == "DepthToSpace" else dims.divide
    other = dims.divide if node.op == "DepthToSpace" else dims.multiply
    return ((shape[0], other(shape[1], size * size), change(shape[2], size), change(shape[3], size)),)


def _attention(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    """Self-attention keeps its input's shape but for the width, which the value projection decides."""
    shape = lookup(node.inputs[0])
    if node.domain == "" or shape is None or len(shape) != 3:
        return ()
    if node.op in ("MultiHeadAttention", "GroupQueryAttention"):
        return (shape,)
    bias = lookup(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    width = bias[0] if bias and isinstance(bias[0], int) else None
    if width is None or any(attr.name == "qkv_hidden_sizes" for attr in node.proto.attribute):
        return ()
    return ((*shape[:2], width // 3),)


_SAME = (
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Clip", "HardSwish", "HardSigmoid", "Mish",
    "Softplus", "Softsign", "ThresholdedRelu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish", "Erf",
    "Identity", "Dropout", "Cast", "CastLike", "Softmax", "LogSoftmax", "Hardmax", "BatchNormalization",
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "SimplifiedLayerNormalization",
    "RMSNormalization", "GroupNorm", "LpNormalization", "MeanVarianceNormalization", "Neg", "Abs", "Sqrt",
    "Reciprocal", "Exp", "Log", "Floor", "Ceil", "Round", "Sin", "Cos", "Sign", "Not", "QuantizeLinear",
    "DequantizeLinear", "LRN", "CumSum", "Trilu", "PRelu", "ScatterND", "ScatterElements", "RotaryEmbedding",
)  # fmt: skip
_BROADCAST = (
    "Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "Mod", "Equal", "Less", "Greater",
    "LessOrEqual", "GreaterOrEqual", "And", "Or",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSumExp",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _unary),
    **dict.fromkeys(_BROADCAST, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), conv),
    "ConvTranspose": conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pool),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), _fused_matmul),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _blockwise),
    "EmbedLayerNormalization": _embedding,
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Expand": _expand,
    "ConstantOfShape": _fill,
    "Tile": _tile,
    "Pad": _pad,
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
}
"""An operator that is not here is left to ONNX's own inference."""

_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Conv", "MatMul", "Gemm", "MaxPool", "Transpose"}
KEEPS_TYPE = frozenset(
    {
        *_SAME, "Add", "Sub", "Mul", "Div", "Sum", "Conv", "ConvTranspose", "MatMul", "Gemm", "MaxPool", "AveragePool",
        "GlobalAveragePool", "GlobalMaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Pad",
        "Split", "Concat", "Expand", "Resize", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv", "Attention",
        "MultiHeadAttention", "MatMulNBits", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
    }
) - {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"}  # fmt: skip
"""Operators whose results have the element type of their first operand."""
