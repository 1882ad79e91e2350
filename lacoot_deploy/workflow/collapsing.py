"""`collapse`: makes or takes a plan, applies it, and records what was done in the new file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from lacoot_deploy.errors import InputError, NothingToCollapseError, UsageError
from lacoot_deploy.files import atomic_write_text, check_target
from lacoot_deploy.manifest import CollapseRecord, Manifest, Plan, parse_plan, to_json, write_manifest
from lacoot_deploy.version import PRODUCER
from lacoot_deploy.workflow.data import DataOptions, samples_for, source_files
from lacoot_deploy.workflow.inspecting import (
    Granularity,
    ModelEntry,
    Opened,
    model_entry,
    open_model,
    recorded_distances,
)
from lacoot_deploy.workflow.linearising import LineariseOptions, MergeEntry, RefusalEntry, check_options
from lacoot_deploy.workflow.measuring import block_records

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.graph.discovery.costs import ModelCosts
    from lacoot_deploy.selection.planning import Limit

Progress = Callable[[int, int, str], None]

MAX_PLAN_BYTES = 256 * 1024 * 1024


class CollapseResult(BaseModel):
    """What `collapse --json` prints.

    Attributes:
        plan: The plan that was applied (or would be, on a dry run).
        before: The model as it was.
        after: The model that was written.
        output: Its path; None on a dry run.
        merges: Linear operators that became one.
        refused: Those that stay two although one reads the other, and why.
        notes: What a reader should know, such as blocks found again by structure.
    """

    schema_version: int = 1
    plan: Plan
    before: ModelEntry
    after: ModelEntry
    output: str | None
    merges: list[MergeEntry] = Field(default_factory=list)
    refused: list[RefusalEntry] = Field(default_factory=list)
    notes: list[str]


def default_output(path: str | Path) -> Path:
    """`model.onnx` becomes `model.collapsed.onnx` beside it."""
    path = Path(path)
    return path.with_name(f"{path.stem if path.suffix == '.onnx' else path.name}.collapsed.onnx")


def collapse(
    path: str | Path,
    output: str | Path | None = None,
    *,
    limit: Limit | None = None,
    plan_file: str | Path | None = None,
    data: DataOptions | None = None,
    criterion: str | None = None,
    search: str | None = None,
    repair: str = "auto",
    refit: bool | None = None,
    form: str = "auto",
    linearise: LineariseOptions | None = None,
    granularity: Granularity = "block",
    probe: bool = True,
    provider: str = "auto",
    threads: int | None = None,
    dry_run: bool = False,
    plan_out: str | Path | None = None,
    progress: Progress | None = None,
) -> CollapseResult:
    """Delete blocks from a model, make activations linear and merge what became linear, and write the shorter one.

    With neither `limit` nor `plan_file` nor `linearise` the plan recommended in the model's manifest is applied. Blocks
    go first: activations are then chosen in the network that is left.

    Args:
        path: An ONNX file; it is not changed.
        output: The file to write; by default the input's name with `.collapsed.onnx`.
        limit: How far to go.
        plan_file: A plan written by an earlier run, to be replayed.
        data: Calibration data to fit repairs on, to choose and to confirm by.
        criterion: What ranks the blocks.
        search: `ranked` or `greedy`.
        repair: `none`, `affine`, `linear` or `auto`.
        refit: Whether the blocks that stay are refitted where that is a real gain; None for yes with `auto`.
        form: `auto`, `bypass` or `shortcut`.
        linearise: Which activations become linear, if any.
        granularity: Whole blocks, or every residual unit as a block of its own.
        probe: Whether shapes may be settled by a run in ONNX Runtime.
        provider: Execution provider of trial runs.
        threads: CPU threads of trial runs.
        dry_run: Plan only; write no model.
        plan_out: Where to write the plan as JSON.
        progress: Called with (done, total, what).

    Raises:
        UsageError: Options that contradict each other, or no plan is recommended in the file.
        InputError: A file cannot be read or written, or the plan does not fit the model.
        NothingToCollapseError: No block can go, or no activation become linear, under the limit.
    """
    from lacoot_deploy.graph.model.external import data_files
    from lacoot_deploy.graph.model.io import fingerprint, save_model
    from lacoot_deploy.graph.surgery.collapse import collapse_blocks
    from lacoot_deploy.selection.matching import resolve_plan, resolve_refits
    from lacoot_deploy.selection.trial_runtime import Runtime
    from lacoot_deploy.workflow.linearising import apply_activations, plan_activations

    path = Path(path)
    target = default_output(path) if output is None else Path(output)
    if plan_file is not None and (limit is not None or linearise is not None):
        raise UsageError("Give either --plan or what to remove, not both.")
    if linearise is not None:
        check_options(linearise, has_data=data is not None)
    sources = [path, *source_files(data), *([] if plan_file is None else [plan_file])]
    if not dry_run:
        check_target(target, inputs=sources)
    if plan_out is not None:
        check_target(plan_out, inputs=sources if dry_run else [*sources, target])
    opened = open_model(path, probe=probe, granularity=granularity)
    if plan_out is not None:
        check_target(plan_out, inputs=data_files(opened.model, path))
    if plan_file is not None:
        plan = read_plan(plan_file)
    elif limit is not None:
        plan = plan_for(
            opened,
            limit,
            data=data,
            criterion=criterion,
            search=search,
            repair=repair,
            refit=refit,
            form=form,
            provider=provider,
            threads=threads,
            progress=progress,
        )
    elif linearise is not None:
        plan = Plan(model_sha256=fingerprint(opened.model))
    else:
        plan = recommended_plan(opened)
    if not plan.steps and not plan.linearised and not plan.merge and linearise is None:
        raise NothingToCollapseError("The plan removes no block and makes no activation linear.")
    records = opened.manifest.blocks if opened.manifest is not None else []
    cuts, notes = resolve_plan(plan, opened.blocks, records)
    refits = resolve_refits(plan, opened.blocks, records)
    blocks_gone = collapse_blocks(opened.model, cuts, refits, folder=path.parent)
    runtime = Runtime(source=path, provider=provider, threads=threads)
    if linearise is not None:
        plan = plan_activations(
            plan,
            linearise,
            blocks_gone,
            opened.model,
            samples=None if data is None else samples_for(opened.model, opened.manifest, data),
            seed=0 if data is None else data.seed,
            runtime=runtime,
            speedup=_speedup(opened, provider, threads),
            progress=progress,
        )
    applied = apply_activations(blocks_gone, plan, opened.model, runtime=runtime)
    smaller = applied.model
    merges, refused = applied.entries()
    if not plan.steps and not plan.linearised and not merges:
        raise NothingToCollapseError(f"No two linear operators of {path} in a row can be merged for a gain.")
    made_here = (limit is not None or linearise is not None) and plan.model_sha256 is not None
    before_hash = plan.model_sha256 if made_here else fingerprint(opened.model)
    names = [cut.block.name for cut in cuts]
    costs = record_history(
        smaller,
        opened,
        plan,
        names,
        granularity,
        model_sha256=str(before_hash),
        merged=[f"{merge.first} + {merge.second}" for merge in merges if merge.second],
        only_cut=applied.model is blocks_gone,
    )
    before, after = model_entry(path, opened.costs), model_entry(target, costs)
    if plan_out is not None:
        atomic_write_text(plan_out, to_json(plan, indent=2) + "\n")
    if not dry_run:
        save_model(smaller, target, source=path)
    return CollapseResult(
        plan=plan,
        before=before,
        after=after,
        output=None if dry_run else str(target),
        merges=merges,
        refused=refused,
        notes=[*opened.notes, *notes],
    )


def plan_for(
    opened: Opened,
    limit: Limit,
    *,
    data: DataOptions | None = None,
    criterion: str | None = None,
    search: str | None = None,
    repair: str = "auto",
    refit: bool | None = None,
    form: str = "auto",
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Make a plan for an opened model; arguments as for `collapse`."""
    from lacoot_deploy.runtime.measure import measure_blocks
    from lacoot_deploy.selection.criteria import CRITERIA
    from lacoot_deploy.selection.planning import Evidence, make_plan

    distances, _ = recorded_distances(opened.manifest, opened.blocks)
    evidence = None
    if data is not None:
        samples = samples_for(opened.model, opened.manifest, data)
        evidence = Evidence.split(samples, seed=data.seed)
        wanted = CRITERIA[criterion].distance if criterion in CRITERIA else None
        if limit.max_distance is not None and criterion is None:
            wanted = "mswd"
        able = [b for b in opened.blocks if b.collapsible and not b.scope]
        if wanted is not None and any(wanted not in distances.get(b.name, {}) for b in able):
            distances = dict(
                measure_blocks(
                    opened.model,
                    able,
                    evidence.choose,
                    seed=data.seed,
                    provider=provider,
                    source=opened.path,
                    split=data.split,
                    ascent=wanted == "mswd-ascent",
                )
            )
    return make_plan(
        opened.model,
        opened.blocks,
        limit,
        criterion=criterion,
        search=search,
        repair=repair,
        refit=refit,
        form=form,
        evidence=evidence,
        distances=distances,
        source=opened.path,
        provider=provider,
        threads=threads,
        seed=0 if data is None else data.seed,
        progress=progress,
        latencies=lambda: _latencies(opened, provider, threads),
        speedup=None
        if limit.min_speedup is None or evidence is None
        else _speedup(opened, provider, threads),
    )


