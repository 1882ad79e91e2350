"""A whole training run in a folder: started, interrupted, resumed, measured and exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from lacoot_deploy.errors import InputError, ProviderError, UsageError
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.manifest import Manifest, read_manifest
from lacoot_deploy.training.checkpoint import CHECKPOINT_NAME, Checkpoint, read_checkpoint
from lacoot_deploy.training.finish import finish_run
from lacoot_deploy.training.loop import EpochReport
from lacoot_deploy.training.methods.base import RoundsMethod
from lacoot_deploy.training.methods.registry import METHODS
from lacoot_deploy.training.methods.rounds import Rounds
from lacoot_deploy.training.methods.state import MethodState
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run_data import load_data
from lacoot_deploy.training.schedule import Epochs, Schedule
from lacoot_deploy.training.session import METRICS_NAME, Progress, Session, Start

__all__ = ["MODEL_NAME", "Progress", "Trained", "describe_device", "train"]

MODEL_NAME = "model.onnx"

# Where a run goes on is no part of what it computes.
RESUMABLE_WITH_OTHER = frozenset({"device", "threads"})


@dataclass(frozen=True)
class Trained:
    """What a finished run left.

    Attributes:
        folder: The run folder.
        model: The exported ONNX file in it, manifest and all but the recommended plan.
        checkpoint: The weights of the last epoch (no early stopping: last is what the schedule is made for); of a
            method of rounds those of the last round within its limit.
        manifest: What was written into the model.
        epochs: The figures of every epoch.
        seconds: Training time over all sessions, validation included.
        device: The device it ran on, in words.
        rounds: What a method of rounds did; None for a method without.
    """

    folder: Path
    model: Path
    checkpoint: Path
    manifest: Manifest
    epochs: tuple[EpochReport, ...]
    seconds: float
    device: str
    rounds: MethodState | None = None

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy of the network that was kept, in percent."""
        if self.rounds is not None and self.rounds.good_accuracy is not None:
            return self.rounds.good_accuracy
        return self.epochs[-1].val_accuracy


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    start: Start | None = None,
) -> Trained:
    """Train by a recipe into a run folder: `checkpoint.safetensors`, `metrics.jsonl`, `recipe.json`, `model.onnx`.

    Each epoch ends with a checkpoint, so an interrupted run goes on from its last whole epoch; on the CPU it ends
    with the very weights of a run that was not interrupted. Test data is not touched.

    Args:
        recipe: The settings.
        out: The run folder; made if missing.
        resume: Go on with the run in the folder.
        progress: Is told about epochs and notes.
        start: The network to go on with; without one it starts afresh, or from the recipe's weights.

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
    with _no_empty_folder(out):
        data = load_data(recipe)
        session = Session(recipe, out, accelerator, data, progress)
        schedule = _schedule(session)
        schedule.begin(recorded, start)
    try:
        schedule.train()
        if main:
            finish_run(
                out / CHECKPOINT_NAME, out / MODEL_NAME, val=data.val, device=device, note=progress.note
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted; {out} keeps {schedule.kept}. Run the same command with --resume to go on."
        ) from None
    finally:
        in_words = describe_device(device)
        session.tempo.end()
    accelerator.wait_for_everyone()
    if began_group and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return Trained(
        folder=out,
        model=out / MODEL_NAME,
        checkpoint=out / CHECKPOINT_NAME,
        manifest=_manifest_of(out / MODEL_NAME),
        epochs=tuple(session.reports),
        seconds=session.seconds,
        device=in_words,
        rounds=session.state,
    )


@contextlib.contextmanager
def _no_empty_folder(out: Path) -> Iterator[None]:
    """Context of what comes before the first file: where it fails, an empty folder does not look as if begun."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # others' files stay
            out.rmdir()
        raise


def _schedule(session: Session) -> Schedule:
    """The course that the recipe's method takes."""
    entry = METHODS[session.recipe.method]
    method = entry.method(session.recipe.settings)
    return Rounds(session, method) if isinstance(method, RoundsMethod) else Epochs(session, method)


def describe_device(device: torch.device) -> str:
    """The device in words: the GPU's name, or the CPU and its threads.

    Args:
        device: Where a run computes.
    """
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    return f"the CPU ({torch.get_num_threads()} threads)"


def _manifest_of(path: Path) -> Manifest:
    manifest = read_manifest(load_model(path), path=path)
    if manifest is None:
        raise InputError(f"{path} lost its manifest; resume the run to export it again.")
    return manifest


def _open_folder(recipe: Recipe, out: Path, resume: bool) -> Checkpoint | None:
    """Make or check the run folder; the checkpoint to go on from, or None for a new run."""
    checkpoint = out / CHECKPOINT_NAME
    if resume:
        recorded = read_checkpoint(checkpoint)
        differing = recorded.recipe.differing(recipe, ignore=RESUMABLE_WITH_OTHER)
        if differing:
            name = differing[0]
            raise UsageError(
                f"The run in {out} was begun with {name} = {recorded.recipe.flat().get(name)!r}, not "
                f"{recipe.flat().get(name)!r}; resume it with its own recipe or choose another folder."
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
