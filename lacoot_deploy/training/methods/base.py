"""What a method is to the loop of rounds: it looks at a trained network and says what changes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.methods.activations import Site
from lacoot_deploy.training.methods.state import Edit, MethodState
from lacoot_deploy.training.recipe import Recipe


@dataclass(frozen=True)
class Situation:
    """A network after a round, and what may be asked about it.

    Attributes:
        recipe: The settings.
        state: The rounds so far.
        model: The network, trained, on the device.
        sites: Its activations that may still go, in the order of the computation.
        train: Training images.
        val_loss: Mean cross-entropy of the network, as it is at the call, on validation images.
    """

    recipe: Recipe
    state: MethodState
    model: nn.Module
    sites: tuple[Site, ...]
    train: DeviceImages
    val_loss: Callable[[], float]


@dataclass(frozen=True)
class Change:
    """What a round does to the network before it trains on.

    Attributes:
        edits: Modules put in place of others.
        tensors: New values of parameters and buffers of the network after the edits, by name.
        removed: Paths of the activations that become linear.
        scores: What the criterion gave every candidate.
        details: For the record.
        finished: Why no change is left to make; None where this is one.
    """

    edits: tuple[Edit, ...] = ()
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    finished: str | None = None


class Method(ABC):
    """One way to choose activations and to train towards their going."""

    most_rounds: int | None = None
    """Rounds where the recipe names no number; None for as many as there are activations."""

    def candidate(self, site: Site, recipe: Recipe) -> str | None:
        """Why this activation is none for this method; None where it is one."""
        return None

    @abstractmethod
    def propose(self, situation: Situation) -> Change:
        """The next change, or that there is none."""

    def penalty(self, model: nn.Module) -> Callable[[], torch.Tensor] | None:
        """What is added to the loss of every step; None for nothing."""
        return None

    def after_step(self, model: nn.Module, sites: tuple[Site, ...]) -> Callable[[], None] | None:
        """What is done to the network after every step; None for nothing."""
        return None


def linear(site: Site) -> Edit:
    """The edit that makes an activation an identity."""
    return Edit(kind="linear", path=site.path)


def gate(site: Site, scale: torch.Tensor, shift: torch.Tensor) -> tuple[Edit, dict[str, torch.Tensor]]:
    """The edit that makes an activation scale * x + shift per channel, and the values that go with it.

    Where every channel passes as it is, an identity does.
    """
    if bool((scale == 1).all()) and not bool(shift.any()):
        return linear(site), {}
    shifted = bool(shift.any())
    edit = Edit(kind="gate", path=site.path, channels=site.channels, axis=site.axis, shifted=shifted)
    tensors = {f"{site.path}.scale": scale.float()}
    if shifted:
        tensors[f"{site.path}.shift"] = shift.float()
    return edit, tensors
