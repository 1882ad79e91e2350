"""Normalisations, as files at inference run them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import MICROSOFT, Call, Run, UnknownOperatorError, operator


@operator("BatchNormalization", weights=(1, 2))
def batch_norm(call: Call) -> Run:
    """By the statistics in the file, which stay as they are."""
    if call.integer("training_mode", 0) or (call.version < 7 and not call.integer("is_test", 0)):
        raise UnknownOperatorError("in training mode")
    epsilon = call.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Any:
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)

    return run


@operator("InstanceNormalization", weights=(1, 2))
def instance_norm(call: Call) -> Run:
    """Every channel of every sample by itself."""
    epsilon = call.number("epsilon", 1e-5)
    return lambda x, scale, shift: F.instance_norm(x, None, None, scale, shift, True, 0.0, epsilon)


@operator("LayerNormalization", weights=(1, 2))
def layer_norm(call: Call) -> Run:
    """Over all axes from one on."""
    axis, epsilon = call.integer("axis", -1), call.number("epsilon", 1e-5)
    statistics = call.wants(1) or call.wants(2)

    def run(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Any:
        at = axis % x.ndim
        shape = x.shape[at:]
        plain = all(w is None or w.shape == shape for w in (scale, shift))
        if plain:
            y = F.layer_norm(x, shape, scale, shift, epsilon)
        else:
            y = F.layer_norm(x, shape, None, None, epsilon)
            y = y if scale is None else y * scale
            y = y if shift is None else y + shift
        if not statistics:
            return y
        axes = tuple(range(at, x.ndim))
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return y, mean, torch.rsqrt(variance + epsilon)

    return run


def root_mean_square(x: Tensor, scale: Tensor | None, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """X over its root mean square, times a scale."""
    y = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon)
    return y if scale is None else y * scale


@operator("RMSNormalization", weights=(1,))
@operator("SimplifiedLayerNormalization", weights=(1,))
@operator("SimplifiedLayerNormalization", domain=MICROSOFT, weights=(1,))
def rms_norm(call: Call) -> Run:
    """Layer norm without the mean."""
    axis, epsilon = call.integer("axis", -1), call.number("epsilon", 1e-5)
    return lambda x, scale=None: root_mean_square(x, scale, tuple(range(axis % x.ndim, x.ndim)), epsilon)


@operator("GroupNormalization", weights=(1, 2))
def group_norm(call: Call) -> Run:
    """Groups of channels; before operator set 21 one scale a group, since then one a channel."""
    groups, epsilon = call.integer("num_groups", 1), call.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if call.version < 21 and scale.shape[0] == groups != x.shape[1]:
            each = x.shape[1] // groups
            scale, shift = scale.repeat_interleave(each), shift.repeat_interleave(each)
        return F.group_norm(x, groups, scale, shift, epsilon)

    return run


@operator("LRN")
def local_response(call: Call) -> Run:
    """Over neighbouring channels."""
    size, alpha = call.integer("size", 1), call.number("alpha", 1e-4)
    beta, bias = call.number("beta", 0.75), call.number("bias", 1.0)

    def run(x: Tensor) -> Tensor:
        before = (size - 1) // 2
        squares = (x * x).movedim(1, -1)
        sums = F.pad(squares, (before, size - 1 - before)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
        return x / (bias + alpha / size * sums) ** beta

    return run


@operator("LpNormalization")
def lp_norm(call: Call) -> Run:
    """Over the norm along an axis."""
    axis, p = call.integer("axis", -1), call.integer("p", 2)

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return torch.where(norm > 0, x / norm.clamp_min(torch.finfo(x.dtype).tiny), torch.zeros_like(x))

    return run


@operator("MeanVarianceNormalization")
def mean_variance(call: Call) -> Run:
    """Zero mean and unit variance over axes."""
    axes = call.integers("axes") or (0, 2, 3)

    def run(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (torch.sqrt(variance) + 1e-9)

    return run


@operator("GroupNorm", domain=MICROSOFT, weights=(1, 2))
def group_norm_fused(call: Call) -> Run:
    """ONNX Runtime's, channels last, with or without SiLU behind it."""
    groups, epsilon = call.integer("groups", 1), call.number("epsilon", 1e-5)
    active, last = bool(call.integer("activation", 0)), bool(call.integer("channels_last", 1))

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        y = F.group_norm(x.movedim(-1, 1) if last else x, groups, scale, shift, epsilon)
        y = F.silu(y) if active else y
        return y.movedim(1, -1) if last else y

    return run
