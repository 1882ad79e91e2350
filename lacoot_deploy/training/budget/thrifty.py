"""Layers that keep for the backward pass only what the chosen channels need.

The class of a module is exchanged in place, so that names, parameters and hooks stay. Of a convolution or linear layer
the chosen input channels are kept; of a ReLU whether each value passed, a byte each; of a batch normalisation, which
uses its running statistics and stays as it is, nothing. A layer that no trained one lies before keeps nothing and ends
the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lacoot_deploy.training.methods.activations import trace_calls


class _Conv(torch.autograd.Function):
    """A convolution, its normalisation folded in, whose weight gets a gradient for some input channels."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor | None, layer: ThriftyConv2d) -> torch.Tensor:
        ctx.layer, ctx.shape, ctx.layout = layer, x.shape, _layout(x)
        kept = _some_channels(x, layer.chosen) if layer.training and len(layer.chosen) else None
        ctx.save_for_backward(*(() if kept is None else (kept,)))
        weight, bias = layer.folded
        return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        layer: ThriftyConv2d = ctx.layer
        if ctx.saved_tensors:
            (kept,) = ctx.saved_tensors
            outputs, groups, part = layer.out_channels, 1, grad
            if layer.depthwise:
                chosen = layer.outputs
                outputs, groups, part = len(chosen), len(layer.chosen), _some_channels(grad, chosen)
            weight = grad.new_empty((outputs, kept.shape[1] // groups, *layer.kernel_size))
            layer.take(_backward(layer, part, kept, weight, groups, of_input=False))
        before = None
        if ctx.needs_input_grad[0]:
            # Of the input nothing but the shape and the layout is looked at; nothing is written into this one.
            x = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.layout)
            weight = layer.folded[0].to(grad.dtype)
            before = _backward(layer, grad, x, weight, layer.groups, of_input=True)
        return before, None, None


def _backward(
    layer: ThriftyConv2d,
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    groups: int,
    *,
    of_input: bool,
) -> torch.Tensor:
    """The gradient of a convolution's input, or of its weight; `torch.nn.grad` loses the layout and much time."""
    sizes = (list(layer.stride), list(layer.padding), list(layer.dilation))
    wanted = [of_input, not of_input, False]
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *sizes, False, [0] * len(layer.stride), groups, wanted
    )
    gradient: torch.Tensor = found[0 if of_input else 1]
    return gradient


