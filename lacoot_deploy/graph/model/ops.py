"""What the graph room knows about operators: which operands carry data, which do the work, what fuses a merge."""

from __future__ import annotations

from collections.abc import Container

MICROSOFT = "com.microsoft"

FIRST_ONLY = frozenset(
    {
        "Reshape", "Expand", "Resize", "Upsample", "Slice", "Pad", "Tile", "Squeeze", "Unsqueeze", "Split",
        "SplitToSequence", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
        "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "TopK", "CumSum", "Dropout", "Clip",
        "Trilu", "DFT", "CenterCropPad", "QuantizeLinear", "DequantizeLinear", "GatherElements", "Gather",
        "GatherND", "SequenceAt",
    }
)  # fmt: skip
"""Only the first operand carries data; the others are shapes, axes, sizes, bounds or indices."""

NONE = frozenset(
    {
        "Shape", "Size", "ConstantOfShape", "Range", "EyeLike", "RandomNormalLike", "RandomUniformLike",
        "Constant", "RandomNormal", "RandomUniform",
    }
)  # fmt: skip
"""No operand carries data: the result says nothing but shape."""

CONTROL = {"If": 1, "Loop": 2}
"""How many leading operands only steer a control-flow node."""

ADD = frozenset({"Add", "Sum"})
"""Operators that merge by adding."""

MERGES = ADD | {"Sub", "Mul"}
"""Operators that may merge: a residual can be subtracted, and a gate multiplies."""

LINEAR = frozenset(
    {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ConvInteger", "MatMulInteger", "DeformConv",
        "LSTM", "GRU", "RNN", "Attention", "QLinearConv", "QLinearMatMul", "FusedConv", "FusedGemm",
        "FusedMatMul", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "MultiHeadAttention", "GroupQueryAttention",
        "QAttention", "PackedAttention", "PackedMultiHeadAttention", "DecoderMaskedSelfAttention",
        "DecoderMaskedMultiHeadAttention", "DecoderAttention", "LongformerAttention", "PagedAttention",
        "SparseAttention", "MoE", "QMoE", "NhwcConv", "NhwcFusedConv", "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat", "QGemm", "QLinearConvTranspose", "TransposeMatMul", "FusedMatMulActivation",
        "LinearAttention", "CausalConvWithState", "GemmFloat8", "DynamicQuantizeLSTM", "GatherBlockQuantized",
        "FlexAttention",
    }
)  # fmt: skip
"""Operators that hold weights or multiply activations: a branch without one does no work worth removing."""

SUBSTANTIAL = frozenset(
    {
        "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "LayerNormalization",
        "GroupNormalization", "InstanceNormalization", "BatchNormalization", "SimplifiedLayerNormalization",
        "RMSNormalization", "GroupNorm", "DFT", "STFT", "GridSample", "LRN",
    }
)  # fmt: skip
"""Operators that make a branch worth removing beside an identity skip even without weights (a pooling mixer)."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})
KNOWN_DOMAINS = STANDARD_DOMAINS | {
    MICROSOFT,
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
    "com.microsoft.experimental",
}

UPSAMPLING = frozenset({"Resize", "Upsample", "ConvTranspose", "DepthToSpace", "MaxUnpool", "GridSample"})
QUANTIZED = frozenset(
    {
        "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearSoftmax",
        "QLinearLeakyRelu", "QLinearGlobalAveragePool", "QLinearAveragePool", "QGemm", "QAttention", "QLinearWhere",
    }
)  # fmt: skip
"""Operators that compute on integers: each result has a scale of its own, which its readers bear too."""

SCALING_PAIR = ("QuantizeLinear", "DequantizeLinear")
"""What stands between two operators where a value is rounded to integers and read as a number again."""

ACTIVATIONS = frozenset(
    {
        "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Clip", "HardSwish",
        "HardSigmoid", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Gelu", "FastGelu", "QuickGelu",
        "BiasGelu", "Swish", "Erf",
    }
)  # fmt: skip

NORMS = frozenset(
    {
        "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization",
        "GroupNormalization", "InstanceNormalization", "GroupNorm", "LpNormalization",
        "MeanVarianceNormalization",
    }
)  # fmt: skip

SKIP_NORMS = {
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}
"""Operators that add and normalise in one, with the norm that they hold."""

SUMMING_CONV = {MICROSOFT: ("FusedConv", "NhwcFusedConv"), "com.microsoft.nchwc": ("Conv",)}
"""Convolutions that take a summand as their fourth operand, by domain."""

FUSED = frozenset(
    {*SKIP_NORMS, *(op for kinds in SUMMING_CONV.values() for op in kinds), "QLinearAdd", "Gemm"}
)
"""Operators that may hold a residual sum, see `split_fused`."""

Parts = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


def data_inputs(op: str, domain: str, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """The operands whose data, and not merely their shape, reaches the results."""
    if domain in STANDARD_DOMAINS:
        if op in NONE:
            return ()
        if op in FIRST_ONLY:
            # An embedding look-up takes its data from the table and its choice from the indices: both count where
            # the table is the constant, so that token numbers are ancestors of what is computed from them.
            if op.startswith("Gather"):
                return tuple(name for name in inputs if name)
            return inputs[:1] if inputs and inputs[0] else ()
        if op in CONTROL:
            return tuple(name for name in inputs[CONTROL[op] :] if name)
        if op == "Where":
            return tuple(name for name in inputs[1:] if name)
    return tuple(name for name in inputs if name)


def split_fused(
    op: str,
    domain: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    *,
    hidden: str,
    activation: str = "",
    constants: Container[str] = (),
) -> Parts:
    """The parts of an operator that holds a residual sum, as (operator, operands, results); () for any other.

    `SkipLayerNormalization(a, b, gamma, beta, bias) -> y, mean, inv_std, sum` is the sum of three, then the norm. A
    convolution or `Gemm` with a summand is the product, then `Add`, then the activation.

    Args:
        op: Operator type.
        domain: Operator domain.
        inputs: Operands.
        outputs: Results.
        hidden: Suffix for the values between the parts.
        activation: The activation that the operator's attributes name.
        constants: Constants: a constant summand is a bias.
    """
    if not outputs:
        return ()
    if domain == MICROSOFT and op in SKIP_NORMS and len(inputs) > 2:
        total = outputs[3] if len(outputs) > 3 and outputs[3] else outputs[0] + hidden
        bias_at = 4 if op == "SkipLayerNormalization" else 3
        summands = (*inputs[:2], *inputs[bias_at : bias_at + 1])
        return (
            ("Sum", summands, (total,)),
            (SKIP_NORMS[op], (total, *inputs[2:bias_at]), outputs[:3]),
        )
    if domain == MICROSOFT and op == "QLinearAdd" and len(inputs) > 3:
        return (("Add", (inputs[0], inputs[3]), outputs),)
    at, product = (3, "Conv") if domain in SUMMING_CONV and op in SUMMING_CONV[domain] else (2, "Gemm")
    gemm = op == "Gemm" and domain == ""
    if (product == "Conv" or gemm) and len(inputs) > at and inputs[at] and inputs[at] not in constants:
        made = outputs[0] + hidden + "product"
        total = outputs[0] + hidden if activation else outputs[0]
        parts: Parts = ((product, inputs[:at], (made,)), ("Add", (made, inputs[at]), (total,)))
        return (*parts, (activation, (total,), outputs[:1])) if activation else parts
    return ()
