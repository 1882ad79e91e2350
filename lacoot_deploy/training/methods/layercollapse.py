"""LayerCollapse (2311.17943) and Layer Folding: activations get a slope that a penalty draws to 1, then they go."""

from __future__ import annotations

from typing import Any, Literal

import torch
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
    linear,
)
from lacoot_deploy.training.methods.layers import Slope, slope_penalty
from lacoot_deploy.training.methods.state import Edit


class LayerCollapseSettings(RoundsSettings):
    """LayerCollapse's.

    Attributes:
        per_round: Activations that one round makes linear.
        slope_penalty: Weight of the sum of (1 - slope)^2.
        slope_rate: Factor on the learning rate of slopes, which AdamW moves by no more than the rate in a step.
        slope_tolerance: An activation goes when its slope is nearer to 1 than this.
        slope_layers: Activations that get a slope: those between linear layers (`fc`), or between convolutions too
            (`all`, as in Layer Folding).
    """

    per_round: int = Field(default=1, ge=1)
    slope_penalty: float = Field(default=0.1, gt=0)
    slope_rate: float = Field(default=1.0, gt=0)
    slope_tolerance: float = Field(default=0.05, gt=0, lt=1)
    slope_layers: Literal["fc", "all"] = "fc"


class LayerCollapse(RoundsMethod[LayerCollapseSettings]):
    """First every candidate gets a slope; then the last one near 1 goes each round, the others learning on."""

    most_rounds = 9

    def candidate(self, site: Site) -> str | None:
        """Between two layers that become one without it."""
        if site.producer is None or site.consumer is None:
            return "not between two layers alone, so that nothing could merge"
        if self.settings.slope_layers == "fc" and site.axis != -1:
            return 'between convolutions; slope_layers = "all" takes those too'
        return None

    def propose(self, situation: Situation) -> Change:
        """Slopes for all where there are none yet; else the last activations whose slope is near 1 go."""
        model = situation.model
        if not situation.sites:
            return Change(finished="every candidate has collapsed")
        plain = [s for s in situation.sites if not isinstance(model.get_submodule(s.path), Slope)]
        if plain:
            edits = tuple(Edit(kind="slope", path=site.path) for site in plain)
            return Change(edits=edits, details={"slopes": {site.path: 0.0 for site in plain}})
        slopes = {site.path: float(_slope(model, site).weight.detach()) for site in situation.sites}
        near = [
            s for s in reversed(situation.sites) if abs(slopes[s.path] - 1) < self.settings.slope_tolerance
        ]
        chosen = near[: self.settings.per_round]
        return Change(
            edits=tuple(linear(site) for site in chosen),
            removed=tuple(site.path for site in chosen),
            scores={path: abs(1 - slope) for path, slope in slopes.items()},
            details={"slopes": slopes},
        )

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The slopes: decay would draw them to 0, which is the activation that the penalty wants to be rid of."""
        slopes = [p for m in model.modules() if isinstance(m, Slope) for p in m.parameters(recurse=False)]
        return [{"params": slopes, "weight_decay": 0.0, "rate": self.settings.slope_rate}] if slopes else []

    def accompany(self, model: nn.Module, around: Surroundings) -> Companion:
        """The penalty on the slopes that there are."""
        slopes = [module for module in model.modules() if isinstance(module, Slope)]
        return SlopePenalty(slopes, self.settings.slope_penalty) if slopes else Companion()


class SlopePenalty(Companion):
    """The sum over slopes of (1 - alpha)^2."""

    def __init__(self, slopes: list[Slope], weight: float) -> None:
        """Take the slopes over."""
        self.slopes, self.weight = slopes, weight

    def added(self) -> torch.Tensor:
        """That sum, from the parameters alone."""
        return slope_penalty(self.slopes)


def _slope(model: nn.Module, site: Site) -> Slope:
    module = model.get_submodule(site.path)
    assert isinstance(module, Slope)
    return module
