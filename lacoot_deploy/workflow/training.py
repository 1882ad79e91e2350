"""`train` and `export`: from a recipe to an ONNX file that carries distances and a recommended plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from lacoot_deploy.data import ImageSet, Samples, normalise
from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.manifest import Manifest, Plan, PreprocessingRecord, RoundRecord, write_manifest
from lacoot_deploy.threads import waiting_threads_sleep
from lacoot_deploy.workflow.inspecting import open_model
from lacoot_deploy.workflow.merging import MergeSummary, merge_run

if TYPE_CHECKING:
    from lacoot_deploy.selection.planning import Evidence
    from lacoot_deploy.training.recipe import Recipe
    from lacoot_deploy.training.run import Progress, Trained

FIT_SAMPLES = 1024
CHOOSE_SAMPLES = 5000


class TrainResult(BaseModel):
    """What `train --json` prints.

    Attributes:
        run: The run folder.
        model: The exported ONNX file.
        checkpoint: The checkpoint of the last epoch.
        epochs: Epochs trained.
        seconds: Training time over all starts of the run, validation included.
        device: What it ran on.
        val_accuracy: Accuracy on validation images after the last epoch, in percent; of a method of rounds that of the
            network it kept.
        plan: The recommended plan; None where no block can go within the recipe's max_drop, and for methods of rounds.
        dense_val_accuracy: Of a method of rounds: that of the network before its activations went.
        rounds: Of a method of rounds: what every round did.
        stopped: Of a method of rounds: why no further round followed.
        merge: Of a method of rounds: what the linear operators became.
    """

    schema_version: int = 1
    run: str
    model: str
    checkpoint: str
    epochs: int
    seconds: float
    device: str
    val_accuracy: float
    plan: Plan | None
    dense_val_accuracy: float | None = None
    rounds: list[RoundRecord] = Field(default_factory=list)
    stopped: str | None = None
    merge: MergeSummary | None = None


class ExportResult(BaseModel):
    """What `export --json` prints."""

    schema_version: int = 1
    checkpoint: str
    model: str
    blocks: int
    export_drift: float


def train(
    recipe: str | Path | Recipe | None,
    out: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    resume: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
    planning: Callable[[int, int, str], None] | None = None,
) -> TrainResult:
    """Train, measure, export and recommend a plan; everything lands in the run folder.

    A method of rounds recommends none: what it made linear is merged instead, see `merge_run`.

    Args:
        recipe: A recipe, the path of one, or None for the embedded digits demo.
        out: The run folder.
        overrides: `key=value` settings on top of the recipe.
        resume: Go on with an interrupted run.
        progress: Is told about epochs and notes.
        note: Is told what happens after training, in sentences.
        planning: Called with (done, total, what) while the plan is searched.

    Raises:
        UsageError: Unknown settings, or the folder holds another run.
        InputError: Data, weights or folder cannot be used.
        VerificationError: Training diverged or the export differs from PyTorch.
        ProviderError: CUDA was asked for and is not there.
    """
    waiting_threads_sleep()
    from lacoot_deploy.training.recipe import load_recipe
    from lacoot_deploy.training.run import train as run

    if recipe is None or isinstance(recipe, (str, Path)):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise UsageError("Overrides go with a recipe file, not with a ready recipe.")
    result = run(recipe, Path(out), resume=resume, progress=progress)
    # Under `accelerate launch` every process gets here; the file is one process's to finish.
    plan = merge = None
    if result.rounds is not None:
        merge = merge_run(result, recipe, note=note)
    elif is_main_process():
        plan = recommend(result, recipe, note=note, planning=planning)
    state = result.rounds
    return TrainResult(
        run=str(result.folder),
        model=str(result.model),
        checkpoint=str(result.checkpoint),
        epochs=len(result.epochs),
        seconds=result.seconds,
        device=result.device,
        val_accuracy=result.val_accuracy,
        plan=plan,
        dense_val_accuracy=None if state is None else state.dense_accuracy,
        rounds=[] if state is None else state.records,
        stopped=None if state is None else state.stopped,
        merge=merge,
    )


def is_main_process() -> bool:
    """Whether this process speaks for the run: always, unless it was launched as one of several."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def recommend(
    result: Trained,
    recipe: Recipe,
    *,
    note: Callable[[str], None] = lambda text: None,
    planning: Callable[[int, int, str], None] | None = None,
) -> Plan | None:
    """Search the exported model for the deepest plan within the recipe's max_drop and record it in the file.

    Repairs are fitted on unaugmented training images; one half of the validation images chooses, the other confirms.
    """
    from lacoot_deploy.graph.model.io import save_model
    from lacoot_deploy.selection.options import SearchOptions
    from lacoot_deploy.selection.planning import Limit, make_plan
    from lacoot_deploy.selection.trials import Trials

    opened = open_model(result.model)
    manifest = opened.manifest or Manifest()
    assert manifest.preprocessing is not None
    evidence = training_evidence(recipe, manifest.preprocessing)
    note(f"Searching for the blocks that can go at a validation drop of at most {recipe.max_drop:g} points.")
    try:
        plan = make_plan(
            opened.model,
            opened.blocks,
            Limit(max_drop=recipe.max_drop),
            SearchOptions(seed=recipe.seed),
            evidence=evidence,
            trials=Trials(source=result.model),
            progress=planning,
        )
    except NothingToCollapseError as error:
        note(str(error))
        return None
    manifest.plan = plan
    write_manifest(opened.model, manifest)
    # A new file in place of the old: save_model never writes over its own source, and there is no external data.
    save_model(opened.model, result.model)
    return plan


