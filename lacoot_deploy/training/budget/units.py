"""The unit of an update is an input channel of a convolution or linear layer; what it costs (TraDy, 2510.19675).

A frozen channel needs neither its stored activation nor its weight's gradient. Costs are counted in slots (numbers),
for one sample: C_W = (C_out / groups) k^2 of the weight and C_A = height x width of the input map, or the length of
the sequence before a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.export import evaluating

SLOT_BYTES = 4
"""Numbers are float32."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer whose input channels can be trained one by one.

    Attributes:
        path: Path of its module.
        channels: Input channels.
        weight: C_W, slots of the gradient of one channel's weights.
        activation: C_A, slots of one channel of one sample's input.
    """

    path: str
    channels: int
    weight: int
    activation: int

    def cost(self, samples: int = 1) -> int:
        """Slots of one channel in a step of that many samples."""
        return self.weight + samples * self.activation


def layer_of(path: str, shape: tuple[int, int, int, int], positions: int) -> Layer:
    """A layer by its sizes.

    Args:
        path: Its name.
        shape: Input channels, output channels, entries of a kernel (1 for a linear layer) and groups.
        positions: Height x width of the input map, or the length of the sequence.
    """
    inputs, outputs, kernel, groups = shape
    return Layer(path, inputs, outputs // groups * kernel, positions)


def total_slots(layers: Iterable[Layer], samples: int = 1) -> int:
    """Slots of training every channel."""
    return sum(layer.channels * layer.cost(samples) for layer in layers)


def chosen_slots(layers: Iterable[Layer], chosen: Mapping[str, torch.Tensor], samples: int = 1) -> int:
    """Slots of training the chosen channels.

    Args:
        layers: All layers.
        chosen: Channel numbers by the path of their layer, int64 [n].
        samples: Of a step.
    """
    return sum(len(chosen[layer.path]) * layer.cost(samples) for layer in layers if layer.path in chosen)


def find_layers(model: nn.Module, example: torch.Tensor) -> tuple[tuple[Layer, ...], str]:
    """The layers of a network whose channels can be trained, in the order of the computation, and its head.

    The head is the last linear layer: it is always trained and no part of the budget. Convolutions with groups of
    several channels, or with padding by name or of other values than zeros, are left out.

    Args:
        model: The network, on the CPU.
        example: Real inputs.

    Raises:
        UsageError: A layer is called several times, layers share weights, or there is no head.
    """
    seen: list[tuple[str, nn.Module, int]] = []

    def hook(path: str) -> Any:
        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            positions = x[0, 0].numel() if isinstance(module, nn.Conv2d) else x[0, ..., 0].numel()
            seen.append((path, module, positions))

        return see

    found = {p: m for p, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    handles = [module.register_forward_pre_hook(hook(path)) for path, module in found.items()]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    paths = [path for path, _, _ in seen]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{twice} is called several times in a forward pass, so that its channels have no one cost."
        )
    _refuse_shared(found)
    if not seen or not isinstance(seen[-1][1], nn.Linear):
        raise UsageError(
            "A network for training under a budget ends in a linear layer, its head; this one does not."
        )
    layers = [_layer(path, module, positions) for path, module, positions in seen[:-1]]
    return tuple(layer for layer in layers if layer is not None), seen[-1][0]


def _layer(path: str, module: nn.Module, positions: int) -> Layer | None:
    if isinstance(module, nn.Linear):
        return layer_of(path, (module.in_features, module.out_features, 1, 1), positions)
    assert isinstance(module, nn.Conv2d)
    fixed = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if module.groups not in (1, module.in_channels) or not fixed:
        return None
    kernel = module.kernel_size[0] * module.kernel_size[1]
    return layer_of(path, (module.in_channels, module.out_channels, kernel, module.groups), positions)


def _refuse_shared(modules: Mapping[str, nn.Module]) -> None:
    owners: dict[int, str] = {}
    for path, module in modules.items():
        other = owners.setdefault(id(module.weight), path)
        if other != path:
            raise UsageError(
                f"{other} and {path} share their weights, so that their channels cannot be chosen alone."
            )
