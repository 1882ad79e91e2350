"""Attention as one operator: ONNX's own, and the forms that ONNX Runtime's optimiser makes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import MICROSOFT, Call, Run, UnknownOperatorError, operator


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, H * D] as [B, H, T, D]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """[B, H, T, D] as [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


def _key_mask(mask: Tensor | None, length: int, low: float) -> Tensor | None:
    """What is added to scores [B, H, T, S] for a mask over keys, in the forms that ONNX Runtime takes."""
    if mask is None:
        return None
    if mask.ndim == 1:
        keep = torch.arange(length, device=mask.device)[None] < mask[:, None]
        keep = keep[:, None, None]
    elif mask.ndim == 2:
        keep = mask[:, None, None].bool()
    elif mask.ndim == 3:
        keep = mask[:, None].bool()
    else:
        keep = mask.bool()
    return torch.where(keep, 0.0, low)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *biases: Tensor | None, causal: bool = False
) -> Tensor:
    scores = q @ k.transpose(-1, -2) * scale
    for bias in biases:
        scores = scores if bias is None else scores + bias
    if causal:
        late = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        late = late.triu(scores.shape[-1] - scores.shape[-2] + 1)
        scores = scores.masked_fill(late, -math.inf)
    return scores.softmax(-1) @ v


@operator("Attention", domain=MICROSOFT, weights=(1, 2))
def attention(call: Call) -> Run:
    """Self-attention with its projection: x [B, T, C], weights [C, 3 D]."""
    heads, causal = call.integer("num_heads", 1), bool(call.integer("unidirectional", 0))
    low, given, sizes = (
        call.number("mask_filter_value", -10000.0),
        call.number("scale", 0.0),
        call.integers("qkv_hidden_sizes"),
    )
    if call.integer("do_rotary", 0) or call.wants(1):
        raise UnknownOperatorError("with rotary positions or a cache")

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, mask: Tensor | None = None, *rest: Any) -> Tensor:
        past, bias = (*rest, None, None)[:2]
        if past is not None:
            raise UnknownOperatorError("with a cache")
        y = F.linear(x, w.T, b)
        widths = list(sizes) if sizes else [y.shape[-1] // 3] * 3
        q, k, v = (_heads(part, heads) for part in torch.split(y, widths, -1))
        scale = given if given > 0 else 1.0 / math.sqrt(q.shape[-1])
        return _joined(_attend(q, k, v, scale, _key_mask(mask, k.shape[2], low), bias, causal=causal))

    return run


@operator("MultiHeadAttention", domain=MICROSOFT, weights=(3,))
def multi_head(call: Call) -> Run:
    """Attention of projected queries, keys and values, apart or packed."""
    heads, causal = call.integer("num_heads", 1), bool(call.integer("unidirectional", 0))
    low, given = call.number("mask_filter_value", -10000.0), call.number("scale", 0.0)
    if call.wants(1) or call.wants(2):
        raise UnknownOperatorError("with a cache")

    def run(q: Tensor, k: Tensor | None = None, v: Tensor | None = None, *rest: Tensor | None) -> Tensor:
        bias, mask, position = (*rest, None, None, None)[:3]
        query, key, value = _projected(heads, q, k, v, bias)
        scale = given if given > 0 else 1.0 / math.sqrt(query.shape[-1])
        masked = _key_mask(mask, key.shape[2], low)
        return _joined(_attend(query, key, value, scale, masked, position, causal=causal))

    return run


def _projected(
    heads: int, q: Tensor, k: Tensor | None, v: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as [B, H, T, D], whatever they are packed in."""
    if q.ndim == 5:
        one, two, three = (part.transpose(1, 2) for part in q.unbind(3))
        return one, two, three
    assert k is not None
    if k.ndim == 5:
        k, v = (part.flatten(2) for part in k.unbind(3))
    assert v is not None
    parts = [q, k, v]
    if bias is not None:
        width = q.shape[-1]
        shifts = torch.split(bias, [width, width, bias.shape[0] - 2 * width])
        parts = [x if x.ndim == 4 else x + shift for x, shift in zip(parts, shifts, strict=True)]
    one, two, three = (x if x.ndim == 4 else _heads(x, heads) for x in parts)
    return one, two, three


@operator("Attention")
def standard_attention(call: Call) -> Run:
    """ONNX's own, operands of three or four axes, without a cache."""
    query_heads, key_heads = call.integer("q_num_heads", 0), call.integer("kv_num_heads", 0)
    causal, given, cap = (
        bool(call.integer("is_causal", 0)),
        call.number("scale", 0.0),
        call.number("softcap", 0.0),
    )
    if any(call.wants(place) for place in (1, 2, 3)):
        raise UnknownOperatorError("with a cache")

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *rest: Any) -> Tensor:
        flat = q.ndim == 3
        if flat:
            q, k, v = _heads(q, query_heads), _heads(k, key_heads), _heads(v, key_heads)
        if q.shape[1] != k.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) * (given or 1.0 / math.sqrt(q.shape[-1]))
        if causal:
            late = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(late, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        scores = cap * torch.tanh(scores / cap) if cap else scores
        y = scores.softmax(-1) @ v
        return _joined(y) if flat else y

    return run


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """X [..., D] with pairs of entries turned; cos and sin [..., D / 2]."""
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


@operator("RotaryEmbedding", domain=MICROSOFT)
@operator("RotaryEmbedding")
def rotary(call: Call) -> Run:
    """Rotary positions on [B, H, T, D] or [B, T, H * D]."""
    heads, partial = call.integer("num_heads", 0), call.integer("rotary_embedding_dim", 0)
    interleaved = bool(call.integer("interleaved", 0))

    def run(x: Tensor, *rest: Any) -> Tensor:
        if call.domain == MICROSOFT:
            places, cos, sin = rest[:3]
        else:
            cos, sin, places = (*rest, None)[:3]
        flat = x.ndim == 3
        count = heads or (x.shape[-1] // (partial or 2 * cos.shape[-1]))
        y = _heads(x, count) if flat else x
        if places is None:
            turns = (cos, sin)
        else:
            if places.numel() == 1:
                places = places.reshape(-1)[0] + torch.arange(y.shape[2], device=x.device)[None]
            turns = (cos[places.long()], sin[places.long()])
        width = partial or y.shape[-1]
        cosine, sine = (turn[:, None, :, : width // 2] for turn in turns)
        y = torch.cat([_rotated(y[..., :width], cosine, sine, interleaved), y[..., width:]], -1)
        return _joined(y) if flat else y

    return run