def _layout(x: torch.Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _some_channels(x: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Those channels of a map, in the layout that it has."""
    if _layout(x) == torch.channels_last:
        return x.permute(0, 2, 3, 1)[..., channels].permute(0, 3, 1, 2)
    return x[:, channels]


class _Linear(torch.autograd.Function):
    """A linear layer whose weight gets a gradient for some input features."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor | None, layer: ThriftyLinear) -> torch.Tensor:
        ctx.layer = layer
        kept = x[..., layer.chosen] if layer.training and len(layer.chosen) else None
        ctx.save_for_backward(*(() if kept is None else (kept,)))
        return functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        layer: ThriftyLinear = ctx.layer
        if ctx.saved_tensors:
            (kept,) = ctx.saved_tensors
            layer.take(grad.flatten(0, -2).T @ kept.flatten(0, -2))
        return grad @ layer.weight.to(grad.dtype) if ctx.needs_input_grad[0] else None, None, None


class _Relu(torch.autograd.Function):
    """ReLU or ReLU6 that keeps where it passes values on, a byte each."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, upper: float | None) -> torch.Tensor:
        y = x.clamp(0, upper)
        # As whole numbers of one byte: from truth values the product below takes five times as long.
        passes = (y > 0) if upper is None else (y > 0) & (y < upper)
        ctx.save_for_backward(passes.view(torch.int8))
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (passes,) = ctx.saved_tensors
        return passes.to(grad.dtype).mul_(grad), None


class Thrifty:
    """What a layer with chosen channels adds to its module.

    Attributes:
        chosen: Input channels that are trained, int64 [n].
        outputs: Their output channels in a depthwise convolution.
        scale: Factor of every output channel of the normalisation folded in; None without one.
        folded: Weight and bias that are computed with.
        slice_grad: Gradient of the weight for those channels since the last step; None where there is none.
        anchor: Makes autograd call the layer's backward although none of its tensors has a gradient of its own.
    """

    chosen: torch.Tensor
    outputs: torch.Tensor
    anchor: torch.Tensor
    slice_grad: torch.Tensor | None
    weight: torch.Tensor
    bias: Any
    scale: torch.Tensor | None = None
    folded: tuple[torch.Tensor, torch.Tensor | None]

    @torch.no_grad()
    def fold(self, norm: nn.BatchNorm2d | None) -> None:
        """Compute with the fixed normalisation behind it folded in; the weight itself stays as it is."""
        if norm is None:
            self.folded = self.weight, self.bias
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        bias = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        bias = bias * scale if norm.bias is None else bias * scale + norm.bias
        self.scale = scale[:, None, None, None]
        self.folded = self.weight * self.scale, bias

    def choose(self, channels: torch.Tensor) -> None:
        """Train these input channels from now on."""
        device = self.weight.device
        self.chosen, self.slice_grad = channels.to(device), None
        self.anchor = torch.empty(0, device=device, requires_grad=True)
        self.outputs = self.chosen
        if self.depthwise:
            each: int = len(self.weight) // self.in_channels  # type: ignore[attr-defined]
            self.outputs = (self.chosen[:, None] * each + torch.arange(each, device=device)).flatten()

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has output channels of its own."""
        return isinstance(self, nn.Conv2d) and self.groups > 1

    def take(self, grad: torch.Tensor) -> None:
        """Add the gradient of one part of a batch."""
        grad = grad.float()
        if self.scale is not None:
            grad = grad * (self.scale[self.outputs] if self.depthwise else self.scale)
        self.slice_grad = grad if self.slice_grad is None else self.slice_grad + grad

    def _learns(self, x: torch.Tensor) -> bool:
        """Whether anything has to be kept for a backward pass."""
        return torch.is_grad_enabled() and (x.requires_grad or len(self.chosen) > 0)

    @property
    def _anchor(self) -> torch.Tensor | None:
        return self.anchor if len(self.chosen) and torch.is_grad_enabled() else None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step of gradient descent on the chosen channels; every other weight stays bit for bit."""
        if self.slice_grad is None:
            return
        place: Any = self.outputs if self.depthwise else (slice(None), self.chosen)
        self.weight[place] -= rate * self.slice_grad
        if self.scale is not None:
            scale = self.scale[self.outputs] if self.depthwise else self.scale
            self.folded[0][place] = self.weight[place] * scale
        self.slice_grad = None

    def norms(self) -> torch.Tensor:
        """Norm of the gradient of every chosen channel, float64 [n]."""
        assert self.slice_grad is not None
        grad = self.slice_grad.double()
        rows = grad if self.depthwise else grad.transpose(0, 1)
        norms: torch.Tensor = rows.reshape(len(self.chosen), -1).norm(dim=1)
        return norms


class ThriftyConv2d(Thrifty, nn.Conv2d):
    """A convolution of which some input channels are trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Conv2d`."""
        if not self._learns(x):
            weight, bias = self.folded
            return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        y: torch.Tensor = _Conv.apply(x, self._anchor, self)  # type: ignore[no-untyped-call]
        return y


class ThriftyLinear(Thrifty, nn.Linear):
    """A linear layer of which some input features are trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`."""
        if not self._learns(x):
            return functional.linear(x, self.weight, self.bias)
        y: torch.Tensor = _Linear.apply(x, self._anchor, self)  # type: ignore[no-untyped-call]
        return y


class FixedNorm(nn.BatchNorm2d):
    """A batch normalisation that stays as it is: by its running statistics, or folded into the layer before."""

    folded_away = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.BatchNorm2d` in evaluation mode."""
        if self.folded_away:
            return x
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = (self.running_var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight.detach()
        shift = -self.running_mean * scale
        shift = shift if self.bias is None else shift + self.bias.detach()
        return x * scale[:, None, None] + shift[:, None, None]


class ThriftyReLU(nn.ReLU):
    """A ReLU that keeps a byte a value."""

    upper: float | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.ReLU`."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x.clamp(0, self.upper)
        y: torch.Tensor = _Relu.apply(x, self.upper)  # type: ignore[no-untyped-call]
        return y


class ThriftyReLU6(ThriftyReLU):
    """A ReLU6 that keeps a byte a value."""

    upper = 6.0


def norms_behind(model: nn.Module, example: torch.Tensor) -> dict[str, str]:
    """Batch normalisations that alone read what a convolution gives: path by the convolution's path."""
    trace = trace_calls(model, example)
    modules = dict(model.named_modules())
    found = {}
    for path, passes in trace.values.items():
        if not isinstance(modules[path], nn.Conv2d) or len(passes) != 1:
            continue
        value = id(passes[0][1])
        readers = [call.owner for call in trace.calls if value in call.reads and call.owner != path]
        if len(readers) == 1 and isinstance(modules[readers[0]], nn.BatchNorm2d):
            found[path] = readers[0]
    return found


def make_thrifty(
    model: nn.Module, paths: tuple[str, ...], behind: Mapping[str, str] | None = None
) -> dict[str, Thrifty]:
    """Exchange the layers of a network in place; nothing is chosen yet, and no parameter has a gradient of its own.

    Args:
        model: The network, on the device.
        paths: The layers whose channels may be chosen.
        behind: Normalisations to fold into convolutions, as `norms_behind` finds them.
    """
    behind = behind or {}
    model.requires_grad_(False)
    thrifty: dict[str, Thrifty] = {}
    kinds = {nn.BatchNorm2d: FixedNorm, nn.ReLU: ThriftyReLU, nn.ReLU6: ThriftyReLU6}
    for path, module in model.named_modules():
        if path in paths:
            module.__class__ = ThriftyConv2d if isinstance(module, nn.Conv2d) else ThriftyLinear
            assert isinstance(module, Thrifty)
            module.choose(torch.empty(0, dtype=torch.int64))
            thrifty[path] = module
        elif type(module) in kinds:
            module.__class__ = kinds[type(module)]
    for path, layer in thrifty.items():
        norm = model.get_submodule(behind[path]) if path in behind else None
        assert norm is None or isinstance(norm, FixedNorm)
        layer.fold(norm)
        if norm is not None:
            norm.folded_away = True
    return thrifty
