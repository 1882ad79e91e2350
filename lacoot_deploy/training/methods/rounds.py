"""A run in rounds: train, measure, change, train on, and stop before the limit is passed; resumed from any epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.manifest import RoundRecord
from lacoot_deploy.training.checkpoint import Checkpoint
from lacoot_deploy.training.methods.activations import Site
from lacoot_deploy.training.methods.base import Change, RoundsMethod, Situation
from lacoot_deploy.training.methods.padding import move_padding
from lacoot_deploy.training.methods.state import MethodState
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.schedule import Schedule
from lacoot_deploy.training.session import Session, Start
from lacoot_deploy.training.weights import restore_weights

ROUNDS_NAME = "rounds.json"

LINEAR = ("linear", "gate")
"""Kinds of edits after which an activation is none."""

SLACK = 1e-9
"""Points by which rounding may make a drop look larger than the limit that it meets."""


class Rounds(Schedule):
    """The dense training, then rounds of changes; the network is built anew for each, as a restart would.

    Nothing that a round decides is saved apart from the network that it leads to: a run resumed after the last epoch
    of a round decides again from the same weights, which gives the same.
    """

    method: RoundsMethod[Any]

    def __init__(self, session: Session, method: RoundsMethod[Any]) -> None:
        """Begin with round 0."""
        super().__init__(session, method)
        session.state = MethodState()

    @property
    def state(self) -> MethodState:
        """How far the rounds are; it travels in every checkpoint."""
        assert self.session.state is not None
        return self.session.state

    @property
    def kept(self) -> str:
        """Epochs, and those of the present round."""
        return f"{self.session.completed} epochs, {self.state.trained} of them of round {self.state.round}"

    @property
    def most(self) -> int:
        """Rounds at most."""
        return self.method.settings.rounds or self.method.most_rounds or len(self.method.sites)

    @property
    def left(self) -> tuple[Site, ...]:
        """Candidates that are not linear yet."""
        gone = {edit.path for edit in self.state.edits if edit.kind in LINEAR}
        return tuple(site for site in self.method.sites if site.path not in gone)

    def begin(self, recorded: Checkpoint | None, start: Start | None) -> None:
        """Find the activations that may go, and make the network of the present round ready.

        Raises:
            UsageError: Several processes, or no activation can go.
        """
        session = self.session
        if session.accelerator.num_processes > 1:
            raise UsageError(
                f"Method {session.recipe.method} trains in one process; start it without accelerate launch."
            )
        dense = session.first_network(recorded, start)
        self.method.examine(dense, session.data.example(), session.around)
        if recorded is None:
            self.state.records.append(RoundRecord(round=0))
            self._prepare(dense.state_dict())
        else:
            assert recorded.header.rounds is not None
            session.state, session.good = recorded.header.rounds, recorded.good
            self._prepare(recorded.weights, recorded.optimizer)
        session.open(recorded, start)
        if recorded is not None:
            session.progress.note(f"Resumed with {self.kept}.")

    def train(self) -> None:
        """Run the rounds that are left and keep the last good network."""
        session, state = self.session, self.state
        while state.stopped is None:
            epochs = self._round_recipe().epochs
            total = session.completed + epochs - state.trained
            while state.trained < epochs:
                session.run_epoch(state.trained, total)
            began = time.perf_counter()
            if self._judge(self._accuracy()):
                change = self._change()
                state.stopped = change.finished
            self._tell_round()
            if state.stopped is None:
                self._begin_round(change)
            session.seconds += time.perf_counter() - began
        if session.good:
            state.edits = state.edits[: state.good_edits]
            good, session.good = session.good, {}
            self._prepare(good)
            session.save(session.completed)

    def _round_recipe(self) -> Recipe:
        """The settings of the present round's training: shorter, its schedule in proportion, its own random numbers."""
        recipe, settings, number = self.session.recipe, self.method.settings, self.state.round
        if number == 0:
            return recipe
        epochs = settings.round_epochs or recipe.epochs
        share = epochs / recipe.epochs if recipe.epochs else 0.0
        return recipe.model_copy(
            update={
                "epochs": epochs,
                "lr": settings.round_lr or recipe.lr,
                "warmup": recipe.warmup * share,
                "milestones": tuple(milestone * share for milestone in recipe.milestones),
                "seed": recipe.seed + 7919 * number,
            }
        )

    def _prepare(
        self, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any] | None = None
    ) -> None:
        """The network with all edits and these weights, and what trains it in the present round."""
        model = self.session.build(self.state.edits)
        restore_weights(model, weights)
        self.session.prepare(model, self.method, self._round_recipe(), optimizer)

    def _accuracy(self) -> float:
        """Validation accuracy after the round."""
        reports = self.session.reports
        if reports and reports[-1].round == self.state.round and self.state.trained:
            return reports[-1].val_accuracy
        return self.session.trainer.validate()[1]

    def _judge(self, accuracy: float) -> bool:
        """Whether the round just trained stays within the limit; its network is then the one to keep."""
        state, session, limit = self.state, self.session, self.session.recipe.max_drop
        if state.round == 0:
            state.dense_accuracy = accuracy
        assert state.dense_accuracy is not None
        drop = state.dense_accuracy - accuracy
        accepted = drop <= limit + SLACK
        measured = {"epochs": state.trained, "val_accuracy": accuracy, "drop": drop, "accepted": accepted}
        state.records[-1] = state.records[-1].model_copy(update=measured)
        if accepted:
            state.good_edits, state.good_accuracy = len(state.edits), accuracy
            session.good = {name: v.detach().cpu().clone() for name, v in session.plain.state_dict().items()}
        else:
            state.stopped = (
                f"validation fell {drop:.2f} points under the dense network's, more than {limit:g}"
            )
        return accepted

    def _change(self) -> Change:
        """What the method proposes, with the padding that has to move for it."""
        if self.state.round >= self.most:
            return Change(finished=f"{self.most} rounds are done")
        session, model = self.session, self._watchable()
        change = self.method.propose(
            Situation(
                model=model,
                sites=self.left,
                train=session.images[0],
                val_loss=lambda: session.trainer.validate(model)[0],
            )
        )
        if not self.method.settings.move_padding or not change.removed:
            return change
        gone = [edit.path for edit in (*self.state.edits, *change.edits) if edit.kind in LINEAR]
        edits, refused = move_padding(model, self.method.found.sites, gone)
        for sentence in refused:
            session.progress.note(f"{sentence[0].upper()}{sentence[1:]}.")
        moved = {edit.path: list(edit.padding) for edit in edits}
        details = change.details | ({"padding": moved} if moved else {})
        return replace(change, edits=(*change.edits, *edits), details=details)

    def _watchable(self) -> nn.Module:
        """The network just trained, in a form that hooks and changed modules take effect in: not compiled."""
        session = self.session
        if not session.recipe.compile:
            return session.plain
        twin = session.build(self.state.edits)
        restore_weights(twin, session.plain.state_dict())
        return session.to_device(twin).eval()

    def _begin_round(self, change: Change) -> None:
        """Give a network with the new edits the weights it had and the values that the change brings."""
        state = self.state
        state.round += 1
        state.trained = 0
        state.edits = [*state.edits, *change.edits]
        record = RoundRecord(
            round=state.round, removed=list(change.removed), scores=change.scores, details=change.details
        )
        state.records.append(record)
        known = {n: v.cpu() for n, v in self.session.plain.state_dict().items()} | change.tensors
        own = self.session.build(state.edits).state_dict()
        self._prepare({name: known.get(name, value) for name, value in own.items()})
        what = f"{', '.join(change.removed)} linear" if change.removed else "no activation goes yet"
        self.session.progress.note(f"Round {state.round} of at most {self.most}: {what}.")

    def _tell_round(self) -> None:
        state, record, note = self.state, self.state.records[-1], self.session.progress.note
        atomic_write_text(
            self.session.out / ROUNDS_NAME,
            json.dumps([r.model_dump(mode="json") for r in state.records], indent=1) + "\n",
        )
        if state.round == 0:
            note(f"Dense: validation accuracy {record.val_accuracy:.2f} %.")
        else:
            kept = "kept" if record.accepted else "not kept"
            note(
                f"Round {record.round}: validation accuracy {record.val_accuracy:.2f} % "
                f"({-(record.drop or 0):+.2f} points); {kept}."
            )
        if state.stopped is not None:
            note(f"Stopped: {state.stopped}.")