def training_evidence(recipe: Recipe, preprocessing: PreprocessingRecord) -> Evidence:
    """Training images to fit on, halves of the validation images to choose and confirm by."""
    from lacoot_deploy.selection.planning import Evidence
    from lacoot_deploy.training.run_data import recipe_images

    def samples(images: ImageSet, limit: int, what: str) -> Samples:
        if len(images) > limit:
            order = np.random.default_rng(recipe.seed).permutation(len(images))[:limit]
            images = images.take(np.sort(order))
        feeds = {"input": normalise(images.images, preprocessing)}
        return Samples(feeds, images.labels, f"{recipe.data} [{what}]".replace(_folder(recipe.data), ""))

    size = None if recipe.size is None else (recipe.size, recipe.size)
    train, val = recipe_images(recipe, size=size)
    held = samples(val, CHOOSE_SAMPLES, "val")
    order = np.random.default_rng(recipe.seed).permutation(len(held))
    half = len(held) // 2
    return Evidence(
        fit=samples(train, FIT_SAMPLES, "train"),
        choose=held.take(np.sort(order[:half])),
        confirm=held.take(np.sort(order[half:])),
        # They are what it was trained on; that it has learned little of them is for the epochs to tell.
        task=TaskOptions(trust_labels=True),
    )


def _folder(spec: str) -> str:
    """The folder part of a source's path, which has no place in a file that ships."""
    _, _, path = spec.partition(":")
    parent = str(Path(path).parent) if path else ""
    return "" if parent in ("", ".") else parent.rstrip("/") + "/"


def export(checkpoint: str | Path, output: str | Path, *, trust: bool = False) -> ExportResult:
    """Export a checkpoint to ONNX with its manifest, checked against PyTorch before it is written.

    Args:
        checkpoint: A run folder or a checkpoint file in one.
        output: The ONNX file to write.
        trust: Whether a function of `python:module:function` that the checkpoint names may be imported.

    Raises:
        UsageError: The checkpoint names one and is not trusted.
        InputError: The checkpoint cannot be used or the output cannot be written.
        VerificationError: The exported model's outputs differ from PyTorch's.
    """
    from lacoot_deploy.errors import InputError
    from lacoot_deploy.files import check_target
    from lacoot_deploy.training.checkpoint import CHECKPOINT_NAME
    from lacoot_deploy.training.finish import export_checkpoint
    from lacoot_deploy.userfunctions import trusting

    checkpoint, output = Path(checkpoint), Path(output)
    check_target(output, inputs=[checkpoint, checkpoint / CHECKPOINT_NAME])
    if not checkpoint.exists():
        raise InputError(f"{checkpoint} does not exist; give a run folder or its checkpoint file.")
    with trusting(trust):
        manifest, drift = export_checkpoint(checkpoint, output)
    return ExportResult(
        checkpoint=str(checkpoint),
        model=str(output),
        blocks=len(manifest.blocks),
        export_drift=drift.relative,
    )
