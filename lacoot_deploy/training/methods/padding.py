"""Padding moved to the first of two convolutions with nothing but linear between them, so that they merge exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lacoot_deploy.training.methods.activations import CONVOLUTIONS, Site
from lacoot_deploy.training.methods.state import Edit


def move_padding(
    model: nn.Module, sites: Sequence[Site], linear: Sequence[str]
) -> tuple[tuple[Edit, ...], tuple[str, ...]]:
    """Edits that move the padding of a convolution behind a linear activation to the first one of its chain.

    A 3x3 convolution with padding 1 on one with padding 1 equals no 5x5 convolution: at the border the second sees
    zeros where the 5x5 one sees what the first makes of them. With padding 2 and then 0 it does. Inside nothing
    changes, at the border the network becomes another, so this comes before training.

    Args:
        model: The network.
        sites: All its activations, as they were when it was dense, in order.
        linear: Paths of those that are linear now.

    Returns:
        The edits, and a sentence for each one that cannot be made.
    """
    behind = {s.consumer: s for s in sites if s.path in linear and s.consumer and s.producer}
    found: dict[str, tuple[int, ...]] = {}
    refused = []
    for site in sites:
        if site.path not in linear or site.consumer is None or site.producer is None:
            continue
        before, second = model.get_submodule(site.producer), model.get_submodule(site.consumer)
        if not isinstance(second, CONVOLUTIONS) or not isinstance(before, CONVOLUTIONS):
            continue
        moved = _padding(second, found.get(site.consumer))
        if not any(moved):
            continue
        if before.groups != second.groups:
            refused.append(f"the padding of {site.consumer} stays: {site.producer} has other groups")
            continue
        first = site.producer
        while first in behind:
            # Each convolution passed on the way multiplies what has to be added by its stride.
            moved = _times(moved, model.get_submodule(first))
            first = str(behind[first].producer)
        target = model.get_submodule(first)
        if not _movable(target) or not _movable(second):
            refused.append(f"the padding of {site.consumer} cannot move to {first}: it is not of zeros")
            continue
        own = _padding(target, found.get(first))
        found[site.consumer] = (0,) * len(moved)
        found[first] = tuple(o + m for o, m in zip(own, _times(moved, target), strict=True))
    return _edits(found), tuple(refused)


def _edits(found: Mapping[str, tuple[int, ...]]) -> tuple[Edit, ...]:
    return tuple(Edit(kind="padding", path=path, padding=padding) for path, padding in found.items())


def _times(padding: tuple[int, ...], convolution: nn.Module) -> tuple[int, ...]:
    """The padding at a convolution's input that gives so much more at its output."""
    stride: tuple[int, ...] = convolution.stride  # type: ignore[assignment]
    return tuple(p * s for p, s in zip(padding, stride, strict=True))


def _movable(module: nn.Module) -> bool:
    return getattr(module, "padding_mode", "") == "zeros" and not isinstance(module.padding, str)


def _padding(module: nn.Module, changed: tuple[int, ...] | None) -> tuple[int, ...]:
    if changed is not None:
        return changed
    padding = module.padding
    if isinstance(padding, str):
        # "same" with stride 1, the only one torch allows it for; "valid" is none.
        sizes = zip(module.kernel_size, module.dilation, strict=True)  # type: ignore[arg-type]
        return tuple(d * (k - 1) // 2 if padding == "same" else 0 for k, d in sizes)
    return tuple(padding)  # type: ignore[arg-type]
