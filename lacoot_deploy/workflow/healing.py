"""`train --heal`: a plan applied to a training run in PyTorch, fine-tuned for a short time and exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lacoot_deploy.errors import UsageError
from lacoot_deploy.manifest import CollapseRecord, Plan
from lacoot_deploy.version import PRODUCER
from lacoot_deploy.workflow.merging import MergeSummary, merge_run
from lacoot_deploy.workflow.plans import read_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from lacoot_deploy.graph.surgery.cuts import Cut, Refit
    from lacoot_deploy.training.run import Progress

FIXED = ("model", "model_args", "without", "cuts", "refits", "weights", "teacher")
"""Settings that the run and the plan decide."""


class HealRunResult(BaseModel):
    """What `train --heal --json` prints.

    Attributes:
        run: The run folder.
        model: The exported ONNX file.
        checkpoint: The checkpoint of the last epoch.
        blocks: The blocks that the plan removed.
        epochs: Epochs of fine-tuning.
        seconds: What they took over all starts of the run, validation included.
        device: What it ran on.
        dense_val_accuracy: Accuracy of the network that was cut, on validation images in percent.
        cut_val_accuracy: That of the cut network before the fine-tuning.
        val_accuracy: And after it.
        merge: Where the fine-tuning made activations linear in rounds too: what the linear operators became.
    """

    schema_version: int = 1
    run: str
    model: str
    checkpoint: str
    blocks: list[str]
    epochs: int
    seconds: float
    device: str
    dense_val_accuracy: float | None
    cut_val_accuracy: float | None
    val_accuracy: float
    merge: MergeSummary | None = None


def heal_run(
    run: str | Path,
    plan_file: str | Path,
    out: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    resume: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> HealRunResult:
    """Cut a trained network by a plan and fine-tune what is left, with the dense network as its teacher.

    The repairs of the plan become layers that learn with the rest. Before the first step the network is found equal
    to the ONNX file that `collapse` makes by the same plan. With `method=easier` or another method of rounds among the
    overrides activations become linear afterwards, and what can be is merged.

    Args:
        run: The folder of a training run, or its checkpoint.
        plan_file: A plan for that run's `model.onnx`, as `collapse --plan-out` writes it.
        out: The folder of the new run.
        overrides: `key=value` settings; by default those of the run with half of its learning rate, for 3 epochs.
        resume: Go on with an interrupted run.
        trust: Whether a function of `python:module:function` that the run's checkpoint names may be imported.
        progress: Is told about epochs and notes.

    Raises:
        UsageError: A setting that the plan decides, a plan that PyTorch modules cannot follow, or the folder holds
            another run.
        InputError: Run, plan or data cannot be used, or the plan is for another model.
        VerificationError: The cut network differs from the collapsed ONNX file, or training diverged.
        ProviderError: CUDA was asked for and is not there.
    """
    from lacoot_deploy.graph.surgery.collapse import collapse_blocks
    from lacoot_deploy.selection.matching import resolve_plan, resolve_refits
    from lacoot_deploy.training.checkpoint import read_checkpoint
    from lacoot_deploy.training.finish import load_run
    from lacoot_deploy.training.healing import cut_settings, healing_settings, healing_weights
    from lacoot_deploy.training.recipe import apply_overrides, check_recipe
    from lacoot_deploy.training.run import train
    from lacoot_deploy.training.session import Start
    from lacoot_deploy.userfunctions import trusting

    for text in overrides:
        key = text.partition("=")[0].partition(".")[0].strip()
        if key in FIXED:
            raise UsageError(f"{key} is decided by the run and the plan that are healed; leave it out.")
    plan = read_plan(plan_file)
    if not plan.steps:
        raise UsageError(f"The plan {plan_file} removes no block, so there is nothing to heal.")
    recorded = read_checkpoint(Path(run))
    if recorded.header.rounds is not None:
        raise UsageError(
            f"{run} was trained with method {recorded.recipe.method}, whose network cannot be healed after a cut; "
            f"collapse its model.onnx, or cut and heal a lacoot run."
        )
    with trusting(trust):
        _, found, example = load_run(recorded)
    cuts, _ = resolve_plan(plan, found.blocks)
    refits = resolve_refits(plan, found.blocks)
    settings = healing_settings(recorded, cut_settings(cuts, found.exported), refits, str(run))
    apply_overrides(settings, overrides)
    recipe = check_recipe(settings, origin="The recipe of the healing")
    collapsed = collapse_blocks(found.exported, cuts, refits)
    start = Start(
        weights=healing_weights(recipe, recorded, cuts, refits, collapsed, example),
        preprocessing=recorded.header.preprocessing,
        history=(*recorded.header.history, _record(plan, found.exported, cuts, refits)),
    )
    result = train(recipe, Path(out), resume=resume, progress=progress, start=start)
    done = result.manifest.history[-1]
    merge = None if result.rounds is None else merge_run(result, recipe)
    return HealRunResult(
        run=str(result.folder),
        model=str(result.model),
        checkpoint=str(result.checkpoint),
        blocks=done.blocks,
        epochs=len(result.epochs),
        seconds=result.seconds,
        device=result.device,
        dense_val_accuracy=done.accuracy_before,
        cut_val_accuracy=done.accuracy_after,
        val_accuracy=result.val_accuracy,
        merge=merge,
    )


def _record(
    plan: Plan, model: onnx.ModelProto, cuts: Sequence[Cut], refits: Sequence[Refit]
) -> CollapseRecord:
    """What stays of the cut in the history of the new run."""
    from lacoot_deploy.graph.model.io import fingerprint

    return CollapseRecord(
        plan_sha256=plan.digest(),
        model_sha256_before=fingerprint(model),
        blocks=[cut.block.name for cut in cuts],
        forms={cut.block.name: cut.form.value for cut in cuts},
        repairs={cut.block.name: cut.repair.kind for cut in cuts if cut.repair is not None},
        refits=[refit.block.name for refit in refits],
        producer=PRODUCER,
    )
