"""Networks to train: the papers' CIFAR networks, the digits demo, and whatever torchvision, timm or you define."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lacoot_deploy.errors import InputError, LacootError, UsageError
from lacoot_deploy.training.methods.edits import apply_edits, replace_module
from lacoot_deploy.training.methods.state import Edit
from lacoot_deploy.training.networks import Mlp, PlainCnn, Vgg, initialise
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.refits import take_norm_in
from lacoot_deploy.training.removal import remove_block, replace_block
from lacoot_deploy.training.transformer import PatchTransformer
from lacoot_deploy.userfunctions import load_function


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        pad = kernel // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )


class PadShortcut(nn.Module):
    """The parameter-free shortcut of the first CIFAR ResNets: subsample, then pad with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        before = self.missing // 2
        return functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before)
        )


class BasicBlock(nn.Module):
    """relu(shortcut(x) + conv-norm-relu-conv-norm(x))."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, shortcut: str = "conv") -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, stride=stride)
        self.act1 = nn.ReLU()
        self.conv2 = ConvNorm(outputs, outputs, 3)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            widen = shortcut == "conv"
            self.shortcut = (
                ConvNorm(inputs, outputs, 1, stride=stride) if widen else PadShortcut(inputs, outputs, stride)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        inner = self.act1(self.conv1(x))
        y: torch.Tensor = self.act2(self.shortcut(x) + self.conv2(inner))
        return y


class ResNet(nn.Module):
    """Residual network of basic blocks: a 3x3 stem, stages that halve the sides, global mean, one linear layer."""

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        max_pool: bool = False,
        shortcut: str = "conv",
    ) -> None:
        super().__init__()
        if shortcut not in ("conv", "pad"):
            raise UsageError(f"shortcut = {shortcut!r} does not exist; choose conv or pad.")
        if len(widths) != len(blocks) or not blocks or min(blocks) < 1:
            raise UsageError("widths and blocks need one positive number per stage.")
        self.stem = nn.Sequential(ConvNorm(channels, widths[0], 3), nn.ReLU())
        self.pool: nn.Module = nn.MaxPool2d(3, 2, 1) if max_pool else nn.Identity()
        inputs = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(BasicBlock(inputs, width, stride=stride, shortcut=shortcut))
                inputs = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.head = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] to logits [N, classes]."""
        x = self.pool(self.stem(x))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; added to the input where the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [ConvNorm(inputs, hidden, 1), nn.ReLU6()]
        layers += [ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden), nn.ReLU6()]
        layers.append(ConvNorm(hidden, outputs, 1))
        self.branch = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        branch: torch.Tensor = self.branch(x)
        return x + branch if self.residual else branch


