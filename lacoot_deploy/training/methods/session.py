"""A training run in rounds, resumed from any epoch: the network is built anew for every round, as a restart would."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.manifest import RoundRecord
from lacoot_deploy.training.blocks import BlockCapture
from lacoot_deploy.training.checkpoint import Checkpoint
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.loop import EpochReport, Trainer
from lacoot_deploy.training.methods.base import Change
from lacoot_deploy.training.methods.rounds import Rounds, carry_over
from lacoot_deploy.training.methods.state import MethodState
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.session import (
    METRICS_NAME,
    RECIPE_NAME,
    Session,
    Start,
    example_of,
    freeze,
    make_optimizer,
    trim_metrics,
)
from lacoot_deploy.training.weights import load_weights, restore_weights

ROUNDS_NAME = "rounds.json"


class RoundsSession(Session):
    """From one start of the program to its end, of a method that makes activations linear.

    Nothing that a round decides is saved apart from the network that it leads to: a run resumed after the last epoch
    of a round decides again from the same weights, which gives the same.
    """

    rounds: Rounds

    @property
    def state(self) -> MethodState:
        """How far the rounds are."""
        return self.rounds.state

    @property
    def kept(self) -> str:
        """How far the run is, in words."""
        return f"{self.completed} epochs, {self.state.trained} of them of round {self.state.round}"

    def begin(self, recorded: Checkpoint | None, start: Start | None = None) -> list[EpochReport]:
        """Build everything, restore what was recorded; gives back the figures of the epochs done.

        Raises:
            UsageError: Several processes, or no activation can go.
        """
        recipe, data = self.recipe, self.data
        if self.accelerator.num_processes > 1:
            raise UsageError(
                f"Method {recipe.method} trains in one process; start it without accelerate launch."
            )
        if recorded is not None:
            self._go_on_with(recorded.header.preprocessing, recorded.header.history)
        elif start is not None:
            self._go_on_with(start.preprocessing, start.history)
        data = self.data
        torch.manual_seed(recipe.seed)
        self.sizes: dict[str, Any] = {
            "classes": len(data.train.classes),
            "channels": data.preprocessing.channels,
        }
        dense = build_model(recipe, **self.sizes)
        if recorded is None and recipe.weights is not None:
            load_weights(dense, Path(recipe.weights))
        if recorded is None and start is not None:
            restore_weights(dense, start.weights)
        self.rounds = Rounds(recipe, dense, example_of(data), self.progress.note)
        pipeline: dict[str, Any] = {
            "device": self.accelerator.device,
            "channels_last": recipe.channels_last,
        }
        self.train_images = DeviceImages(data.train, data.preprocessing, **pipeline)
        self.val_images = DeviceImages(data.val, data.preprocessing, **pipeline)
        self.reports: list[EpochReport] = []
        if recorded is None:
            self.state.records.append(RoundRecord(round=0))
            self._prepare(dense.state_dict())
            if start is not None:
                self._judge_start()
            atomic_write_text(self.out / RECIPE_NAME, recipe.model_dump_json(indent=2) + "\n")
            self._save(0)
            return []
        assert recorded.header.rounds is not None
        self.rounds.state, self.rounds.good = recorded.header.rounds, recorded.good
        self._prepare(recorded.weights, recorded.optimizer)
        self.completed, self.seconds = recorded.header.epoch, recorded.header.seconds
        self.progress.note(f"Resumed with {self.kept}.")
        self.reports = trim_metrics(self.out / METRICS_NAME, self.completed)
        return list(self.reports)

    def train(self, start: int) -> list[EpochReport]:
        """Run the rounds that are left and keep the last good network."""
        while self.state.stopped is None:
            self._finish_round()
            began = time.perf_counter()
            if self.rounds.judge(self._accuracy(), self.plain):
                change = self.rounds.change(self._watchable(), self.trainer, self.train_images)
                self.state.stopped = change.finished
            self._tell_round()
            if self.state.stopped is None:
                self._begin_round(change)
            self.seconds += time.perf_counter() - began
        if self.rounds.good:
            self._keep_good()
        return self.reports[start:]

    def _prepare(
        self, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any] | None = None
    ) -> None:
        """The network with all edits and these weights, and what trains it in the present round."""
        accelerator, rounds = self.accelerator, self.rounds
        recipe = rounds.round_recipe()
        format_ = torch.channels_last if recipe.channels_last else torch.contiguous_format
        model = rounds.build(**self.sizes)
        restore_weights(model, weights)
        frozen = freeze(model, recipe.freeze)
        model = model.to(accelerator.device, memory_format=format_)  # type: ignore[call-overload]
        if recipe.compile:
            model.compile()
        accelerator.free_memory()  # of the round before
        self.plain, self.capture = model, BlockCapture(())
        prepared, self.optimizer = accelerator.prepare(model, make_optimizer(recipe, model))
        if optimizer is not None:
            self.optimizer.load_state_dict(optimizer)
        penalty = rounds.method.penalty(model)
        strength = recipe.slope_penalty
        self.trainer = Trainer(
            recipe,
            accelerator=accelerator,
            model=prepared,
            optimizer=self.optimizer,
            capture=self.capture,
            train=self.train_images,
            val=self.val_images,
            frozen=frozen,
            teacher=None if recipe.teacher is None else self._teacher(Path(recipe.teacher), format_),
            extra=None if penalty is None else lambda: strength * penalty(),
            after_step=rounds.method.after_step(model, rounds.sites),
        )

    def _finish_round(self) -> None:
        """Run the epochs that are left of the present round."""
        state, epochs = self.state, self.rounds.round_recipe().epochs
        total = self.completed + epochs - state.trained
        while state.trained < epochs:
            began, number = time.perf_counter(), self.completed + 1
            report = self.trainer.run_epoch(
                state.trained,
                lambda i, n, e=number: self.progress.step(e, i, n),  # type: ignore[misc]
            )
            report = replace(report, epoch=number, epochs=total, round=state.round)
            self.seconds += time.perf_counter() - began
            with (self.out / METRICS_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(report.as_dict()) + "\n")
            if self.history and state.round == 0:
                healed = self.history[-1].model_copy(update={"accuracy_healed": report.val_accuracy})
                self.history = (*self.history[:-1], healed)
            state.trained += 1
            self._save(number)
            self.progress.epoch(report)
            self.reports.append(report)

    def _watchable(self) -> nn.Module:
        """The network just trained, in a form that hooks and changed modules take effect in: not compiled."""
        if not self.recipe.compile:
            plain: nn.Module = self.plain
            return plain
        twin = self.rounds.build(**self.sizes)
        restore_weights(twin, self.plain.state_dict())
        format_ = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        twin.to(self.accelerator.device, memory_format=format_)  # type: ignore[call-overload]
        twin.eval()
        return twin

    def _accuracy(self) -> float:
        """Validation accuracy after the round."""
        if self.reports and self.reports[-1].round == self.state.round and self.state.trained:
            return self.reports[-1].val_accuracy
        return self.trainer.validate()[1]

    def _begin_round(self, change: Change) -> None:
        state = self.state
        state.round += 1
        state.trained = 0
        state.edits = [*state.edits, *change.edits]
        record = RoundRecord(
            round=state.round, removed=list(change.removed), scores=change.scores, details=change.details
        )
        state.records.append(record)
        before = {name: value.cpu() for name, value in self.plain.state_dict().items()}
        fresh = self.rounds.build(**self.sizes)
        carry_over(fresh, before, change)
        self._prepare(fresh.state_dict())
        what = f"{', '.join(change.removed)} linear" if change.removed else "no activation goes yet"
        self.progress.note(f"Round {state.round} of at most {self.rounds.most}: {what}.")

    def _tell_round(self) -> None:
        state, record = self.state, self.state.records[-1]
        atomic_write_text(
            self.out / ROUNDS_NAME,
            json.dumps([r.model_dump(mode="json") for r in state.records], indent=1) + "\n",
        )
        if state.round == 0:
            self.progress.note(f"Dense: validation accuracy {record.val_accuracy:.2f} %.")
        else:
            kept = "kept" if record.accepted else "not kept"
            self.progress.note(
                f"Round {record.round}: validation accuracy {record.val_accuracy:.2f} % "
                f"({-(record.drop or 0):+.2f} points); {kept}."
            )
        if state.stopped is not None:
            self.progress.note(f"Stopped: {state.stopped}.")

    def _keep_good(self) -> None:
        """Make the last good network the run's, and forget the copy of it."""
        state, good = self.state, self.rounds.good
        state.edits = state.edits[: state.good_edits]
        self.rounds.good = {}
        self._prepare(good)
        self._save(self.completed)

    def _more_to_save(self) -> dict[str, Any]:
        return {"rounds": self.state, "good": self.rounds.good}
