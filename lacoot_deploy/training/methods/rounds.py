"""The loop around every such method: train, measure, change, train on, and stop before the limit is passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.loop import Trainer
from lacoot_deploy.training.methods.activations import Activations, Site, find_activations
from lacoot_deploy.training.methods.base import Change, Method, Situation
from lacoot_deploy.training.methods.easier import Easier
from lacoot_deploy.training.methods.layercollapse import LayerCollapse
from lacoot_deploy.training.methods.nepenthe import Nepenthe
from lacoot_deploy.training.methods.padding import move_padding
from lacoot_deploy.training.methods.state import MethodState
from lacoot_deploy.training.methods.tlc import Tlc
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.weights import restore_weights

METHODS: Mapping[str, type[Method]] = {
    "easier": Easier,
    "nepenthe": Nepenthe,
    "tlc": Tlc,
    "layercollapse": LayerCollapse,
}
"""The methods by the name that a recipe gives them."""

LINEAR = ("linear", "gate")
"""Kinds of edits after which an activation is none."""

SLACK = 1e-9
"""Points by which rounding may make a drop look larger than the limit that it meets."""


class Rounds:
    """The rounds of one run, between the network that is made ready and the one that is kept."""

    def __init__(
        self,
        recipe: Recipe,
        dense: nn.Module,
        example: torch.Tensor,
        note: Callable[[str], None],
    ) -> None:
        """Find the activations that may go.

        Args:
            recipe: The settings.
            dense: The network before any change, on the CPU.
            example: Real inputs.
            note: Is told what cannot go and why.

        Raises:
            UsageError: None can, or one that the recipe names.
        """
        self.recipe, self.note = recipe, note
        self.method: Method = METHODS[recipe.method]()
        self.found: Activations = find_activations(dense, example)
        self.sites = self._candidates()
        self.state = MethodState()
        self.good: dict[str, torch.Tensor] = {}

    def _candidates(self) -> tuple[Site, ...]:
        chosen, reasons = [], list(self.found.refused)
        for site in self.found.select(self.recipe.only):
            reason = self.method.candidate(site, self.recipe)
            if reason is None:
                chosen.append(site)
            elif self.recipe.only:
                raise UsageError(f"only: {site.path} is nothing for {self.recipe.method}: {reason}.")
            else:
                reasons.append((site.path, reason))
        by_reason: dict[str, list[str]] = {}
        for place, reason in reasons:
            by_reason.setdefault(reason, []).append(place)
        for reason, places in by_reason.items():
            self.note(
                f"{', '.join(places)} stays: {reason}."
                if len(places) == 1
                else f"{_few(places)} stay: {reason}."
            )
        if not chosen:
            raise UsageError(
                f"{self.recipe.model} has no activation that {self.recipe.method} can make linear."
            )
        self.note(f"Activations that may become linear: {len(chosen)} ({_few([s.path for s in chosen])}).")
        return tuple(chosen)

    @property
    def most(self) -> int:
        """Rounds at most."""
        if self.recipe.rounds is not None:
            return self.recipe.rounds
        return self.method.most_rounds or len(self.sites)

    @property
    def left(self) -> tuple[Site, ...]:
        """Candidates that are not linear yet."""
        gone = {edit.path for edit in self.state.edits if edit.kind in LINEAR}
        return tuple(site for site in self.sites if site.path not in gone)

    def round_recipe(self) -> Recipe:
        """The settings of the present round's training: shorter, its schedule in proportion, its own random numbers."""
        recipe, number = self.recipe, self.state.round
        if number == 0:
            return recipe
        epochs = recipe.round_epochs or recipe.epochs
        share = epochs / recipe.epochs if recipe.epochs else 0.0
        return recipe.model_copy(
            update={
                "epochs": epochs,
                "lr": recipe.round_lr or recipe.lr,
                "warmup": recipe.warmup * share,
                "milestones": tuple(milestone * share for milestone in recipe.milestones),
                "seed": recipe.seed + 7919 * number,
            }
        )

    def build(self, *, classes: int, channels: int) -> nn.Module:
        """The network with every change made so far, its weights those of a fresh one."""
        return build_model(self.recipe, classes=classes, channels=channels, edits=self.state.edits)

    def judge(self, accuracy: float, model: nn.Module) -> bool:
        """Whether the round just trained stays within the limit; its network is then the one to keep."""
        state = self.state
        if state.round == 0:
            state.dense_accuracy = accuracy
            drop, accepted = 0.0, True
        else:
            assert state.dense_accuracy is not None
            drop = state.dense_accuracy - accuracy
            accepted = drop <= self.recipe.max_drop + SLACK
        measured = {"epochs": state.trained, "val_accuracy": accuracy, "drop": drop, "accepted": accepted}
        state.records[-1] = state.records[-1].model_copy(update=measured)
        if accepted:
            state.good_edits, state.good_accuracy = len(state.edits), accuracy
            self.good = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        else:
            limit = self.recipe.max_drop
            state.stopped = (
                f"validation fell {drop:.2f} points under the dense network's, more than {limit:g}"
            )
        return accepted

    def change(self, model: nn.Module, trainer: Trainer, train: DeviceImages) -> Change:
        """What the method proposes, with the padding that has to move for it."""
        state = self.state
        if state.round >= self.most:
            return Change(finished=f"{self.most} rounds are done")
        situation = Situation(
            recipe=self.recipe,
            state=state,
            model=model,
            sites=self.left,
            train=train,
            val_loss=lambda: trainer.validate(model)[0],
        )
        change = self.method.propose(situation)
        if not self.recipe.move_padding or not change.removed:
            return change
        gone = [edit.path for edit in (*state.edits, *change.edits) if edit.kind in LINEAR]
        edits, refused = move_padding(model, self.found.sites, gone)
        for sentence in refused:
            self.note(f"{sentence[0].upper()}{sentence[1:]}.")
        moved = {edit.path: list(edit.padding) for edit in edits}
        details = change.details | ({"padding": moved} if moved else {})
        return replace(change, edits=(*change.edits, *edits), details=details)


def carry_over(fresh: nn.Module, before: Mapping[str, torch.Tensor], change: Change) -> None:
    """Give a network with new edits the weights it had, and the values that the change brings."""
    own = fresh.state_dict()
    state = {name: before.get(name, value) for name, value in own.items()}
    restore_weights(fresh, state | {name: value for name, value in change.tensors.items() if name in own})


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
