"""TLC (2412.15077): batch normalisation says which channels of an activation are on; the cheapest collapse goes."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from lacoot_deploy.training.methods.activations import Site
from lacoot_deploy.training.methods.base import Change, RoundsMethod, RoundsSettings, Situation, gate
from lacoot_deploy.training.methods.edits import apply_edits, replace_module
from lacoot_deploy.training.methods.statistics import Moments, measure_moments


class TlcSettings(RoundsSettings):
    """TLC's.

    Attributes:
        per_round: Activations that one round makes linear.
    """

    per_round: int = Field(default=1, ge=1)


class Tlc(RoundsMethod[TlcSettings]):
    """Try the collapse of every activation, make the one that costs least validation loss, train again."""

    def candidate(self, site: Site) -> str | None:
        """Behind an addition beta is that of one summand alone."""
        if site.after_add:
            return "behind an addition, so that no batch normalisation tells the mean"
        return None

    def propose(self, situation: Situation) -> Change:
        """The collapse that raises the validation loss least."""
        if not situation.sites:
            return Change(finished="every activation whose input's distribution is known is linear")
        model = situation.model
        moments = site_moments(situation)
        before = situation.val_loss()
        gates = {s.path: gate(s, *collapse_gate(moments[s.path], s.upper)) for s in situation.sites}
        losses = {}
        for site in situation.sites:
            edit, values = gates[site.path]
            activation = model.get_submodule(site.path)
            apply_edits(model, [edit])
            stand_in = model.get_submodule(site.path).to(situation.train.device)
            stand_in.load_state_dict({k.removeprefix(f"{site.path}."): v for k, v in values.items()})
            try:
                losses[site.path] = situation.val_loss()
            finally:
                replace_module(model, site.path, activation)
        ranked = sorted(situation.sites, key=lambda site: losses[site.path])
        chosen = ranked[: self.settings.per_round]
        tensors: dict[str, torch.Tensor] = {}
        for site in chosen:
            tensors |= gates[site.path][1]
        return Change(
            edits=tuple(gates[site.path][0] for site in chosen),
            tensors=tensors,
            removed=tuple(site.path for site in chosen),
            scores={path: loss - before for path, loss in losses.items()},
            details={
                "p_off": {s.path: float(p_off(moments[s.path]).mean()) for s in situation.sites},
                "silenced": {s.path: int((moments[s.path].mean <= 0).sum()) for s in chosen},
                "from": {s.path: "batch norm" if _normed(model, s) else "measured" for s in chosen},
            },
        )


def site_moments(situation: Situation) -> dict[str, Moments]:
    """The beta and |gamma| of the batch normalisation before each activation; measured where there is none."""
    model = situation.model
    measured = [site for site in situation.sites if not _normed(model, site)]
    found = measure_moments(model, measured, situation.train) if measured else {}
    for site in situation.sites:
        if site.path not in found:
            assert site.norm is not None
            norm = model.get_submodule(site.norm)
            beta, gamma = (getattr(norm, name).detach().double() for name in ("bias", "weight"))
            found[site.path] = Moments(beta, gamma.abs())
    return found


def p_off(moments: Moments) -> torch.Tensor:
    """P(OFF) = Phi(-beta / |gamma|) per channel, float64; 0 or 1 where a channel never varies."""
    ratio = torch.where(moments.std > 0, -moments.mean / moments.std, -torch.sign(moments.mean) * torch.inf)
    ratio = torch.where((moments.std == 0) & (moments.mean == 0), torch.inf, ratio)
    share: torch.Tensor = torch.special.ndtr(ratio)
    return share


def collapse_gate(moments: Moments, upper: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift per channel: a channel that is mostly on passes, one that is mostly off gives nothing.

    A channel mostly beyond the upper clip of a ReLU6 is constant there and stays so: scale 0, shift 6.
    """
    on = moments.mean > 0
    beyond = torch.zeros_like(on) if upper is None else moments.mean >= upper
    scale = (on & ~beyond).double()
    shift = beyond.double() * (upper or 0.0)
    return scale, shift


def _normed(model: nn.Module, site: Site) -> bool:
    """Whether a batch normalisation with beta and gamma stands before it."""
    return site.norm is not None and getattr(model.get_submodule(site.norm), "weight", None) is not None
