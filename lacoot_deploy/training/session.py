"""One training run between two starts of the program: networks built, restored, trained epoch by epoch, and saved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.manifest import CollapseRecord, PreprocessingRecord
from lacoot_deploy.training.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    CheckpointHeader,
    read_checkpoint,
    save_checkpoint,
)
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.export import evaluating
from lacoot_deploy.training.loop import EpochReport, Learner, Trainer
from lacoot_deploy.training.methods.base import Method, Surroundings
from lacoot_deploy.training.methods.state import Edit, MethodState
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run_data import RunData
from lacoot_deploy.training.tempo import Tempo
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
    """From one start of the program to its end: what every schedule builds, trains and saves with.

    Attributes:
        reports: The figures of the epochs done.
        completed: Their number.
        seconds: Training time over all starts of the run.
        state: How far a schedule of rounds is, saved with every checkpoint; None for a schedule without.
        good: The network that such a schedule would keep, likewise.
        method: How is trained.
        plain: The network that is trained, on the device, as no accelerator has wrapped it.
        trainer: What trains it.
    """

    def __init__(
        self, recipe: Recipe, out: Path, accelerator: Accelerator, data: RunData, progress: Progress
    ) -> None:
        """Take the parts over; nothing is built yet."""
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.data, self.progress = data, progress
        self.seconds, self.completed = 0.0, 0
        self.history: tuple[CollapseRecord, ...] = ()
        self.reports: list[EpochReport] = []
        self.state: MethodState | None = None
        self.good: dict[str, torch.Tensor] = {}
        self.method: Method[Any]
        self.plain: nn.Module
        self.trainer: Trainer
        self._teacher: nn.Module | None = None
        self._images: tuple[DeviceImages, DeviceImages] | None = None
        alone = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self.tempo = Tempo(recipe.threads, progress.note) if alone else Tempo(None, progress.note, limit=1)

    @property
    def around(self) -> Surroundings:
        """What the run gives its method."""
        accelerator = self.accelerator
        group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
        return Surroundings(
            seed=self.recipe.seed,
            device=accelerator.device,
            group=group,
            distance=self.recipe.distance,
            model=self.recipe.model,
            compiled=self.recipe.compile,
            note=self.progress.note,
            images=lambda: self.images[0],
            batch=self.recipe.batch_size,
        )

    @property
    def images(self) -> tuple[DeviceImages, DeviceImages]:
        """Training and validation images on the device."""
        if self._images is None:
            data, device = self.data, self.accelerator.device
            options: dict[str, Any] = {"device": device, "channels_last": self.recipe.channels_last}
            train, val = (
                DeviceImages(part, data.preprocessing, **options) for part in (data.train, data.val)
            )
            self._images = train, val
        return self._images

    def first_network(self, recorded: Checkpoint | None, start: Start | None) -> nn.Module:
        """The network that the run begins with, on the CPU: fresh, or with the weights that are given.

        Args:
            recorded: What the run is resumed from; its weights are restored later.
            start: What it goes on with instead of a fresh network.
        """
        given = start if recorded is None else recorded.header
        if given is not None:
            self.data = replace(self.data, preprocessing=given.preprocessing)
            self.history = tuple(given.history)
        torch.manual_seed(self.recipe.seed)
        model = self.build()
        if recorded is None and self.recipe.weights is not None:
            fresh = load_weights(model, Path(self.recipe.weights))
            if fresh:
                self.progress.note(f"{', '.join(fresh)} start afresh: another number of classes.")
        if recorded is None and start is not None:
            restore_weights(model, start.weights)
        self._check_answer(model)
        return model

    def _check_answer(self, model: nn.Module) -> None:
        """Refuse a network that does not answer with one row of class scores per image."""
        with evaluating(model), torch.no_grad():
            answer = model(self.data.example())
        classes = len(self.data.train.classes)
        if not isinstance(answer, torch.Tensor):
            raise InputError(
                f"{self.recipe.model} gives a {type(answer).__name__}, not one tensor of class scores; let its forward "
                f"return the scores alone."
            )
        if answer.dim() != 2 or answer.shape[1] < classes:
            raise InputError(
                f"{self.recipe.model} gives {list(answer.shape)} for {len(self.data.example())} images of {classes} "
                f"classes; one row of a score for each class is expected."
            )

    def build(self, edits: Sequence[Edit] = ()) -> nn.Module:
        """The network of the recipe with fresh weights and those edits, on the CPU."""
        return build_model(self.recipe, **self.data.sizes, edits=edits)

    def prepare(
        self,
        model: nn.Module,
        method: Method[Any],
        recipe: Recipe,
        optimizer: Mapping[str, Any] | None = None,
    ) -> None:
        """Make ready what trains a network.

        Args:
            model: The network, on the CPU.
            method: Adds what it has to every step.
            recipe: The settings of this part of the training.
            optimizer: State of the optimiser to go on with.
        """
        accelerator = self.accelerator
        frozen = freeze(model, recipe.freeze)
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            # On the CPU PyTorch has none: there each process normalises with its own share of the batch.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.method = method
        self.plain = model = self.to_device(model)
        companion = method.accompany(model, self.around)
        if recipe.compile:
            model.compile()
        accelerator.free_memory()  # of the part before
        groups = method.parameter_groups(model)
        prepared, self.optimizer = accelerator.prepare(model, make_optimizer(recipe, model, groups))
        if optimizer is not None:
            self.optimizer.load_state_dict(optimizer)
        learner = Learner(prepared, self.optimizer, frozen, self._learned_from(), companion)
        self.trainer = Trainer(recipe, accelerator, learner, *self.images)

    def to_device(self, model: nn.Module) -> nn.Module:
        """The network on the device, in the memory format of the recipe."""
        format_ = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return model.to(self.accelerator.device, memory_format=format_)  # type: ignore[call-overload, no-any-return]

    def open(self, recorded: Checkpoint | None, start: Start | None) -> None:
        """Restore what was recorded, or write down how a new run begins."""
        self.tempo.begin(None if recorded is None else recorded.header.threads, self._trial_step)
        if recorded is not None:
            self.completed, self.seconds = recorded.header.epoch, recorded.header.seconds
            self.reports = trim_metrics(self.out / METRICS_NAME, self.completed)
            return
        if start is not None:
            self._judge_start()
        if self.accelerator.is_main_process:
            atomic_write_text(self.out / RECIPE_NAME, self.recipe.model_dump_json(indent=2) + "\n")
        self.save(0)

    def run_epoch(self, epoch: int, epochs: int) -> EpochReport:
        """Train an epoch, note its figures and save.

        Args:
            epoch: Its number within the present part of the training, from 0.
            epochs: Epochs of the whole run as far as it is known.
        """
        began, number = time.perf_counter(), self.completed + 1
        report = self.trainer.run_epoch(epoch, lambda i, n: self.progress.step(number, i, n))
        turn = 0 if self.state is None else self.state.round
        report = replace(report, epoch=number, epochs=epochs, round=turn)
        self.seconds += time.perf_counter() - began
        if self.accelerator.is_main_process:
            # Before the checkpoint: a line too many is dropped on resuming, a missing one could not be had back.
            with (self.out / METRICS_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(report.as_dict()) + "\n")
        if self.history and turn == 0:
            healed = self.history[-1].model_copy(update={"accuracy_healed": report.val_accuracy})
            self.history = (*self.history[:-1], healed)
        if self.state is not None:
            self.state.trained += 1
        self.save(number)
        self.progress.epoch(report)
        self.reports.append(report)
        self.tempo.look(report.seconds / self.trainer.steps_per_epoch, self._trial_step)
        return report

    def save(self, epoch: int) -> None:
        """Checkpoint the state after that many epochs."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.out / CHECKPOINT_NAME, self._checkpoint(epoch))
        self.completed = epoch

    def _checkpoint(self, epoch: int) -> Checkpoint:
        header = CheckpointHeader(
            epoch=epoch,
            recipe=self.recipe.model_dump(mode="json"),
            classes=list(self.data.train.classes),
            channels=self.data.preprocessing.channels,
            preprocessing=self.data.preprocessing,
            seconds=self.seconds,
            history=list(self.history),
            rounds=self.state,
            threads=self.tempo.chosen,
            method=self.method.remember(),
        )
        weights, optimizer = self.plain.state_dict(), self.optimizer.state_dict()
        return Checkpoint(header, weights, optimizer, self.data.examples, self.good)

    def _trial_step(self) -> Callable[[], None]:
        """A step on a network of its own that leaves the run's as it is: what numbers of threads are tried on."""
        model = self.to_device(self.build(() if self.state is None else self.state.edits)).train()
        images, labels = self.images[0].batch(torch.arange(min(self.recipe.batch_size, len(self.images[0]))))

        def step() -> None:
            model.zero_grad()
            with self.accelerator.autocast():
                logits = model(images)
            nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

        return step

    def _learned_from(self) -> nn.Module | None:
        """The network to learn from, frozen; None where the recipe names none.

        Raises:
            InputError: It cannot be read, or knows other classes or inputs.
        """
        if self.recipe.teacher is None or self._teacher is not None:
            return self._teacher
        path = Path(self.recipe.teacher)
        recorded = read_checkpoint(path)
        theirs, data = recorded.header, self.data
        if tuple(theirs.classes) != data.train.classes or theirs.preprocessing != data.preprocessing:
            raise InputError(
                f"The teacher {path} was trained on other classes or differently normalised inputs; the same data, "
                f"size, val_fraction and limit give the same."
            )
        check_trust(recorded.recipe.model, f"The teacher {path}")
        model = build_model(recorded.recipe, **data.sizes, edits=recorded.edits)
        restore_weights(model, recorded.weights)
        self._teacher = self.to_device(model.eval().requires_grad_(False))
        return self._teacher

    def _judge_start(self) -> None:
        """Measure what the cut network and the teacher are worth before the first epoch."""
        _, after = self.trainer.validate()
        before = None if self._teacher is None else self.trainer.validate(self._teacher)[1]
        if self.history:
            measured = {"accuracy_before": before, "accuracy_after": after}
            self.history = (*self.history[:-1], self.history[-1].model_copy(update=measured))
        known = "" if before is None else f", the teacher's {before:.2f} %"
        self.progress.note(f"Before the first epoch the validation accuracy is {after:.2f} %{known}.")


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


def make_optimizer(
    recipe: Recipe, model: nn.Module, groups: Sequence[dict[str, Any]] = ()
) -> torch.optim.Optimizer:
    """The recipe's optimiser over everything that learns, parameters of the groups with their own options."""
    chosen = {id(p) for group in groups for p in group["params"]}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    parameters: list[Any] = [{"params": weights}, *groups] if groups else weights
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
