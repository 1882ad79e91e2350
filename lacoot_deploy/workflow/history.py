"""What a collapse leaves in the manifest of the file that it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lacoot_deploy.manifest import CollapseRecord, Manifest, Plan, write_manifest
from lacoot_deploy.selection.options import Granularity
from lacoot_deploy.version import PRODUCER
from lacoot_deploy.workflow.inspecting import Opened
from lacoot_deploy.workflow.measuring import block_records

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.graph.discovery.costs import ModelCosts


def record_history(
    smaller: onnx.ModelProto,
    opened: Opened,
    plan: Plan,
    names: list[str],
    granularity: Granularity = "block",
    *,
    model_sha256: str,
    merged: list[str] | None = None,
    only_cut: bool = True,
) -> ModelCosts:
    """Bring the manifest of a collapsed model up to date: the blocks that are left, and what was done.

    Args:
        smaller: The collapsed model; its manifest is replaced.
        opened: The model as it was.
        plan: What was applied.
        names: The blocks that went.
        granularity: Of the blocks that are recorded.
        model_sha256: Fingerprint of the model as it was.
        merged: Pairs of linear operators that became one.
        only_cut: Whether every value that is left has the shape that it had.

    Returns:
        What the collapsed model costs.
    """
    from lacoot_deploy.graph.discovery import survey

    manifest = opened.manifest.model_copy(deep=True) if opened.manifest is not None else Manifest()
    accuracy_before, accuracy_after = _accuracies(plan)
    found = survey(smaller, granularity=granularity, cut_from=opened.survey if only_cut else None)
    manifest.producer = PRODUCER
    manifest.blocks = block_records(found.blocks, {}, manifest)
    for record in manifest.blocks:
        # They belong to the network as it was before.
        record.statistics, record.latency = {}, None
    manifest.plan = None
    manifest.task = plan.task or manifest.task
    manifest.history = [
        *manifest.history,
        CollapseRecord(
            plan_sha256=plan.digest(),
            model_sha256_before=model_sha256,
            blocks=names,
            forms={step.block: step.form for step in plan.steps},
            repairs={step.block: step.repair.kind for step in plan.steps if step.repair is not None},
            refits=[refit.block for refit in plan.refits],
            linearised=[record.activation for record in plan.linearised],
            merged=merged or [],
            accuracy_before=accuracy_before,
            accuracy_after=accuracy_after,
            producer=PRODUCER,
        ),
    ]
    write_manifest(smaller, manifest)
    return found.costs


def _accuracies(plan: Plan) -> tuple[float | None, float | None]:
    confirming = plan.evidence.confirming
    before, after = (None, None) if confirming is None else (confirming.dense, confirming.collapsed)
    return (None if before is None else before.accuracy), (None if after is None else after.accuracy)
