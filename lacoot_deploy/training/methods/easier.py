"""EASIER (2404.18949): the activation whose neurons' signs are the most certain becomes linear."""

from __future__ import annotations

from pydantic import Field

from lacoot_deploy.training.methods.base import Change, RoundsMethod, RoundsSettings, Situation, linear
from lacoot_deploy.training.methods.statistics import count_signs


class EasierSettings(RoundsSettings):
    """EASIER's.

    Attributes:
        per_round: Activations that one round makes linear.
    """

    per_round: int = Field(default=1, ge=1)


class Easier(RoundsMethod[EasierSettings]):
    """Train, measure the entropy of every activation on the training set, make the lowest linear, train again."""

    def propose(self, situation: Situation) -> Change:
        """The activations of lowest entropy, as many as a round takes."""
        if not situation.sites:
            return Change(finished="every activation is linear")
        counts = count_signs(situation.model, situation.sites, situation.train)
        scores = {path: held.entropy for path, held in counts.items()}
        # A stable sort: of equals the first in the computation goes.
        ranked = sorted(situation.sites, key=lambda site: scores[site.path])
        chosen = ranked[: self.settings.per_round]
        return Change(
            edits=tuple(linear(site) for site in chosen),
            removed=tuple(site.path for site in chosen),
            scores=scores,
        )
