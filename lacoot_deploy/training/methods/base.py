"""What a training method is: settings of its own, what it adds to a step, and, in rounds, what changes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.methods.activations import Activations, Site, find_activations
from lacoot_deploy.training.methods.state import Edit
from lacoot_deploy.transport.options import SlicedOptions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class MethodSettings(BaseModel):
    """Settings that a method has beside those of every training; its section of the recipe, `[NAME]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RoundsSettings(MethodSettings):
    """What every method knows that trains in rounds.

    Attributes:
        rounds: Most rounds after the dense training; None for the method's own number (9 for nepenthe and
            layercollapse, as many as there are activations for the others).
        round_epochs: Epochs of each; None for as many as the dense training has.
        round_lr: Peak learning rate of each; None for `lr`.
        only: Activations that may go; empty for all that can.
        move_padding: Move the padding of a convolution to the one before it when the activation between them goes, so
            that they merge exactly.
        merge: Which linear neighbours become one in the exported file: those where it is `cheaper`, `always`, `never`.
    """

    rounds: int | None = Field(default=None, ge=1)
    round_epochs: int | None = Field(default=None, ge=1)
    round_lr: float | None = Field(default=None, gt=0)
    only: tuple[str, ...] = ()
    move_padding: bool = False
    merge: Literal["always", "cheaper", "never"] = "cheaper"


@dataclass(frozen=True)
class Surroundings:
    """What a run gives a method to work with.

    Attributes:
        seed: Of everything that is drawn.
        device: Where the network is trained.
        group: The processes that share a batch; None for one.
        distance: How distances are estimated.
        model: Name of the network, for messages.
        compiled: Whether it is compiled, so that nothing but modules can be watched.
        note: Is told what the reader should know, in sentences.
        images: Gives the training images on the device.
        batch: Images of a step.
    """

    seed: int
    device: torch.device
    group: ProcessGroup | None
    distance: SlicedOptions
    model: str
    compiled: bool
    note: Callable[[str], None]
    images: Callable[[], DeviceImages]
    batch: int


class Companion:
    """What a method adds to the steps of one training; by itself nothing.

    Attributes:
        weight: Factor of `added` in the loss, at the present step.
        distance: Whether what is added is the distance of blocks, which the figures of an epoch name.
    """

    weight: float = 0.0
    distance: ClassVar[bool] = False

    def begin_epoch(self, epoch: int) -> None:
        """An epoch (counted from 0) begins; whatever is drawn in it depends on its number alone."""

    def begin_step(self, done: float, rate: float) -> None:
        """A step begins, at that share of the training and with that learning rate."""

    def watching(self) -> AbstractContextManager[None]:
        """Context of the forward pass of a training step."""
        return nullcontext()

    def added(self) -> torch.Tensor | None:
        """What the loss gets besides after a forward pass, before its weight; None for nothing."""
        return None

    def after_step(self) -> None:
        """The optimiser has made a step."""

    def end(self) -> None:
        """The training of this network is over."""


S = TypeVar("S", bound=MethodSettings)


class Method(ABC, Generic[S]):
    """One way to train: a file in this package and an entry in the registry.

    Attributes:
        settings: Its section of the recipe.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def remember(self) -> dict[str, Any]:
        """What a resumed run has to know besides the network, as plain data; saved with every checkpoint."""
        return {}

    def recall(self, remembered: dict[str, Any]) -> None:
        """Take that over again, before the network is examined."""

    def examine(self, model: nn.Module, example: torch.Tensor, around: Surroundings) -> None:
        """Look at the network that the run begins with, on the CPU.

        Args:
            model: The network before any change.
            example: Real inputs.
            around: What the run gives.

        Raises:
            UsageError: It is nothing for this method.
        """

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameters that the optimiser treats in another way: `params` and its options; `rate` multiplies `lr`."""
        return []

    def accompany(self, model: nn.Module, around: Surroundings) -> Companion:
        """What to add to the training of this network, which is on the device."""
        return Companion()


R = TypeVar("R", bound=RoundsSettings)


@dataclass(frozen=True)
class Situation:
    """A network after a round, and what may be asked about it.

    Attributes:
        model: The network, trained, on the device.
        sites: Its activations that may still go, in the order of the computation.
        train: Training images.
        val_loss: Mean cost of the network, as it is at the call, on validation images.
    """

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


class RoundsMethod(Method[R]):
    """One way to choose activations and to train towards their going, round by round."""

    most_rounds: ClassVar[int | None] = None
    """Rounds where the recipe names no number; None for as many as there are activations."""

    found: Activations
    """All activations of the network."""

    sites: tuple[Site, ...]
    """Those that may become linear."""

    def examine(self, model: nn.Module, example: torch.Tensor, around: Surroundings) -> None:
        """Find the activations that may go, and say what cannot and why.

        Raises:
            UsageError: None can, or one that the recipe names cannot.
        """
        self.found = find_activations(model, example)
        chosen: list[Site] = []
        reasons: dict[str, list[str]] = {}
        name, only = type(self).__name__.lower(), self.settings.only
        for place, reason in self.found.refused:
            reasons.setdefault(reason, []).append(place)
        for site in self.found.select(only):
            why = self.candidate(site)
            if why is None:
                chosen.append(site)
            elif only:
                raise UsageError(f"only: {site.path} is nothing for {name}: {why}.")
            else:
                reasons.setdefault(why, []).append(site.path)
        for reason, places in reasons.items():
            around.note(f"{_few(places)} {'stays' if len(places) == 1 else 'stay'}: {reason}.")
        if not chosen:
            raise UsageError(f"{around.model} has no activation that {name} can make linear.")
        around.note(f"Activations that may become linear: {len(chosen)} ({_few([s.path for s in chosen])}).")
        self.sites = tuple(chosen)

    def candidate(self, site: Site) -> str | None:
        """Why this activation is none for this method; None where it is one."""
        return None

    @abstractmethod
    def propose(self, situation: Situation) -> Change:
        """The next change, or that there is none."""


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


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
