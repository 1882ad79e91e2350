"""Shapes followed through the graph where ONNX's inference leaves them open.

A dimension nobody can number still is *the same* dimension after an elementwise operator or a convolution that keeps
its size. Every open dimension gets a symbol that is built from how it came about, so that two paths with the same
arithmetic end in the same symbol, and different arithmetic in different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from lacoot_deploy.graph.blocks import Dim, Shape
from lacoot_deploy.graph.index import GraphIndex, Node

Lookup = Callable[[str], "Shape | None"]


def propagate(
    graph: GraphIndex,
    shapes: dict[str, Shape],
    dtypes: dict[str, int],
    outer: Lookup | None,
    *,
    fixed: Collection[str],
) -> None:
    """Fill in `shapes` (and `dtypes`, where an operator keeps them) for the values of one graph.

    Args:
        graph: The indexed graph.
        shapes: What is known already, by value name; extended in place. Numbers in it stay.
        dtypes: Element types by value name; extended in place.
        outer: Shapes of the graphs around a body.
        fixed: Values whose entry must stay as it is (measured ones).
    """

    def lookup(name: str) -> Shape | None:
        found = shapes.get(name)
        return outer(name) if found is None and outer is not None and graph.is_outer(name) else found

    for name in graph.inputs:
        if name in shapes and name not in fixed:
            shapes[name] = _named(shapes[name], name)
    for node in graph.nodes:
        rule = RULES.get(node.op) if node.domain in ("", "com.microsoft") else None
        derived = rule(node, lookup) if rule else ()
        for position, name in enumerate(node.outputs):
            if not name or name in fixed:
                continue
            own = derived[position] if position < len(derived) else None
            known = shapes.get(name)
            merged = _merge(known, own)
            if merged is not None:
                shapes[name] = _named(merged, name)
        if node.op in KEEPS_TYPE and node.outputs and node.outputs[0] not in dtypes:
            source = next((dtypes[name] for name in node.inputs if name in dtypes), None)
            if source is not None:
                dtypes[node.outputs[0]] = source


def _named(shape: Shape, value: str) -> Shape:
    """The shape with a symbol of its own for every open dimension."""
    return tuple(dim if dim is not None else f"{value}@{axis}" for axis, dim in enumerate(shape))


def _merge(known: Shape | None, own: Shape | None) -> Shape | None:
    """Numbers from whoever has them, else the symbol that the graph was followed to."""
    if known is None or own is None:
        return known if own is None else own
    if len(known) != len(own):
        return known
    return tuple(
        a if isinstance(a, int) else (b if b is not None else a) for a, b in zip(known, own, strict=True)
    )


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
    if isinstance(y, int):
        return y
    return None


def _elementwise(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    shape: Shape | None = ()
    for name in node.inputs:
        if name:
            shape = broadcast(shape, lookup(name))
    return (shape,)


def _unary(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    return (lookup(node.inputs[0]) if node.inputs else None,)


def _attributes(node: Node) -> dict[str, list[int]]:
    return {attr.name: list(attr.ints) or [attr.i] for attr in node.proto.attribute if attr.type in (2, 7)}


def _auto_pad(node: Node) -> str:
    return (
        next((attr.s.decode() for attr in node.proto.attribute if attr.name == "auto_pad"), "NOTSET")
        or "NOTSET"
    )


def _window(node: Node, lookup: Lookup, kernel: list[int] | None, channels: Dim) -> tuple[Shape | None, ...]:
    shape = lookup(node.inputs[0])
    if shape is None or kernel is None or len(shape) != len(kernel) + 2:
        return ()
    attributes = _attributes(node)
    rank = len(kernel)
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * (2 * rank))
    ceil = attributes.get("ceil_mode", [0])[0]
    auto = _auto_pad(node)
    spatial: list[Dim] = []
    for axis in range(rank):
        size = shape[axis + 2]
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        padding = pads[axis] + pads[axis + rank]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            padding = extent - 1
            if strides[axis] != 1:
                spatial.append(_reduced(size, "same", strides[axis], 0))
                continue
        elif auto == "VALID":
            padding = 0
        if strides[axis] == 1:
            spatial.append(_shifted(size, padding - extent + 1))
        else:
            spatial.append(_reduced(size, "ceil" if ceil else "floor", strides[axis], padding - extent))
    return ((shape[0], channels, *spatial),)


def _shifted(size: Dim, by: int) -> Dim:
    if by == 0:
        return size
    if isinstance(size, int):
        return size + by
    return None if size is None else f"({size}{by:+d})"


def _reduced(size: Dim, how: str, stride: int, offset: int) -> Dim:
    if isinstance(size, int):
        if how == "same":
            return -(-size // stride)
        return ((size + offset) // stride if how == "floor" else -(-(size + offset) // stride)) + 1
    return None if size is None else f"({size}{offset:+d}){how}{stride}"


def _conv(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    weight = lookup(node.inputs[1])
    if weight is None or any(not isinstance(dim, int) for dim in weight[2:]):
        return ()
    return _window(node, lookup, [int(dim) for dim in weight[2:] if isinstance(dim, int)], weight[0])


def _pool(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    shape = lookup(node.inputs[0])
    if shape is None or len(shape) < 3:
        return ()
    return _window(node, lookup, _attributes(node).get("kernel_shape"), shape[1])


def _global_pool(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    shape = lookup(node.inputs[0])
    return () if shape is None else ((*shape[:2], *(1 for _ in shape[2:])),)


def _matmul(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    a, b = lookup(node.inputs[0]), lookup(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return ()
    batch = broadcast(a[:-2], b[:-2])
    return () if batch is None else ((*batch, a[-2], b[-1]),)


def _gemm(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    a, b = lookup(node.inputs[0]), lookup(node.inputs[1])
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return ()
    attributes = _attributes(node)
    rows = a[1] if attributes.get("transA", [0])[0] else a[0]
    return ((rows, b[0] if attributes.get("transB", [0])[0] else b[1]),)


def _transpose(node: Node, lookup: Lookup) -> tuple[Shape | None, ...]:
    shape = lookup(node.inputs[0])
    if shape is None:
        return ()
    order = _attributes(node).get("perm", list(range(len(shape)))[::-1])
    return (tuple(shape[axis] for axis in order),) if len(order) == len(shape) else ()


Rule = Callable[[Node, Lookup], "tuple[Shape | None, ...]"]

_SAME = (
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Clip", "HardSwish", "HardSigmoid", "Mish",
    "Softplus", "Softsign", "ThresholdedRelu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish", "Erf",
    "Identity", "Dropout", "Cast", "CastLike", "Softmax", "LogSoftmax", "Hardmax", "BatchNormalization",
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "SimplifiedLayerNormalization",
    "RMSNormalization", "GroupNorm", "LpNormalization", "MeanVarianceNormalization", "Neg", "Abs", "Sqrt",
    "Reciprocal", "Exp", "Log", "Floor", "Ceil", "Round", "Sin", "Cos", "Sign", "Not", "QuantizeLinear",
    "DequantizeLinear", "LRN", "CumSum", "Trilu", "PRelu", "BiasSplitGelu",
)  # fmt: skip
_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "Mod")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _unary),
    **dict.fromkeys(_BROADCAST, _elementwise),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _conv),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    "Transpose": _transpose,
}
"""How an operator's result shapes follow from its operands'; an operator that is not here is left to ONNX."""

KEEPS_TYPE = frozenset({*_SAME, *_BROADCAST, "Conv", "MatMul", "Gemm", "MaxPool", "AveragePool", "Transpose"}) - {
    "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Where",
}  # fmt: skip
"""Operators whose result has the element type of an operand."""
