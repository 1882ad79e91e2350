"""Which channels an epoch trains: exchangeable rules over the layers that a network has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.budget.units import Layer

SHARE = 0.97
"""Share of the summed relative gradient norm that the kept layers have."""

Norms = Mapping[str, torch.Tensor]
"""Norm of the gradient of every channel, float64 [channels] by the path of the layer."""


@dataclass(frozen=True)
class Draw:
    """What a sampler may ask.

    Attributes:
        layers: All layers, in the order of the computation.
        kept: Those chosen beforehand.
        budget: Slots of an epoch's channels.
        samples: Samples of a step for which slots are counted; 1 as published.
        generator: Source of the epoch's random numbers.
        norms: Gives the norm of the full gradient of every channel, which costs a pass over data.
        last: The norms that were last seen of channels, for those that were trained; infinite for the others.
        scheme: Share of its channels by layer, for the scheme of a file.
    """

    layers: tuple[Layer, ...]
    kept: tuple[str, ...]
    budget: int
    samples: int
    generator: torch.Generator
    norms: Callable[[], Norms]
    last: Norms = field(default_factory=dict)
    scheme: Mapping[str, float] = field(default_factory=dict)

    def of(self, paths: Sequence[str] | None = None) -> list[tuple[Layer, int]]:
        """Every channel of the layers of these paths, or of all."""
        return [
            (ly, c) for ly in self.layers if paths is None or ly.path in paths for c in range(ly.channels)
        ]


Chosen = dict[str, torch.Tensor]


def within(channels: Sequence[tuple[Layer, int]], order: Sequence[int], draw: Draw) -> Chosen:
    """Channels in that order until the next would pass the budget.

    The paper leaves open what follows the first that does not fit; here the drawing ends with it, as its wording says.
    """
    used = 0
    found: dict[str, list[int]] = {}
    for number in order:
        layer, channel = channels[number]
        used += layer.cost(draw.samples)
        if used > draw.budget:
            break
        found.setdefault(layer.path, []).append(channel)
    return {path: torch.tensor(sorted(numbers)) for path, numbers in found.items()}


def uniform(draw: Draw, paths: Sequence[str] | None) -> Chosen:
    """Channels of these layers, all equally likely."""
    channels = draw.of(paths)
    return within(channels, torch.randperm(len(channels), generator=draw.generator).tolist(), draw)


def by_norm(draw: Draw) -> Chosen:
    """Channels of the kept layers in proportion to their last seen norm; unseen ones count as the largest."""
    channels = draw.of(draw.kept)
    unseen = {layer.path: torch.full((layer.channels,), torch.inf) for layer in draw.layers}
    last = unseen | dict(draw.last)
    seen = torch.tensor([float(last[layer.path][c]) for layer, c in channels], dtype=torch.float64)
    known = seen[torch.isfinite(seen)]
    largest = float(known.max()) if len(known) else 1.0
    weights = torch.where(torch.isfinite(seen), seen, largest).clamp(min=1e-12 * max(largest, 1e-300))
    order = torch.multinomial(weights, len(channels), generator=draw.generator)
    return within(channels, order.tolist(), draw)


def oracle(draw: Draw) -> Chosen:
    """The channels with the largest norms of the full gradient."""
    channels, norms = draw.of(), draw.norms()
    values = torch.tensor([float(norms[layer.path][c]) for layer, c in channels], dtype=torch.float64)
    return within(channels, torch.argsort(values, descending=True, stable=True).tolist(), draw)


def by_scheme(draw: Draw) -> Chosen:
    """The first channels of the layers of a scheme, as many as it says."""
    return {
        layer.path: torch.arange(max(1, round(draw.scheme[layer.path] * layer.channels)))
        for layer in draw.layers
        if layer.path in draw.scheme
    }


SAMPLERS: Mapping[str, Callable[[Draw], Chosen]] = {
    "trady": lambda draw: uniform(draw, draw.kept),
    "medyate": lambda draw: by_norm(draw) if draw.last else uniform(draw, draw.kept),
    "static": lambda draw: uniform(draw, draw.kept),
    "full": lambda draw: uniform(draw, None),
    "oracle": oracle,
    "sparse-update": by_scheme,
    "everything": lambda draw: {layer.path: torch.arange(layer.channels) for layer in draw.layers},
    "head": lambda draw: {},
}
"""Rules by the name that a recipe gives them; `static` draws in the first epoch alone."""


def keep_layers(scores: Mapping[str, float]) -> tuple[str, ...]:
    """The fewest layers with the given share of the summed score, the largest first.

    Args:
        scores: RGN_i = sum_c norm_c / (C_W + C_A) by path, or another score of layers.
    """
    order = sorted(scores, key=lambda path: scores[path], reverse=True)
    total, held = sum(scores.values()), 0.0
    for count, path in enumerate(order, 1):
        held += scores[path]
        if held >= SHARE * total:
            return tuple(order[:count])
    return tuple(order)


def check_budget(layers: Sequence[Layer], budget: int, samples: int) -> None:
    """Refuse a budget that no channel fits.

    Raises:
        UsageError: It is below the cheapest channel.
    """
    cheapest = min(layers, key=lambda layer: layer.cost(samples))
    if budget < cheapest.cost(samples):
        raise UsageError(
            f"A budget of {budget} slots is below the cheapest channel, which needs {cheapest.cost(samples)} "
            f"({cheapest.path}); give more, or train the head alone with sampler = 'head'."
        )
