"""A whole training run in a folder: started, interrupted, resumed, measured and exported."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from lacoot_deploy.data import ImageSet, load_images, preprocessing_of
from lacoot_deploy.errors import InputError, ProviderError, UsageError
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.graph.io import load_model
from lacoot_deploy.manifest import Manifest, PreprocessingRecord, read_manifest
from lacoot_deploy.training.blocks import BlockCapture, LocatedBlocks, locate_blocks
from lacoot_deploy.training.checkpoint import CHECKPOINT_NAME, Checkpoint, read_checkpoint, save_checkpoint
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.finish import EXAMPLES, finish_run
from lacoot_deploy.training.loop import EpochReport, Trainer
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.weights import load_weights

METRICS_NAME = "metrics.jsonl"
RECIPE_NAME = "recipe.json"
MODEL_NAME = "model.onnx"

# On which device a run goes on is no part of what it computes.
RESUMABLE_WITH_OTHER = frozenset({"device"})


class Progress:
    """What a run reports while it goes on; override what you want to show."""

    def note(self, text: str) -> None:
        """Something worth knowing, in one sentence."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A step of an epoch (both counted from 1) is done."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and checkpointed."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run left.

    Attributes:
        folder: The run folder.
        model: The exported ONNX file in it, manifest and all but the recommended plan.
        checkpoint: The weights of the last epoch (no early stopping: last is what the schedule is made for).
        manifest: What was written into the model.
        epochs: The figures of every epoch.
        seconds: Training time over all sessions, validation included.
        device: The device it ran on, in words.
        main: Whether this is the process that writes; with several, the others have nothing left to do.
    """

    folder: Path
    model: Path
    checkpoint: Path
    manifest: Manifest
    epochs: tuple[EpochReport, ...]
    seconds: float
    device: str
    main: bool = True


@dataclass(frozen=True)
class _Data:
    train: ImageSet
    val: ImageSet
    preprocessing: PreprocessingRecord


def train(
    recipe: Recipe, out: Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainResult:
    """Train by a recipe into a run folder: `checkpoint.safetensors`, `metrics.jsonl`, `recipe.json`, `model.onnx`.

    Each epoch ends with a checkpoint, so an interrupted run goes on from its last whole epoch; on the CPU it ends
    with the very weights of a run that was not interrupted. Test data is not touched.

    Args:
        recipe: The settings.
        out: The run folder; made if missing.
        resume: Go on with the run in the folder.
        progress: Is told about epochs and notes.

    Raises:
        UsageError: The folder holds a run and `resume` is false; or the recipe is not the one it was begun with.
        InputError: Data or weights are not usable, or the folder cannot be written.
        ProviderError: CUDA is asked for and not there.
        VerificationError: The training diverged, or the export differs from PyTorch.
        KeyboardInterrupt: As it came, with a message that says how to resume.
    """
    began_group = not torch.distributed.is_initialized()
    accelerator = _accelerator(recipe)
    main, device = accelerator.is_main_process, accelerator.device
    progress = (progress or Progress()) if main else Progress()
    recorded = _open_folder(recipe, out, resume) if main else None
    accelerator.wait_for_everyone()
    if not main and resume:
        recorded = read_checkpoint(out)
    together = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    progress.note(f"Training on {describe_device(device)}{together} in {recipe.precision}.")
    try:
        data = _load(recipe)
        session = _Session(recipe, out, accelerator, data, progress)
        reports = session.begin(recorded)
    except BaseException:
        # Nothing was begun: an empty folder should not look as if something had been. Others' files stay.
        with contextlib.suppress(OSError):
            out.rmdir()
        raise
    try:
        reports += session.train(len(reports))
        if main:
            finish_run(
                out / CHECKPOINT_NAME, out / MODEL_NAME, val=data.val, device=device, note=progress.note
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted; {out} keeps {session.completed} of {recipe.epochs} epochs. "
            f"Run the same command with --resume to go on."
        ) from None
    accelerator.wait_for_everyone()
    if began_group and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return TrainResult(
        folder=out,
        model=out / MODEL_NAME,
        checkpoint=out / CHECKPOINT_NAME,
        manifest=_manifest_of(out / MODEL_NAME),
        epochs=tuple(reports),
        seconds=session.seconds,
        device=describe_device(device),
        main=main,
    )


def describe_device(device: torch.device) -> str:
    """The device in words: the GPU's name, or the CPU and its threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    return f"the CPU ({torch.get_num_threads()} threads)"


