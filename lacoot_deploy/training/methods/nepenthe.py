"""NEPENTHE (2404.16890): entropy steers pruning towards the layers that are nearly linear, until they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from lacoot_deploy.training.methods.activations import Site
from lacoot_deploy.training.methods.base import (
    Change,
    Companion,
    RoundsMethod,
    RoundsSettings,
    Situation,
    Surroundings,
    gate,
)
from lacoot_deploy.training.methods.state import Edit
from lacoot_deploy.training.methods.statistics import SignCounts, count_signs


class NepentheSettings(RoundsSettings):
    """NEPENTHE's.

    Attributes:
        zeta: Share of the non-zero weights that a round prunes.
        prune_limit: Largest share of one layer's non-zero weights that a round prunes.
    """

    zeta: float = Field(default=0.5, gt=0, lt=1)
    prune_limit: float = Field(default=1.0, gt=0, le=1)


class Nepenthe(RoundsMethod[NepentheSettings]):
    """Each round zeroes a share of the weights and lets layers without entropy go.

    A layer whose neurons never change sign is linear on all the data: those that are always on pass as they are,
    those that are always off give nothing.
    """

    most_rounds = 9

    def candidate(self, site: Site) -> str | None:
        """Only where one layer's weights make the input can pruning settle its signs."""
        if site.producer is None:
            return "no single layer makes the input, whose weights could be pruned"
        return None

    def propose(self, situation: Situation) -> Change:
        """Drop the layers without entropy and prune the others by the budget."""
        if not situation.sites:
            return Change(finished="every activation that can lose its entropy is linear")
        counts = count_signs(situation.model, situation.sites, situation.train)
        settled = [site for site in situation.sites if counts[site.path].settled]
        moving = [site for site in situation.sites if not counts[site.path].settled]
        edits: list[Edit] = []
        tensors: dict[str, torch.Tensor] = {}
        for site in settled:
            edit, values = gate(site, *settled_gate(counts[site.path]))
            edits.append(edit)
            tensors |= values
        scores = {path: held.entropy for path, held in counts.items()}
        weights = {site.path: _weight(situation.model, site) for site in moving}
        plan = round_budget(scores, weights, zeta=self.settings.zeta, most=self.settings.prune_limit)
        for site in moving:
            assert site.producer is not None
            tensors[f"{site.producer}.weight"] = prune_smallest(weights[site.path], plan[site.path])
        if not edits and not sum(plan.values()):
            return Change(finished="no weight is left to prune")
        sizes = {path: int(torch.count_nonzero(weight)) for path, weight in weights.items()}
        return Change(
            edits=tuple(edits),
            tensors=tensors,
            removed=tuple(site.path for site in settled),
            scores=scores,
            details={
                "pruned": plan,
                "nonzero": {path: sizes[path] - plan[path] for path in plan},
                "always_off": {s.path: int((counts[s.path].on == 0).sum()) for s in settled},
            },
        )

    def accompany(self, model: nn.Module, around: Surroundings) -> Companion:
        """What is pruned stays pruned."""
        return KeptZeros([_weight(model, site) for site in self.sites])


class KeptZeros(Companion):
    """Weights that are zero when the round begins stay zero; that is all the memory a mask needs."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        """Remember where they are zero."""
        self.pairs = [(weight, (weight != 0).to(weight.dtype)) for weight in weights]

    @torch.no_grad()
    def after_step(self) -> None:
        """Put the zeros back."""
        for weight, mask in self.pairs:
            weight.mul_(mask)


def settled_gate(counts: SignCounts) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of a layer without entropy: 1 for neurons that are always on, 0 for the others."""
    scale = counts.always_on.double()
    return scale, torch.zeros_like(scale)


def round_budget(
    entropies: Mapping[str, float], weights: Mapping[str, torch.Tensor], *, zeta: float, most: float = 1.0
) -> dict[str, int]:
    """How many weights each layer loses in this round.

    Irrelevance I_l = H_l mean|w| over non-zero weights; relevance R_l = sum(I) / I_l; the budget, zeta of all
    non-zero weights, is shared by softmax(R - max R). What a layer cannot take goes to those that can.

    Args:
        entropies: H by layer, those of `weights` at least.
        weights: The layers' weights.
        zeta: Share of the non-zero weights that go.
        most: Largest share of one layer's non-zero weights.
    """
    names = list(weights)
    if not names:
        return {}
    nonzero = np.array([int(torch.count_nonzero(weights[n])) for n in names])
    sums = np.array([float(weights[n].detach().double().abs().sum()) for n in names])
    irrelevance = np.array([entropies[n] for n in names]) * sums / np.maximum(nonzero, 1)
    # A layer without irrelevance that is not settled (a neuron beyond its bound, say) has the largest relevance.
    with np.errstate(divide="ignore"):
        relevance = np.where(irrelevance > 0, irrelevance.sum() / irrelevance, np.inf)
    relevance = np.minimum(relevance, 1e30)
    capacity = np.floor(most * nonzero).astype(np.int64)
    return dict(zip(names, share_budget(round(zeta * nonzero.sum()), relevance, capacity), strict=True))


def share_budget(budget: int, relevance: NDArray[np.float64], capacity: NDArray[np.int64]) -> list[int]:
    """Divide a whole number by softmax(relevance - max), none above its capacity.

    The softmax is taken anew over the layers that still have room, with their own maximum: a share that had vanished
    beside a layer of far larger relevance counts once that layer is full.

    Returns:
        Whole numbers that add up to the budget, or to all capacity where that is less.
    """
    given = np.zeros(len(capacity), np.int64)
    left = min(int(budget), int(capacity.sum()))
    while left > 0:
        open_ = np.flatnonzero(given < capacity)
        shares = np.exp(relevance[open_] - relevance[open_].max())
        wanted = left * shares / shares.sum()
        room = capacity[open_] - given[open_]
        over = wanted >= room
        if over.any():
            # The full layers first: what they could not take is in the next turn's share.
            given[open_[over]] += room[over]
            left -= int(room[over].sum())
            continue
        whole = np.floor(wanted).astype(np.int64)
        rest = left - int(whole.sum())
        whole[np.argsort(whole - wanted, kind="stable")[:rest]] += 1
        given[open_] += whole
        left = 0
    return given.tolist()


def prune_smallest(weight: torch.Tensor, count: int) -> torch.Tensor:
    """A copy of the weight with that many of its non-zero entries, the smallest by magnitude, set to zero."""
    flat = weight.detach().clone().flatten()
    if count > 0:
        size = flat.abs()
        size[flat == 0] = torch.inf
        flat[torch.argsort(size, stable=True)[:count]] = 0
    return flat.reshape(weight.shape)


def _weight(model: nn.Module, site: Site) -> torch.Tensor:
    assert site.producer is not None
    weight = model.get_submodule(site.producer).weight
    assert isinstance(weight, torch.Tensor)
    return weight
