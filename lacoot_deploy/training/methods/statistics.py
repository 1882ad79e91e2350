"""What the inputs of activations look like over a data set: counts of signs, entropies, moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.export import evaluating
from lacoot_deploy.training.methods.activations import Site

BATCH = 250


@dataclass
class SignCounts:
    """How often each neuron's pre-activation was above and below zero, and above the activation's upper bound.

    Attributes:
        on: int64 [channels].
        off: int64 [channels]; a pre-activation of exactly zero is in neither.
        clipped: int64 [channels], those of `on` that lie above the bound.
    """

    on: torch.Tensor
    off: torch.Tensor
    clipped: torch.Tensor

    @property
    def p_on(self) -> torch.Tensor:
        """Share of ON per neuron, float64 [channels]; 0 for a neuron that was always exactly zero."""
        return self.on.double() / (self.on + self.off).clamp(min=1).double()

    @property
    def entropy(self) -> float:
        """Mean over neurons of the binary entropy of their state, in bits (EASIER, 2404.18949)."""
        return float(binary_entropy(self.p_on).mean())

    @property
    def always_on(self) -> torch.Tensor:
        """Neurons that were never below zero nor beyond the bound, bool [channels]."""
        return (self.on > 0) & (self.off == 0) & (self.clipped == 0)

    @property
    def settled(self) -> bool:
        """Whether every neuron was in one linear piece of its activation for all data."""
        return bool(((self.on == 0) | self.always_on).all())


@dataclass
class Moments:
    """Mean and standard deviation of each neuron's pre-activation, float64 [channels]."""

    mean: torch.Tensor
    std: torch.Tensor


def binary_entropy(p: torch.Tensor) -> torch.Tensor:
    """-p log2 p - (1 - p) log2 (1 - p), 0 at both ends; float64, any shape."""
    p = p.double()
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / torch.log(
        torch.tensor(2.0, dtype=torch.float64)
    )


def count_signs(model: nn.Module, sites: Sequence[Site], images: DeviceImages) -> dict[str, SignCounts]:
    """Signs of the pre-activations over all images and positions.

    Counts are summed over the whole set and the entropy is taken of their total: entropies of single batches are
    smaller, so that their mean would depend on the size of a batch.

    Args:
        model: The network, on the device of the images.
        sites: Activations to watch.
        images: The data, taken in order and unaugmented.
    """

    def none(site: Site) -> torch.Tensor:
        return torch.zeros(site.channels, dtype=torch.int64, device=images.device)

    counts = {site.path: SignCounts(none(site), none(site), none(site)) for site in sites}

    def add(site: Site, rows: torch.Tensor) -> None:
        held = counts[site.path]
        held.on += (rows > 0).sum(0)
        held.off += (rows < 0).sum(0)
        if site.upper is not None:
            held.clipped += (rows > site.upper).sum(0)

    _watch(model, sites, images, add)
    return counts


def measure_moments(model: nn.Module, sites: Sequence[Site], images: DeviceImages) -> dict[str, Moments]:
    """Mean and standard deviation of the pre-activations over all images and positions."""
    device = images.device
    sums = {s.path: torch.zeros(3, s.channels, dtype=torch.float64, device=device) for s in sites}

    def add(site: Site, rows: torch.Tensor) -> None:
        values = rows.double()
        sums[site.path] += torch.stack(
            [values.sum(0), values.square().sum(0), torch.ones_like(values).sum(0)]
        )

    _watch(model, sites, images, add)
    found = {}
    for path, (total, squares, count) in sums.items():
        mean = total / count
        found[path] = Moments(mean, (squares / count - mean.square()).clamp(min=0).sqrt())
    return found


@torch.no_grad()
def _watch(
    model: nn.Module,
    sites: Sequence[Site],
    images: DeviceImages,
    add: Callable[[Site, torch.Tensor], None],
) -> None:
    """Call `add` with every batch's pre-activations as rows, [samples and positions, channels]."""

    def hook(site: Site) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...]) -> None:
            add(site, args[0].detach().movedim(site.axis, -1).reshape(-1, site.channels))

        return see

    handles = [model.get_submodule(s.path).register_forward_pre_hook(hook(s)) for s in sites]
    try:
        with evaluating(model):
            for batch, _ in images.in_order(BATCH):
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
