"""Operators that ONNX Runtime's optimiser fuses, in its domain com.microsoft."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import MICROSOFT, TABLE, Call, Run, UnknownOperatorError, operator
from lacoot_deploy.healing.operators.convolution import conv
from lacoot_deploy.healing.operators.linear import gemm
from lacoot_deploy.healing.operators.normalisation import root_mean_square


@operator("SkipLayerNormalization", domain=MICROSOFT, weights=(2, 3, 4))
def skip_layer_norm(call: Call) -> Run:
    """The norm of a sum; the sum is the fourth result."""
    epsilon = call.number("epsilon", 1e-12)
    if call.wants(1) or call.wants(2):
        raise UnknownOperatorError("that gives its statistics")

    def run(
        x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
    ) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y = F.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
        return (y, None, None, total) if call.wants(3) else y

    return run


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT, weights=(2, 3))
def skip_rms_norm(call: Call) -> Run:
    """The same without the mean."""
    epsilon = call.number("epsilon", 1e-12)

    def run(x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y = root_mean_square(total, scale, (-1,), epsilon)
        return (y, None, None, total) if call.wants(3) else y

    return run


@operator("EmbedLayerNormalization", domain=MICROSOFT, weights=(2, 3, 4, 5, 6))
def embed_layer_norm(call: Call) -> Run:
    """Token, position and segment embeddings, summed and normalised; the mask's sums are the second result."""
    epsilon = call.number("epsilon", 1e-12)

    def run(ids: Tensor, segments: Tensor | None, *rest: Any) -> Any:
        filled: list[Any] = [*rest, *[None] * (7 - len(rest))]
        words, positions, kinds, scale, shift, mask, places = filled
        at = torch.arange(ids.shape[1], device=ids.device) if places is None else places.long()
        total = F.embedding(ids.long(), words) + F.embedding(at, positions)
        if segments is not None and kinds is not None:
            total = total + F.embedding(segments.long(), kinds)
        y = F.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
        if mask is None:
            return y, torch.zeros(len(ids), dtype=torch.int32, device=ids.device), total
        return y, mask.sum(1).to(torch.int32), total

    return run


@operator("BiasGelu", domain=MICROSOFT, weights=(1,))
def bias_gelu(call: Call) -> Run:
    """Gelu of a biased value."""
    return lambda x, bias: F.gelu(x + bias)


@operator("FastGelu", domain=MICROSOFT, weights=(1,))
def fast_gelu(call: Call) -> Run:
    """Gelu by tanh, of a value with or without bias."""
    return lambda x, bias=None: F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("Gelu", domain=MICROSOFT)
def gelu(call: Call) -> Run:
    """Gelu, exact."""
    return F.gelu


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call) -> Run:
    """X sigmoid(alpha x)."""
    alpha = call.number("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


def _activation(call: Call) -> Run:
    """The activation that a fused operator names."""
    name = call.text("activation", "")
    if not name:
        return lambda x: x
    if name == "LeakyRelu":
        alpha = call.number("alpha", call.number("leaky_relu_alpha", 0.01))
        parameters = call.attributes.get("activation_params")
        alpha = float(parameters[0]) if parameters else alpha
        return lambda x: F.leaky_relu(x, alpha)
    if name == "Clip" and call.attributes.get("activation_params"):
        low, high = call.attributes["activation_params"][:2]
        return lambda x: torch.clamp(x, float(low), float(high))
    if name == "HardSigmoid" and call.attributes.get("activation_params"):
        alpha, beta = (float(value) for value in call.attributes["activation_params"][:2])
        return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)
    if name not in ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"):
        raise UnknownOperatorError(f"with the activation {name}")
    return TABLE["", name].build(Call(name, "", 17))


@operator("FusedConv", domain=MICROSOFT, weights=(1, 2))
def fused_conv(call: Call) -> Run:
    """A convolution, a summand, an activation."""
    inner, active = conv(call), _activation(call)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, summand: Tensor | None = None) -> Any:
        y = inner(x, w, b)
        return active(y if summand is None else y + summand)

    return run


@operator("FusedGemm", domain=MICROSOFT, weights=(0, 1, 2))
def fused_gemm(call: Call) -> Run:
    """Gemm and an activation."""
    inner, active = gemm(call), _activation(call)
    return lambda *xs: active(inner(*xs))


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT, weights=(0, 1))
def fused_matmul(call: Call) -> Run:
    """A scaled product of matrices, each of them transposed or not."""
    alpha = call.number("alpha", 1.0)
    flips = [bool(call.integer(name, 0)) for name in ("transA", "transB")]
    batches = [bool(call.integer(name, 0)) for name in ("transBatchA", "transBatchB")]

    def run(a: Tensor, b: Tensor) -> Tensor:
        a, b = (x.movedim(0, -2) if move else x for x, move in zip((a, b), batches, strict=True))
        a, b = (x.transpose(-1, -2) if flip else x for x, flip in zip((a, b), flips, strict=True))
        return torch.matmul(a, b) if alpha == 1.0 else alpha * torch.matmul(a, b)

    return run


@operator("BiasAdd", domain=MICROSOFT, weights=(1,))
def bias_add(call: Call) -> Run:
    """X + bias + skip."""
    return lambda x, bias, skip: x + bias + skip


@operator("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(call: Call) -> Run:
    """Softmax of scores and a mask."""
    axis = call.integer("axis", 1)
    return lambda x, bias: (x + bias).flatten(axis).softmax(-1).reshape(x.shape)


@operator("NhwcConv", domain=MICROSOFT)
def nhwc_conv(call: Call) -> Run:
    """Refused: a file for one device's layout is trained before it is made for it."""
    raise UnknownOperatorError("in a device's own layout; heal the file from before it was optimised")