class MobileNetV2(nn.Module):
    """MobileNetV2 for 32x32 images: stem and second stage keep the resolution."""

    # expansion, width, blocks, stride of the first
    STAGES = (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 32
        for expand, width, count, first in self.STAGES:
            for index in range(count):
                stride = first if index == 0 else 1
                layers.append(InvertedResidual(inputs, width, stride=stride, expand=expand))
                inputs = width
        self.stem = nn.Sequential(ConvNorm(channels, 32, 3), nn.ReLU6())
        self.features = nn.Sequential(*layers)
        self.tail = nn.Sequential(ConvNorm(inputs, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] to logits [N, classes]."""
        x = self.tail(self.features(self.stem(x)))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


Builder = Callable[..., nn.Module]


def _digits_resnet(*, classes: int, channels: int, **options: Any) -> nn.Module:
    settings: dict[str, Any] = {"widths": (32, 64), "blocks": (3, 3)} | options
    return ResNet(classes=classes, channels=channels, **settings)


def _cifar_resnet(depth: int) -> Builder:
    def build(*, classes: int, channels: int, **options: Any) -> nn.Module:
        settings: dict[str, Any] = {"widths": (16, 32, 64), "blocks": ((depth - 2) // 6,) * 3} | options
        return ResNet(classes=classes, channels=channels, **settings)

    return build


def _resnet18_cifar(*, classes: int, channels: int, **options: Any) -> nn.Module:
    settings: dict[str, Any] = {
        "widths": (64, 128, 256, 512),
        "blocks": (2, 2, 2, 2),
        "max_pool": True,
    } | options
    return ResNet(classes=classes, channels=channels, **settings)


REGISTRY: Mapping[str, Builder] = {
    "digits-resnet": _digits_resnet,
    **{f"resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56)},
    "resnet18-cifar": _resnet18_cifar,
    "mobilenetv2-cifar": MobileNetV2,
    "vgg16-cifar": Vgg,
    "plain-cnn": PlainCnn,
    "mlp": Mlp,
    "patch-transformer": PatchTransformer,
}
"""The networks built in; each takes `classes`, `channels` and its own options."""


def build_model(recipe: Recipe, *, classes: int, channels: int, edits: Sequence[Edit] = ()) -> nn.Module:
    """The untrained network of a recipe, its blocks taken out, cut and refitted as it says.

    What a method of rounds has changed since is changed again by `edits`.

    Registry and python models are called with `classes` and `channels` (of the images), torchvision ones with
    `num_classes`, timm ones with `num_classes` and `in_chans`; `model_args` are added.

    Raises:
        UsageError: No such model, or it does not take the arguments, or a block or activation to take out does not
            exist.
        InputError: The module or function of a python model is missing or returns no module.
    """
    model = _construct(recipe.model, dict(recipe.model_args), classes=classes, channels=channels)
    for name in recipe.without:
        remove_block(model, name)
    for cut in recipe.cuts:
        replace_block(model, cut)
    for name in recipe.refits:
        take_norm_in(model, name)
    for path in recipe.linear:
        _make_linear(model, path)
    apply_edits(model, edits)
    return model


def _make_linear(model: nn.Module, path: str) -> None:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise UsageError(f"linear: the model has no activation {path!r}.") from None
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
        raise UsageError(f"linear: {path} is a {type(module).__name__}, not an activation.")
    replace_module(model, path, nn.Identity())


def _construct(name: str, options: dict[str, Any], *, classes: int, channels: int) -> nn.Module:
    kind, _, rest = name.partition(":")
    try:
        if name in REGISTRY:
            model = REGISTRY[name](classes=classes, channels=channels, **options)
        elif kind == "torchvision" and rest:
            model = _torchvision(rest, options, classes=classes, channels=channels)
        elif kind == "timm" and rest:
            model = _timm(rest, options, classes=classes, channels=channels)
        elif kind == "python" and rest:
            model = _python(rest)(classes=classes, channels=channels, **options)
        else:
            known = ", ".join([*REGISTRY, "torchvision:NAME", "timm:NAME", "python:module:function"])
            raise UsageError(f"There is no model {name!r}; choose one of {known}.")
    except LacootError:
        raise
    except TypeError as error:
        raise UsageError(f"The model {name} cannot be built with these arguments: {error}.") from None
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} gives a {type(model).__name__}, not a torch.nn.Module.")
    return model


def _torchvision(name: str, options: dict[str, Any], *, classes: int, channels: int) -> nn.Module:
    from torchvision.models import get_model

    if channels != 3:
        raise InputError(f"torchvision:{name} takes images of 3 channels; the data has {channels}.")
    try:
        model: nn.Module = get_model(name, weights=None, num_classes=classes, **options)
    except ValueError as error:
        raise UsageError(f"torchvision:{name}: {error}.") from None
    return model


def _timm(name: str, options: dict[str, Any], *, classes: int, channels: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UsageError(f"timm:{name} needs timm: pip install 'lacoot-deploy[timm]'.") from None
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=channels, **options
        )
    except RuntimeError as error:
        raise UsageError(f"timm:{name}: {error}.") from None
    return model


def _python(target: str) -> Builder:
    return load_function(target, "model")
