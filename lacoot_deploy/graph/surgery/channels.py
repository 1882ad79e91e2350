"""Which axis of a value counts channels: 1 where convolutions read it, the last where matrices do."""

from __future__ import annotations

import onnx

from lacoot_deploy.graph.model.walk import attribute

_ELEMENTWISE = {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Elu", "Selu", "Gelu", "Erf", "HardSwish", "HardSigmoid",
    "Softplus", "Mish", "Add", "Sub", "Mul", "Div", "Cast", "Identity", "Dropout", "QuickGelu", "FastGelu",
    "BiasGelu", "QuantizeLinear", "DequantizeLinear", "Pow", "Sqrt", "Max", "Min", "Pad",
}  # fmt: skip
_FIRST = {
    "Conv", "ConvTranspose", "FusedConv", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN", "PRelu", "NhwcFusedConv",
}  # fmt: skip
_LAST = {
    "MatMul", "Gemm", "LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "FusedMatMul",
    "SkipSimplifiedLayerNormalization", "RMSNormalization", "Attention", "MultiHeadAttention", "MatMulNBits",
}  # fmt: skip


def channel_axis(model: onnx.ModelProto, value: str, rank: int | None) -> int | None:
    """The channel axis of a value, from the operators that read it.

    Follows the value through elementwise operators and transpositions to the first operator that mixes
    channels: axis 1 for convolutions, pooling and batch norm, the last axis for matrix products and layer norm.

    Args:
        model: The model.
        value: A value of its main graph.
        rank: Number of the value's axes, where known.

    Returns:
        The axis counted from 0; for an unknown rank, axis 1 or None; None where no reader tells.
    """
    if rank is not None and rank < 2:
        return None
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    identity = tuple(range(rank)) if rank is not None else None
    queue: list[tuple[str, tuple[int, ...] | None]] = [(value, identity)]
    seen = {value}
    for name, axes in queue:
        if len(seen) > 200:
            break
        for node in readers.get(name, ()):
            position = list(node.input).index(name)
            if node.op_type in _FIRST and position == 0:
                return axes[1] if axes is not None else 1
            if node.op_type in _LAST and position <= 1 and axes is not None:
                if node.op_type == "MatMul" and position == 1:
                    continue
                return axes[-1]
            if axes is not None and node.op_type == "Transpose":
                perm = attribute(node, "perm") or list(range(len(axes)))[::-1]
                if len(perm) == len(axes):
                    _follow(node, tuple(axes[p] for p in perm), queue, seen)
            elif axes is not None and node.op_type == "ReduceMean":
                reduced = _reduced_axes(node, model, len(axes))
                kept = set(range(1, len(axes))) - reduced
                if reduced == {len(axes) - 1}:  # the mean of a decomposed layer norm
                    return axes[-1]
                if len(kept) == 1:  # pooling over all positions leaves the channels
                    return axes[kept.pop()]
            elif node.op_type in _ELEMENTWISE:
                _follow(node, axes, queue, seen)
    return 1 if rank == 2 else None


def _follow(
    node: onnx.NodeProto,
    axes: tuple[int, ...] | None,
    queue: list[tuple[str, tuple[int, ...] | None]],
    seen: set[str],
) -> None:
    for name in node.output[:1]:
        if name and name not in seen:
            seen.add(name)
            queue.append((name, axes))


def _reduced_axes(node: onnx.NodeProto, model: onnx.ModelProto, rank: int) -> set[int]:
    """The axes that a reduction runs over; empty where they are not constant."""
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        name = node.input[1]
        tensor = next((t for t in model.graph.initializer if t.name == name), None)
        if tensor is None:
            maker = next((n for n in model.graph.node if n.op_type == "Constant" and name in n.output), None)
            tensor = None if maker is None else attribute(maker, "value")
        if tensor is None:
            return set()
        axes = list(onnx.numpy_helper.to_array(tensor).ravel())
    return set() if axes is None else {int(a) % rank for a in axes}
