"""`report`: one page about a dense network and what became of it, from files, results, and measurements on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.files import atomic_write_text, check_target
from lacoot_deploy.manifest import Plan
from lacoot_deploy.progress import Progress
from lacoot_deploy.reports.records import Answer, ReportResult
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.workflow.report_curves import curves_of
from lacoot_deploy.workflow.report_healing import heal_records, healing_notes
from lacoot_deploy.workflow.report_inputs import (
    RUN_FILES,
    Cast,
    Given,
    cast,
    read_inputs,
    read_model,
)
from lacoot_deploy.workflow.report_measured import Measured, Timer, bench_all, compare_all, given_results
from lacoot_deploy.workflow.report_parts import (
    block_lines,
    cost_of,
    drawn_distance,
    drift_of,
    gain_of,
    latency_of,
    networks_of,
    refitted_blocks,
    removed_blocks,
    scratch_of,
    shipped_of,
    title_of,
)
from lacoot_deploy.workflow.report_recipe import reproduction_of

if TYPE_CHECKING:
    from lacoot_deploy.bench.options import BenchOptions


def report(
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    scratch: str | Path | None = None,
    data: DataOptions | str | None = None,
    bench: BenchOptions | None = None,
    runtime: Runtime = AUTO,
    title: str | None = None,
    progress: Progress | None = None,
) -> ReportResult:
    """Write one self-contained page about a dense network, what was cut from it, what that cost and what it gained.

    Dense and collapsed files are matched through the history that a collapsed file carries. Where only the dense
    network is given, the page is about the plan that its training recommended. Results are taken from the JSON files
    given; with `data` and `bench` they are measured here.

    Args:
        inputs: Run folders of `train`, ONNX files, JSON results of `compare`, `bench`, `collapse` and `ship`, plans,
            and tables of samples/benchmarks/results, in any order. The answer is about the first collapsed file.
        output: The HTML file to write; None to write none.
        scratch: The control, the equally shallow network trained from scratch: a run folder or an ONNX file. A run with
            blocks left out (`without`) among the inputs is taken for it.
        data: Samples to compare the networks on, text as after `--data`; None to measure no accuracy here.
        bench: How latency is measured here; None to measure none.
        runtime: Where networks run.
        title: Heading of the page.
        progress: Called with (done, total, what).

    Returns:
        What the page says.

    Raises:
        InputError: A file cannot be read or written, or is nothing that a report can be made of.
        ProviderError: The provider does not run a model here.
        UsageError: The data options do not make sense together.
    """
    data = None if data is None else DataOptions.of(data)
    if output is not None:
        check_target(output, inputs=_read_from(inputs, scratch, data))
    given = read_inputs(inputs)
    control = None if scratch is None else read_model(Path(scratch))
    parts = cast(given.models, control)
    notes = list(parts.notes)
    plan = _plan_of(parts, given.plans)
    with tempfile.TemporaryDirectory() as folder:
        if parts.short is None and parts.dense is not None and plan is not None and (data or bench):
            parts = _as_recommended(parts, plan, Path(folder))
            written = False
        else:
            written = parts.short is not None
        measured = given_results(given, parts, notes)
        if data is not None:
            compare_all(parts, data, measured, runtime, progress)
        if bench is not None:
            timer = Timer(parts.dense.path, bench, runtime, progress) if parts.dense is not None else None
            bench_all(parts, plan, measured, timer, Path(folder))
        document = _document(given, parts, plan, measured, data, notes, written=written, title=title)
    if output is not None:
        from lacoot_deploy.reports import render_page

        atomic_write_text(output, render_page(document))
    return document


def _read_from(
    inputs: Sequence[str | Path], scratch: str | Path | None, data: DataOptions | None
) -> list[str | Path]:
    """Every file that a report reads: it is written over none of them."""
    given = [Path(path) for path in (*inputs, *([] if scratch is None else [scratch]))]
    inside = [path / name for path in given if path.is_dir() for name in RUN_FILES]
    return [*given, *inside, *([] if data is None else data.files)]


def _plan_of(parts: Cast, plans: Sequence[Plan]) -> Plan | None:
    """The plan behind the collapsed network, else the one that could be applied to the dense one."""
    known = [*plans]
    if parts.dense is not None and parts.dense.recommended is not None:
        known.append(parts.dense.recommended)
    if parts.records:
        wanted = parts.records[-1].plan_sha256
        return next((plan for plan in known if plan.digest() == wanted), None)
    if parts.dense is None or parts.short is not None:
        return None
    fitting = [plan for plan in known if plan.model_sha256 in (None, parts.dense.fingerprint)]
    return fitting[0] if fitting else None


def _as_recommended(parts: Cast, plan: Plan, folder: Path) -> Cast:
    """With the network that the plan gives, so that it can be measured."""
    from lacoot_deploy.manifest import to_json
    from lacoot_deploy.workflow.collapsing import CollapseRequest, run_collapse

    assert parts.dense is not None
    (folder / "plan.json").write_text(to_json(plan), encoding="utf-8")
    target = folder / "collapsed.onnx"
    run_collapse(CollapseRequest(parts.dense.path, target, plan_file=folder / "plan.json"))
    short = read_model(target)
    return Cast(parts.dense, short, parts.others, parts.scratch, tuple(short.history[-1:]), parts.notes)


def _document(
    given: Given,
    parts: Cast,
    plan: Plan | None,
    measured: Measured,
    data: DataOptions | None,
    notes: list[str],
    *,
    written: bool,
    title: str | None,
) -> ReportResult:
    from lacoot_deploy.workflow.report_missing import missing_sections
    from lacoot_deploy.workflow.report_samples import worst_samples

    comparison, bench = measured.comparison, measured.bench
    removed = removed_blocks(parts.records, plan)
    refits = refitted_blocks(parts.records, plan)
    cost, gain = cost_of(comparison, measured.judged_on, plan, parts.records), gain_of(bench)
    healed = heal_records(parts.short)
    tried = None if plan is None else plan.evidence.candidates
    if healed and cost is not None and comparison is not None:
        cost = cost.model_copy(update={"healed": True})
    scratch = scratch_of(
        parts.scratch,
        measured.control,
        measured.control_bench,
        given.tables,
        cost,
        measured.judged_on,
        removed,
    )
    lines = [] if parts.dense is None else block_lines(parts.dense, removed, refits, bench)
    networks = networks_of(parts, written=written)
    names = ["dense", "collapsed"]
    answer = Answer(
        written=written,
        removed=removed,
        refits=refits,
        linearised=[name for record in parts.records for name in record.linearised],
        merged=[pair for record in parts.records for pair in record.merged],
        cost=cost,
        gain=gain,
        scratch=scratch,
    )
    metric, curves = curves_of(
        parts, answer, plan, given.tables, steps=measured.steps, others=measured.others
    )
    document = ReportResult(
        title=title or title_of(parts),
        networks=networks,
        answer=answer if removed or answer.linearised else None,
        metric=metric,
        curves=curves,
        blocks=lines,
        distance=drawn_distance(lines),
        training=given.trainings,
        latency=latency_of(bench, names),
        drift=drift_of(comparison),
        worst=measured.worst or worst_samples(comparison),
        samples=None if comparison is None else comparison.samples,
        shipped=shipped_of(given.accounts),
        reproduction=reproduction_of(parts, networks, given.trainings, plan, comparison, bench, data),
        notes=[
            *notes,
            *healing_notes(healed, tried),
            *(parts.dense.opened.notes if parts.dense is not None else ()),
        ],
    )
    document.missing = missing_sections(document, parts)
    return document
