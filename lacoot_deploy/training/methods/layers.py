"""What stands where an activation was: a fixed gate per channel, or an activation with a learned slope."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ChannelGate(nn.Module):
    """scale * x (+ shift) per channel, fixed: 1 lets a channel pass, 0 silences it, bias and all.

    It is linear, so that it merges into the operator before it.
    """

    def __init__(self, channels: int, *, axis: int, shifted: bool) -> None:
        super().__init__()
        self.axis, self.shifted = axis, shifted
        self.register_buffer("scale", torch.ones(channels))
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        if shifted:
            self.register_buffer("shift", torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any tensor with that many channels, to one of the same shape."""
        shape = (-1,) if self.axis in (-1, x.dim() - 1) else (-1, *[1] * (x.dim() - 1 - self.axis))
        y = x * self.scale.reshape(shape).to(x.dtype)
        return y + self.shift.reshape(shape).to(x.dtype) if self.shifted else y


class Slope(nn.Module):
    """(1 - alpha) * act(x) + alpha * x with one learned alpha: the activation at 0, the identity at 1.

    Of a ReLU this is PReLU with slope alpha, as LayerCollapse (2311.17943) and Layer Folding have it.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.rectifies = isinstance(activation, nn.ReLU)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any tensor, to one of the same shape."""
        alpha = self.weight.to(x.dtype)
        if self.rectifies:
            return functional.prelu(x, alpha)
        y: torch.Tensor = self.activation(x)
        return y + alpha * (x - y)


def slope_penalty(slopes: list[Slope]) -> torch.Tensor:
    """Sum over activations of (1 - alpha)^2, in float32; it carries gradient to every alpha."""
    return torch.stack([(1 - slope.weight.float()).square().sum() for slope in slopes]).sum()
