"""Result shapes of what slides a window over its operand: convolutions, pools and resizing."""

from __future__ import annotations

from collections.abc import Callable

from lacoot_deploy.graph.model.blocks import Dim, Shape
from lacoot_deploy.graph.model.index import Node
from lacoot_deploy.graph.shapes import dims
from lacoot_deploy.graph.shapes.values import ShapeValues

Lookup = Callable[[str], "Shape | None"]
Shapes = tuple["Shape | None", ...]


def _window(node: Node, shape: Shape | None, kernel: list[int] | None, channels: Dim) -> Shapes:
    """Convolutions and pools: every spatial size shrinks by the window's extent, then by the stride."""
    if shape is None or kernel is None or len(shape) != len(kernel) + 2:
        return ()
    rank = len(kernel)
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    pads = node.attribute("pads", [0] * (2 * rank))
    auto = node.attribute("auto_pad", b"NOTSET")
    rounding = "ceil" if node.attribute("ceil_mode", 0) else "floor"
    spatial: list[Dim] = []
    for axis in range(rank):
        size = shape[axis + 2]
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        padding = pads[axis] + pads[axis + rank]
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            spatial.append(strided(size, strides[axis], strides[axis] - 1, "floor", 0))
            continue
        if auto == b"VALID":
            padding = 0
        spatial.append(strided(size, strides[axis], padding - extent, rounding, 1))
    return ((shape[0], channels, *spatial),)


def strided(size: Dim, stride: int, offset: int, rounding: str, plus: int) -> Dim:
    """(size + offset) / stride + plus, rounded."""
    if stride == 1:
        return dims.add(size, offset + plus)
    if isinstance(size, int):
        total = size + offset
        return (total // stride if rounding == "floor" else -(-total // stride)) + plus
    if size is None:
        return None
    number, symbols = dims.factors(size)
    if number % stride == 0 and 0 <= offset + plus * stride < stride:
        # 2k points at stride 2 give k, however the window lies, as long as it is padded to fit.
        return dims.monomial(number // stride, symbols)
    return dims.bounded(f"({size}{offset:+d}){rounding}{stride}")


def conv(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    """Shape of a convolution."""
    weight = lookup(node.inputs[1])
    if weight is None or any(not isinstance(dim, int) for dim in weight[2:]):
        return ()
    return _window(
        node, lookup(node.inputs[0]), [dim for dim in weight[2:] if isinstance(dim, int)], weight[0]
    )


def conv_transpose(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    """Shape of a transposed convolution."""
    shape, weight = lookup(node.inputs[0]), lookup(node.inputs[1])
    if shape is None or weight is None or len(shape) != len(weight):
        return ()
    if any(attr.name in ("output_shape", "auto_pad") for attr in node.proto.attribute):
        return ()
    rank = len(shape) - 2
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    pads = node.attribute("pads", [0] * (2 * rank))
    extra = node.attribute("output_padding", [0] * rank)
    spatial: list[Dim] = []
    for axis in range(rank):
        kernel = weight[axis + 2]
        if not isinstance(kernel, int):
            return ()
        extent = dilations[axis] * (kernel - 1) + 1
        grown = extent + extra[axis] - pads[axis] - pads[axis + rank] - strides[axis]
        spatial.append(dims.add(dims.multiply(shape[axis + 2], strides[axis]), grown))
    return ((shape[0], dims.multiply(weight[1], node.attribute("group", 1)), *spatial),)


def pool(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    """Shape of a pool with a window."""
    shape = lookup(node.inputs[0])
    if shape is None or len(shape) < 3:
        return ()
    return _window(node, shape, node.attribute("kernel_shape", None), shape[1])


def global_pool(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    """Shape of a pool over all positions."""
    shape = lookup(node.inputs[0])
    return () if shape is None else ((*shape[:2], *(1 for _ in shape[2:])),)


def resize(node: Node, lookup: Lookup, values: ShapeValues) -> Shapes:
    """Shape of a resized value."""
    shape = lookup(node.inputs[0])
    if shape is None or node.attribute("axes", None) is not None:
        return ()
    if len(node.inputs) > 3 and node.inputs[3]:
        sizes = values.numbers(node.inputs[3])
        return () if sizes is None or len(sizes) != len(shape) else (tuple(sizes),)
    at = 1 if node.op == "Upsample" else 2
    scales = values.numbers(node.inputs[at]) if len(node.inputs) > at and node.inputs[at] else None
    scales = scales or list(node.attribute("scales", []))
    if len(scales) != len(shape):
        return ()
    result: list[Dim] = []
    for dim, scale in zip(shape, scales, strict=True):
        if isinstance(dim, int) and isinstance(scale, (int, float)):
            result.append(int(dim * scale))
        elif isinstance(scale, (int, float)) and float(scale).is_integer():
            result.append(dims.multiply(dim, int(scale)))
        else:
            result.append(None)
    return (tuple(result),)
