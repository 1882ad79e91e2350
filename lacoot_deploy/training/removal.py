"""What stands in a PyTorch network where a block was: its shortcut, its repair as a layer, and its clipping."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.cuts import CutSetting
from lacoot_deploy.training.remains import never_negative, trailing_of

# As in the ONNX file, 1/sqrt(variance + epsilon) is exactly 1: the map is exported as one BatchNormalization node.
EPSILON = 2.0**-10


class ChannelMap(nn.Module):
    """A repair as a layer: scale * x + shift, or matrix @ x + shift, over the channels; starts as the identity."""

    def __init__(self, cut: CutSetting) -> None:
        super().__init__()
        self.axis, self.rank, self.linear = cut.axis, cut.rank, cut.repair == "linear"
        self.convolves = self.linear and cut.axis == 1 and cut.rank in (3, 4, 5)
        n = cut.channels
        weight = torch.eye(n) if self.linear else torch.ones(n)
        self.weight = nn.Parameter(weight.reshape(n, n, *[1] * (cut.rank - 2)) if self.convolves else weight)
        self.bias = nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n), persistent=False)
        self.register_buffer("variance", torch.full((n,), 1 - EPSILON), persistent=False)
        self.mean: torch.Tensor
        self.variance: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any tensor of the cut's rank, to one of the same shape."""
        if self.convolves:
            convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[self.rank - 3]
            return convolve(x, self.weight, self.bias)
        if self.linear:
            return functional.linear(x.movedim(self.axis, -1), self.weight, self.bias).movedim(-1, self.axis)
        if self.axis == 1 and self.rank >= 3:
            return functional.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=EPSILON)
        shape = (-1, *[1] * (self.rank - 1 - self.axis))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


class Remainder(nn.Module):
    """In place of a block that a plan removed: clip(repair(shortcut(x)))."""

    def __init__(self, cut: CutSetting, shortcut: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.repair: nn.Module = nn.Identity() if cut.repair == "none" else ChannelMap(cut)
        self.low, self.high = cut.low, cut.high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the block's own forward."""
        value: torch.Tensor = self.repair(self.shortcut(x))
        if self.low == 0 and self.high is None:
            return functional.relu(value)
        if self.low is None and self.high is None:
            return value
        return torch.clamp(value, self.low, self.high)


class ShortcutOnly(nn.Module):
    """What is left of a strided or widening block without its branch: its shortcut, and what follows the addition."""

    def __init__(self, shortcut: nn.Module, trailing: list[nn.Module]) -> None:
        super().__init__()
        self.shortcut, self.trailing = shortcut, nn.Sequential(*trailing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the block's own forward."""
        value: torch.Tensor = self.trailing(self.shortcut(x))
        return value


def remove_block(model: nn.Module, name: str) -> None:
    """Put in place of the named block what a cut of the ONNX file leaves of it.

    Of a block with a shortcut that is the shortcut and what follows the addition; of one whose input is passed on as
    it is, its input, with the ReLU of the block where nothing else tells that it is never negative.

    Raises:
        UsageError: The model has no such submodule, or its code does not tell what follows the addition.
    """
    parent, child, shortcut = _find(model, name, "without")
    trailing = trailing_of(parent.get_submodule(child))
    if shortcut is None:
        leave_relu = trailing and isinstance(trailing[-1], nn.ReLU) and not never_negative(model, name)
        setattr(parent, child, nn.ReLU() if leave_relu else nn.Identity())
        return
    if trailing is None:
        raise UsageError(
            f"without: what follows the addition in block {name} cannot be read from its forward, so what its removal "
            f"leaves is not known; give the shallow network as a model of its own."
        )
    setattr(parent, child, ShortcutOnly(shortcut, trailing))


def replace_block(model: nn.Module, cut: CutSetting) -> None:
    """Put in place of a block what a plan leaves of it.

    Raises:
        UsageError: The model has no such submodule, or it is to keep a shortcut that it does not have as a module.
    """
    parent, child, shortcut = _find(model, cut.block, "cuts")
    if cut.form == "shortcut" and shortcut is None:
        raise UsageError(
            f"Block {cut.block} has no submodule `shortcut` or `downsample` that could stay; make the plan with "
            f"--form bypass."
        )
    stays = shortcut if cut.form == "shortcut" and shortcut is not None else nn.Identity()
    setattr(parent, child, Remainder(cut, stays))


def _find(model: nn.Module, name: str, setting: str) -> tuple[nn.Module, str, nn.Module | None]:
    """A block's parent, its name in it, and the module on its skip path; None where values pass as they are."""
    parent_path, _, child = name.rpartition(".")
    try:
        parent = model.get_submodule(parent_path)
        block = parent.get_submodule(child)
    except AttributeError:
        raise UsageError(f"{setting}: the model has no block {name!r}.") from None
    # torchvision's residual blocks call it downsample; None or an identity means that the shapes are equal.
    shortcut = getattr(block, "shortcut", None) or getattr(block, "downsample", None)
    trivial = not isinstance(shortcut, nn.Module) or isinstance(shortcut, nn.Identity)
    return parent, child, None if trivial else shortcut
