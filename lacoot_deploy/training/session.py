"""One training run between two starts of the program: everything built, restored, trained and checkpointed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lacoot_deploy.data import ImageSet, preprocessing_of
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.manifest import CollapseRecord, PreprocessingRecord
from lacoot_deploy.training.blocks import BlockCapture, LocatedBlocks, locate_blocks
from lacoot_deploy.training.checkpoint import CHECKPOINT_NAME, Checkpoint, read_checkpoint, save_checkpoint
from lacoot_deploy.training.data_pipeline import DeviceImages, recipe_images
from lacoot_deploy.training.finish import EXAMPLES
from lacoot_deploy.training.loop import EpochReport, Trainer
from lacoot_deploy.training.methods.layers import Slope
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.weights import load_weights, restore_weights
from lacoot_deploy.userfunctions import check_trust

METRICS_NAME = "metrics.jsonl"
RECIPE_NAME = "recipe.json"


class Progress:
    """What a run reports while it goes on; override what you want to show."""

    def note(self, text: str) -> None:
        """Something worth knowing, in one sentence."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A step of an epoch (both counted from 1) is done."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and checkpointed."""


@dataclass(frozen=True)
class RunData:
    """Training and validation images, and how bytes become inputs."""

    train: ImageSet
    val: ImageSet
    preprocessing: PreprocessingRecord


@dataclass(frozen=True)
class Start:
    """Where a run begins that goes on with a network instead of a fresh one.

    Attributes:
        weights: The network's state.
        preprocessing: How bytes become its inputs, which its own training has settled.
        history: What was cut out of it; the accuracies of the last cut are measured before the first epoch.
    """

    weights: Mapping[str, torch.Tensor]
    preprocessing: PreprocessingRecord
    history: tuple[CollapseRecord, ...]


class Session:
    """From one start of the program to its end."""

    def __init__(
        self, recipe: Recipe, out: Path, accelerator: Accelerator, data: RunData, progress: Progress
    ) -> None:
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.data, self.progress = data, progress
        self.seconds, self.completed = 0.0, 0
        self.history: tuple[CollapseRecord, ...] = ()

    def begin(self, recorded: Checkpoint | None, start: Start | None = None) -> list[EpochReport]:
        """Build everything, restore what was recorded; gives back the figures of the epochs done."""
        if recorded is not None:
            self._go_on_with(recorded.header.preprocessing, recorded.header.history)
        elif start is not None:
            self._go_on_with(start.preprocessing, start.history)
        recipe, accelerator, data = self.recipe, self.accelerator, self.data
        torch.manual_seed(recipe.seed)
        model = build_model(recipe, classes=len(data.train.classes), channels=data.preprocessing.channels)
        if recipe.weights is not None and recorded is None:
            fresh = load_weights(model, Path(recipe.weights))
            if fresh:
                self.progress.note(f"{', '.join(fresh)} start afresh: another number of classes.")
        if start is not None and recorded is None:
            restore_weights(model, start.weights)
        frozen = freeze(model, recipe.freeze)
        found = locate_blocks(model, example_of(data))
        tracked = found.select(recipe.penalty_blocks) if recipe.penalty > 0 else ()
        self._tell(found, len(tracked))
        format_ = torch.channels_last if recipe.channels_last else torch.contiguous_format
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            # On the CPU PyTorch has none: there each process normalises with its own share of the batch.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        model = model.to(accelerator.device, memory_format=format_)  # type: ignore[call-overload]
        self.capture = BlockCapture(tracked)
        if recipe.compile:
            model.compile()
        self.plain = model
        if recorded is not None:
            restore_weights(model, recorded.weights)
        optimizer = make_optimizer(recipe, model)
        prepared, self.optimizer = accelerator.prepare(model, optimizer)
        if recorded is not None:
            self._restore(recorded)
        pipeline = {"device": accelerator.device, "channels_last": recipe.channels_last}
        self.trainer = Trainer(
            recipe,
            accelerator=accelerator,
            model=prepared,
            optimizer=self.optimizer,
            capture=self.capture,
            train=DeviceImages(data.train, data.preprocessing, **pipeline),
            val=DeviceImages(data.val, data.preprocessing, **pipeline),
            frozen=frozen,
            teacher=None if recipe.teacher is None else self._teacher(Path(recipe.teacher), format_),
        )
        if recorded is None and start is not None:
            self._judge_start()
        if recorded is None:
            if accelerator.is_main_process:
                atomic_write_text(self.out / RECIPE_NAME, recipe.model_dump_json(indent=2) + "\n")
            self._save(0)
            return []
        return trim_metrics(self.out / METRICS_NAME, self.completed)

    def train(self, start: int) -> list[EpochReport]:
        """Run the epochs that are left."""
        reports = []
        for epoch in range(start, self.recipe.epochs):
            began = time.perf_counter()
            number = epoch + 1
            report = self.trainer.run_epoch(epoch, lambda i, n, e=number: self.progress.step(e, i, n))  # type: ignore[misc]
            self.seconds += time.perf_counter() - began
            if self.accelerator.is_main_process:
                # Before the checkpoint: a line too many is dropped on resuming, a missing one could not be had back.
                with (self.out / METRICS_NAME).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(report.as_dict()) + "\n")
            if self.history:
                healed = self.history[-1].model_copy(update={"accuracy_healed": report.val_accuracy})
                self.history = (*self.history[:-1], healed)
            self._save(number)
            self.progress.epoch(report)
            reports.append(report)
        self.capture.remove()
        return reports

    def _go_on_with(self, preprocessing: PreprocessingRecord, history: Sequence[CollapseRecord]) -> None:
        self.data = replace(self.data, preprocessing=preprocessing)
        self.history = tuple(history)

    def _teacher(self, path: Path, format_: torch.memory_format) -> nn.Module:
        """The network to learn from, frozen.

        Raises:
            InputError: It cannot be read, or knows other classes or inputs.
        """
        recorded = read_checkpoint(path)
        theirs, data = recorded.header, self.data
        if tuple(theirs.classes) != data.train.classes or theirs.preprocessing != data.preprocessing:
            raise InputError(
                f"The teacher {path} was trained on other classes or differently normalised inputs; the same data, "
                f"size, val_fraction and limit give the same."
            )
        sizes = {"classes": len(theirs.classes), "channels": theirs.channels}
        check_trust(recorded.recipe.model, f"The teacher {path}")
        model = build_model(recorded.recipe, **sizes, edits=recorded.edits)
        restore_weights(model, recorded.weights)
        model.eval().requires_grad_(False)
        return model.to(self.accelerator.device, memory_format=format_)  # type: ignore[call-overload, no-any-return]

    def _judge_start(self) -> None:
        """Measure what the cut network and the teacher are worth before the first epoch."""
        _, after = self.trainer.validate()
        before = None
        if self.trainer.teacher is not None:
            _, before = self.trainer.validate(self.trainer.teacher)
        if self.history:
            measured = {"accuracy_before": before, "accuracy_after": after}
            self.history = (*self.history[:-1], self.history[-1].model_copy(update=measured))
        known = "" if before is None else f", the teacher's {before:.2f} %"
        self.progress.note(f"Before the first epoch the validation accuracy is {after:.2f} %{known}.")

    def _tell(self, found: LocatedBlocks, penalised: int) -> None:
        names = ", ".join(t.name for t in found.tracked) or "none"
        self.progress.note(f"Blocks that a bypass can remove: {names}; penalised: {penalised}.")
        for name, reason in found.missed:
            self.progress.note(f"Block {name} is not penalised: {reason}.")
        if self.recipe.penalty > 0 and not found.tracked:
            raise UsageError(
                f"{self.recipe.model} has no block that a bypass can remove, so there is nothing to penalise; "
                f"train it with penalty=0."
            )

    def _save(self, epoch: int) -> None:
        """Checkpoint the state after that many epochs."""
        if not self.accelerator.is_main_process:
            self.completed = epoch
            return
        save_checkpoint(
            self.out / CHECKPOINT_NAME,
            epoch=epoch,
            recipe=self.recipe,
            classes=self.data.train.classes,
            channels=self.data.preprocessing.channels,
            preprocessing=self.data.preprocessing,
            weights=self.plain.state_dict(),
            optimizer=self.optimizer.state_dict(),
            examples=torch.from_numpy(self.data.val.images[:: max(len(self.data.val) // EXAMPLES, 1)].copy()),
            seconds=self.seconds,
            history=self.history,
            **self._more_to_save(),
        )
        self.completed = epoch

    def _more_to_save(self) -> dict[str, Any]:
        """What another kind of session keeps in its checkpoints."""
        return {}

    @property
    def kept(self) -> str:
        """How far the run is, in words."""
        return f"{self.completed} of {self.recipe.epochs} epochs"

    def _restore(self, recorded: Checkpoint) -> None:
        self.optimizer.load_state_dict(recorded.optimizer)
        self.completed, self.seconds = recorded.header.epoch, recorded.header.seconds
        self.progress.note(f"Resumed after epoch {self.completed} of {self.recipe.epochs}.")


def freeze(model: nn.Module, paths: tuple[str, ...]) -> tuple[nn.Module, ...]:
    """Stop the gradient of the named submodules' parameters; the modules are given back, to be kept in eval mode.

    Raises:
        UsageError: There is no such submodule, or nothing is left to train.
    """
    frozen = []
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise UsageError(f"freeze: the model has no submodule {path!r}.") from None
        module.requires_grad_(False)
        frozen.append(module)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("freeze: no parameter is left to train.")
    return tuple(frozen)


def load_data(recipe: Recipe) -> RunData:
    """The training and validation images of a recipe; test images are not touched."""
    train, val = recipe_images(recipe)
    preprocessing = preprocessing_of(train.images)
    if recipe.size is not None:
        preprocessing = preprocessing.model_copy(update={"size": (recipe.size, recipe.size)})
    return RunData(train, replace(val, classes=train.classes), preprocessing)


def example_of(data: RunData) -> torch.Tensor:
    """A few real inputs, on the CPU."""
    images = DeviceImages(data.val, data.preprocessing, device=torch.device("cpu"))
    example, _ = images.batch(torch.arange(min(4, len(images))))
    return example


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser over everything that learns; the decay of weights does not touch learned slopes."""
    slopes = [p for m in model.modules() if isinstance(m, Slope) for p in m.parameters(recurse=False)]
    chosen = {id(p) for p in slopes}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    parameters: list[Any] = [{"params": weights}] if slopes else weights
    if slopes:
        # Decay draws a slope to 0, which is the activation that the penalty wants to be rid of.
        parameters.append({"params": slopes, "weight_decay": 0.0, "rate": recipe.slope_rate})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def trim_metrics(path: Path, epochs: int) -> list[EpochReport]:
    """Drop lines of epochs that no checkpoint holds, and give back the rest.

    Raises:
        InputError: The file lacks epochs that the checkpoint holds.
    """
    reports: list[EpochReport] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                report = EpochReport(**json.loads(line))
            except (ValueError, TypeError):
                break  # the line that an interruption cut short
            if report.epoch == len(reports) + 1 <= epochs:
                reports.append(report)
    if len(reports) != epochs:
        raise InputError(f"{path} has {len(reports)} whole epochs where the checkpoint has {epochs}.")
    atomic_write_text(path, "".join(json.dumps(report.as_dict()) + "\n" for report in reports))
    return reports
