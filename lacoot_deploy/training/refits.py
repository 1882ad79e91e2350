"""Blocks that stay with refitted weights: the last linear layer of a branch takes in its norm and a map over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.surgery.cuts import Refit

SKIP_PATHS = ("shortcut", "downsample")


@dataclass(frozen=True)
class Ending:
    """Where a block's branch ends.

    Attributes:
        linear: Path of the last convolution or linear layer.
        norm: Path of the batch normalisation behind it; None where there is none.
    """

    linear: str
    norm: str | None


def find_ending(model: nn.Module, name: str) -> Ending:
    """The last linear layer of a block outside its skip path, by the order in which modules were registered.

    Whether that is the order of the computation is not known here: a network so refitted is compared with the ONNX
    file before it is used.

    Raises:
        UsageError: There is no such block, or it holds no such layer.
    """
    try:
        block = model.get_submodule(name)
    except AttributeError:
        raise UsageError(f"refits: the model has no block {name!r}.") from None
    inner = [(p, m) for p, m in block.named_modules() if p and p.partition(".")[0] not in SKIP_PATHS]
    places = [i for i, (_, m) in enumerate(inner) if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    if not places:
        raise UsageError(
            f"Block {name} holds no convolution or linear layer that a map could be folded into."
        )
    last = places[-1]
    after = inner[last + 1 : last + 2]
    norm = after[0][0] if after and isinstance(after[0][1], nn.modules.batchnorm._BatchNorm) else None
    return Ending(f"{name}.{inner[last][0]}", None if norm is None else f"{name}.{norm}")


def take_norm_in(model: nn.Module, name: str) -> None:
    """Give the last linear layer of a block a bias and take the norm behind it away, as the export folds them.

    Raises:
        UsageError: As for `find_ending`.
    """
    ending = find_ending(model, name)
    layer = model.get_submodule(ending.linear)
    if layer.bias is None:
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        layer.bias = nn.Parameter(torch.zeros(outputs))
    if ending.norm is not None:
        parent, _, child = ending.norm.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())


def refitted_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], refit: Refit
) -> dict[str, torch.Tensor]:
    """Weight and bias of a block's last linear layer with norm and map folded in, by name.

    Args:
        model: The network before `take_norm_in`.
        weights: Its state.
        refit: The block and its map.
    """
    ending = find_ending(model, refit.block.name)
    weight = weights[f"{ending.linear}.weight"].double()
    outputs = weight.shape[0]
    bias = weights.get(f"{ending.linear}.bias", torch.zeros(outputs)).double()
    rows = weight.reshape(outputs, -1)
    if ending.norm is not None:
        norm = model.get_submodule(ending.norm)
        mean, variance = (weights[f"{ending.norm}.running_{k}"].double() for k in ("mean", "var"))
        gain = (variance + norm.eps).rsqrt()  # type: ignore[operator]
        bias = (bias - mean) * gain
        if f"{ending.norm}.weight" in weights:
            gain = gain * weights[f"{ending.norm}.weight"].double()
            bias = bias * weights[f"{ending.norm}.weight"].double() + weights[f"{ending.norm}.bias"].double()
        rows = gain[:, None] * rows
    repair = refit.repair
    shift = torch.from_numpy(repair.shift.astype(np.float64))
    if repair.matrix is not None:
        matrix = torch.from_numpy(repair.matrix.astype(np.float64))
        rows, bias = matrix @ rows, matrix @ bias
    elif repair.scale is not None:
        scale = torch.from_numpy(repair.scale.astype(np.float64))
        rows, bias = scale[:, None] * rows, scale * bias
    return {
        f"{ending.linear}.weight": rows.reshape(weight.shape).float(),
        f"{ending.linear}.bias": (bias + shift).float(),
    }