def _speedup(opened: Opened, provider: str, threads: int | None) -> Callable[[onnx.ModelProto], float]:
    """Measures how many times as fast a shortened model is: the lower end of the interval, to be safe."""
    import tempfile

    from lacoot_deploy.bench import bench
    from lacoot_deploy.graph.model.io import save_model

    def measure(model: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory() as folder:
            shorter = Path(folder) / "shorter.onnx"
            save_model(model, shorter, source=opened.path)
            result = bench(opened.path, shorter, provider=provider, threads=threads)
        if result.ci95 is None:
            raise InputError("The speed-up could not be measured.")
        return float(result.ci95[0])

    return measure


def _latencies(opened: Opened, provider: str, threads: int | None) -> dict[str, float]:
    """Milliseconds that each block takes on this device."""
    from lacoot_deploy.bench.per_block import block_latencies

    able = [block for block in opened.blocks if block.collapsible and not block.scope]
    measured = block_latencies(opened.path, able, provider=provider, threads=threads)
    return {block.name: block.ms for block in measured.blocks}


def recommended_plan(opened: Opened) -> Plan:
    """The plan in the model's manifest.

    Raises:
        UsageError: There is none; the message says what to give instead.
    """
    plan = opened.manifest.plan if opened.manifest is not None else None
    if plan is None:
        raise UsageError(
            f"{opened.path} carries no recommended plan: say how far to go with --count, --blocks, --max-distance, "
            f"--max-drop, --max-drift, --min-speedup, --linearise or --plan."
        )
    return plan


def read_plan(path: str | Path) -> Plan:
    """Read a plan file.

    Raises:
        InputError: It is missing, too large, or no plan.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise InputError(f"{path} is larger than {MAX_PLAN_BYTES >> 20} MiB; it is no plan.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"The plan {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise InputError(f"The plan {path} is no text.") from None
    return parse_plan(text, path=path)


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
    confirming: dict[str, Any] = plan.evidence.get("confirming") or {}
    before, after = confirming.get("dense") or {}, confirming.get("collapsed") or {}
    return before.get("accuracy"), after.get("accuracy")
