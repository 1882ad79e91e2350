"""Resize, Upsample and GridSample."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lacoot_deploy.healing.operators.base import Call, Run, UnknownOperatorError, operator, whole_numbers


@operator("Resize", "Upsample", host=(1, 2, 3))
def resize(call: Call) -> Run:
    """Every axis by itself: nearest, linear or cubic, in any of ONNX's systems of coordinates."""
    mode = call.text("mode", "nearest")
    system = call.text("coordinate_transformation_mode", "half_pixel")
    if call.op == "Upsample" or call.version < 11:
        system = "asymmetric"
    nearest = "floor" if system == "asymmetric" and call.version < 11 else "round_prefer_floor"
    nearest = call.text("nearest_mode", nearest)
    coefficient, outside = call.number("cubic_coeff_a", -0.75), bool(call.integer("exclude_outside", 0))
    axes, policy = call.integers("axes"), call.text("keep_aspect_ratio_policy", "stretch")
    if system == "tf_crop_and_resize" or policy != "stretch" or call.integer("antialias", 0):
        raise UnknownOperatorError(f"with {system}, {policy} or antialias")
    scales_at = 1 if call.op == "Upsample" or call.version < 11 else 2

    def sizes(x: Tensor, rest: tuple[Any, ...]) -> list[tuple[int, int, float]]:
        """For every axis that changes its number, new size and scale."""
        operands = (x, *rest)
        wanted = whole_numbers(operands, 3) if scales_at == 2 else None
        chosen = axes if axes is not None else tuple(range(x.ndim))
        if wanted:
            return [(a, n, n / x.shape[a]) for a, n in zip(chosen, wanted, strict=True) if n != x.shape[a]]
        given = operands[scales_at] if len(operands) > scales_at else None
        scales = call.attributes.get("scales") if given is None else given.tolist()
        found = [(a, math.floor(x.shape[a] * s), float(s)) for a, s in zip(chosen, scales or (), strict=True)]
        return [entry for entry in found if entry[2] != 1.0]

    def run(x: Tensor, *rest: Any) -> Tensor:
        for axis, new, scale in sizes(x, rest):
            places = _coordinates(x.shape[axis], new, scale, system, x)
            if mode == "nearest":
                x = x.index_select(axis, _nearest(places, nearest, x.shape[axis]))
            elif mode == "linear":
                x = _linear(x, axis, places)
            else:
                x = _cubic(x, axis, places, coefficient, outside)
        return x

    return run


def _coordinates(old: int, new: int, scale: float, system: str, like: Tensor) -> Tensor:
    """Where each entry of the result lies in the input, float64."""
    at = torch.arange(new, device=like.device, dtype=torch.float64)
    if system == "align_corners":
        return at * ((old - 1) / (new - 1)) if new > 1 else torch.zeros_like(at)
    if system == "asymmetric":
        return at / scale
    if system == "pytorch_half_pixel" and new == 1:
        return torch.zeros_like(at)
    if system == "half_pixel_symmetric":
        offset = old / 2 * (1 - new / (scale * old))
        return offset + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _nearest(places: Tensor, mode: str, size: int) -> Tensor:
    if mode == "floor":
        found = places.floor()
    elif mode == "ceil":
        found = places.ceil()
    elif mode == "round_prefer_ceil":
        found = (places + 0.5).floor()
    else:
        found = (places - 0.5).ceil()
    return found.to(torch.int64).clamp(0, size - 1)


def _weighted(x: Tensor, axis: int, places: Tensor, weight: Tensor) -> Tensor:
    shape = [1] * x.ndim
    shape[axis] = -1
    picked = x.index_select(axis, places.to(torch.int64).clamp(0, x.shape[axis] - 1))
    return picked * weight.to(x.dtype).reshape(shape)


def _linear(x: Tensor, axis: int, places: Tensor) -> Tensor:
    places = places.clamp(0, x.shape[axis] - 1)
    low = places.floor()
    share = places - low
    return _weighted(x, axis, low, 1 - share) + _weighted(x, axis, low + 1, share)


def _cubic(x: Tensor, axis: int, places: Tensor, a: float, exclude: bool) -> Tensor:
    low = places.floor()
    t = places - low
    weights = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) ** 2 + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    ]
    if exclude:
        inside = [((low + i - 1) >= 0) & ((low + i - 1) < x.shape[axis]) for i in range(4)]
        weights = [weight * keep for weight, keep in zip(weights, inside, strict=True)]
        total = sum(weights[1:], weights[0])
        weights = [weight / total for weight in weights]
    parts = [_weighted(x, axis, low + i - 1, weight) for i, weight in enumerate(weights)]
    return sum(parts[1:], parts[0])


@operator("GridSample")
def grid_sample(call: Call) -> Run:
    """Samples at the places of a grid."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        call.text("mode", "bilinear"), call.text("mode", "bilinear")
    )
    padding, corners = call.text("padding_mode", "zeros"), bool(call.integer("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, corners)
