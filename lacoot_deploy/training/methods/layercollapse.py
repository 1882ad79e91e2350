"""LayerCollapse (2311.17943) and Layer Folding: activations get a slope that a penalty draws to 1, then they go."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lacoot_deploy.training.methods.activations import Site
from lacoot_deploy.training.methods.base import Change, Method, Situation, linear
from lacoot_deploy.training.methods.layers import Slope, slope_penalty
from lacoot_deploy.training.methods.state import Edit
from lacoot_deploy.training.recipe import Recipe


class LayerCollapse(Method):
    """First every candidate gets a slope; then the last one near 1 goes each round, the others learning on."""

    most_rounds = 9

    def candidate(self, site: Site, recipe: Recipe) -> str | None:
        """Between two layers that become one without it."""
        if site.producer is None or site.consumer is None:
            return "not between two layers alone, so that nothing could merge"
        if recipe.slope_layers == "fc" and site.axis != -1:
            return 'between convolutions; slope_layers = "all" takes those too'
        return None

    def propose(self, situation: Situation) -> Change:
        """Slopes for all where there are none yet; else the last activations whose slope is near 1 go."""
        model, recipe = situation.model, situation.recipe
        if not situation.sites:
            return Change(finished="every candidate has collapsed")
        plain = [s for s in situation.sites if not isinstance(model.get_submodule(s.path), Slope)]
        if plain:
            edits = tuple(Edit(kind="slope", path=site.path) for site in plain)
            return Change(edits=edits, details={"slopes": {site.path: 0.0 for site in plain}})
        slopes = {site.path: float(_slope(model, site).weight.detach()) for site in situation.sites}
        near = [s for s in reversed(situation.sites) if abs(slopes[s.path] - 1) < recipe.slope_tolerance]
        chosen = near[: recipe.per_round]
        return Change(
            edits=tuple(linear(site) for site in chosen),
            removed=tuple(site.path for site in chosen),
            scores={path: abs(1 - slope) for path, slope in slopes.items()},
            details={"slopes": slopes},
        )

    def penalty(self, model: nn.Module) -> Callable[[], torch.Tensor] | None:
        """The sum over slopes of (1 - alpha)^2."""
        slopes = [module for module in model.modules() if isinstance(module, Slope)]
        return (lambda: slope_penalty(slopes)) if slopes else None


def _slope(model: nn.Module, site: Site) -> Slope:
    module = model.get_submodule(site.path)
    assert isinstance(module, Slope)
    return module
