"""Networks without skip paths: VGG-16 with its two wide hidden layers, a plain convolutional network, an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lacoot_deploy.errors import UsageError

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of its convolutions; 0 halves the sides."""


class Vgg(nn.Module):
    """VGG-16 with batch normalisation and torchvision's classifier: 7x7 positions, two hidden layers of 4096.

    On 32x32 images the last feature map is one position; the pooling to 7x7 repeats it, as torchvision's does. Nine
    tenths of the parameters lie in the two hidden layers.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: float = 1.0,
        hidden: int = 4096,
        positions: int = 7,
        dropout: float = 0.5,
    ) -> None:
        """Build it.

        Args:
            classes: Outputs.
            channels: Of the images.
            width: Factor on all channels and on the hidden layers.
            hidden: Features of the hidden layers before that factor.
            positions: Rows and columns that the features are pooled to.
            dropout: Share of hidden features dropped in training.
        """
        super().__init__()
        if not 0 < width <= 1:
            raise UsageError(f"width = {width!r} lies outside (0, 1].")
        layers: list[nn.Module] = []
        inputs = channels
        for size in VGG16:
            if size == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            outputs = max(round(size * width), 1)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        wide = max(round(hidden * width), 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(positions)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * positions**2, wide), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(wide, wide), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(wide, classes),
        )  # fmt: skip
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] with sides of 32 or more, to logits [N, classes]."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return logits


class PlainCnn(nn.Module):
    """Convolutions, each with batch normalisation and ReLU, one after the other; global mean, one linear layer."""

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        widths: Sequence[int] = (32, 32, 64, 64, 64, 64),
        kernels: Sequence[int] = (3, 1, 3, 1, 3, 1),
        strides: Sequence[int] = (1, 1, 2, 1, 1, 1),
    ) -> None:
        super().__init__()
        if not len(widths) == len(kernels) == len(strides) > 0:
            raise UsageError("widths, kernels and strides need one number per convolution.")
        layers: list[nn.Module] = []
        inputs = channels
        for width, kernel, stride in zip(widths, kernels, strides, strict=True):
            convolution = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] to logits [N, classes]."""
        logits: torch.Tensor = self.head(self.layers(x).mean((2, 3)))
        return logits


class Mlp(nn.Module):
    """Linear layers with ReLU between them, on the pixels of an image in a row."""

    def __init__(
        self, *, classes: int, channels: int, pixels: int = 1024, hidden: Sequence[int] = (256, 256, 256)
    ) -> None:
        """Build it.

        Args:
            classes: Outputs.
            channels: Of the images.
            pixels: Of one channel of an image.
            hidden: Features of the hidden layers.
        """
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = self.inputs = channels * pixels
        for size in hidden:
            layers += [nn.Linear(inputs, size), nn.ReLU()]
            inputs = size
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] to logits [N, classes].

        Raises:
            UsageError: The images have another size.
        """
        if (found := x.shape[1:].numel()) != self.inputs:
            raise UsageError(
                f"The images have {found} values each, the mlp was built for {self.inputs}: set model_args.pixels "
                "to the pixels of one channel."
            )
        logits: torch.Tensor = self.layers(x)
        return logits


def initialise(model: nn.Module) -> None:
    """He initialisation of the convolutions, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