class _Session:
    """From one start of the program to its end."""

    def __init__(
        self, recipe: Recipe, out: Path, accelerator: Accelerator, data: _Data, progress: Progress
    ) -> None:
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.data, self.progress = data, progress
        self.seconds, self.completed = 0.0, 0

    def begin(self, recorded: Checkpoint | None) -> list[EpochReport]:
        """Build everything, restore what was recorded; gives back the figures of the epochs done."""
        recipe, accelerator, data = self.recipe, self.accelerator, self.data
        torch.manual_seed(recipe.seed)
        model = build_model(recipe, classes=len(data.train.classes), channels=data.preprocessing.channels)
        if recipe.weights is not None:
            fresh = load_weights(model, Path(recipe.weights))
            if fresh:
                self.progress.note(f"{', '.join(fresh)} start afresh: another number of classes.")
        frozen = freeze(model, recipe.freeze)
        found = _find_blocks(model, recipe, data)
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
            model.load_state_dict(recorded.weights)
        optimizer = _optimizer(recipe, model)
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
        )
        if recorded is None:
            if accelerator.is_main_process:
                atomic_write_text(self.out / RECIPE_NAME, recipe.model_dump_json(indent=2) + "\n")
            self._save(0)
            return []
        return _trim_metrics(self.out / METRICS_NAME, self.completed)

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
            self._save(number)
            self.progress.epoch(report)
            reports.append(report)
        self.capture.remove()
        return reports

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
        )
        self.completed = epoch

    def _restore(self, recorded: Checkpoint) -> None:
        self.optimizer.load_state_dict(recorded.optimizer)
        self.completed, self.seconds = recorded.header.epoch, recorded.header.seconds
        self.progress.note(f"Resumed after epoch {self.completed} of {self.recipe.epochs}.")


def _manifest_of(path: Path) -> Manifest:
    manifest = read_manifest(load_model(path), path=path)
    if manifest is None:
        raise InputError(f"{path} lost its manifest; resume the run to export it again.")
    return manifest


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


def _open_folder(recipe: Recipe, out: Path, resume: bool) -> Checkpoint | None:
    """Make or check the run folder; the checkpoint to go on from, or None for a new run."""
    checkpoint = out / CHECKPOINT_NAME
    if resume:
        recorded = read_checkpoint(checkpoint)
        differing = recorded.recipe.differing(recipe, ignore=RESUMABLE_WITH_OTHER)
        if differing:
            name = differing[0]
            raise UsageError(
                f"The run in {out} was begun with {name} = {getattr(recorded.recipe, name)!r}, not "
                f"{getattr(recipe, name)!r}; resume it with its own recipe or choose another folder."
            )
        return recorded
    if any((out / name).exists() for name in (CHECKPOINT_NAME, METRICS_NAME, MODEL_NAME)):
        raise UsageError(f"{out} holds a run already; give --resume to go on with it, or another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The run folder {out} cannot be made: {error.strerror or error}.") from None
    return None


def _accelerator(recipe: Recipe) -> Accelerator:
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            "The recipe asks for device = cuda, but PyTorch finds no CUDA GPU; use device=auto."
        )
    cpu = recipe.device == "cpu" or not torch.cuda.is_available()
    # Accelerate keeps its state for the life of the process and refuses another precision in it. A process group
    # outlives a run; everything else is forgotten so that one program can train twice.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    if not torch.distributed.is_initialized():
        PartialState._reset_state()
    if not cpu:
        torch.backends.cudnn.benchmark = True  # all batches but the last have one shape
    return Accelerator(cpu=cpu, mixed_precision="bf16" if recipe.precision == "bf16" else "no")


def _load(recipe: Recipe) -> _Data:
    train, val = (
        load_images(recipe.data, part, val_fraction=recipe.val_fraction) for part in ("train", "val")
    )
    preprocessing = preprocessing_of(train.images)
    if recipe.size is not None:
        preprocessing = preprocessing.model_copy(update={"size": (recipe.size, recipe.size)})
    return _Data(train, replace(val, classes=train.classes), preprocessing)


def _find_blocks(model: nn.Module, recipe: Recipe, data: _Data) -> LocatedBlocks:
    images = DeviceImages(data.val, data.preprocessing, device=torch.device("cpu"))
    example, _ = images.batch(torch.arange(min(4, len(images))))
    return locate_blocks(model, example)


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def _trim_metrics(path: Path, epochs: int) -> list[EpochReport]:
    """Drop lines of epochs that no checkpoint holds, and give back the rest."""
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
