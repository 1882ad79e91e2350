"""`report`: one page about a dense network and what became of it, from files, results, and measurements on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.data.options import DataOptions, portable
from lacoot_deploy.files import atomic_write_text, check_target
from lacoot_deploy.manifest import Plan
from lacoot_deploy.reports.records import Answer, Point, ReportResult
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.workflow.data import samples_for
from lacoot_deploy.workflow.report_curves import curves_of
from lacoot_deploy.workflow.report_inputs import (
    RUN_FILES,
    Cast,
    Given,
    GivenModel,
    cast,
    read_inputs,
    read_model,
)
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
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.reports.records import Sample
    from lacoot_deploy.runtime.compare import CompareResult

Progress = Callable[[int, int, str], None]

STEPS = 8
"""Most depths of a plan that are timed for the curve."""

STEP_SECONDS = 2.0


@dataclass
class Measured:
    """What is known of the networks in figures, from results given or measured here.

    Attributes:
        comparison: The collapsed network against the dense one.
        judged_on: On which data, in words.
        control: The control against the dense network.
        bench: The collapsed network against the dense one, in latency.
        control_bench: And the control.
        steps: Relative latency of the dense network cut by so many steps of the plan.
        others: Further collapsed networks.
        worst: Samples that differ most.
    """

    comparison: CompareResult | None = None
    judged_on: str = "the data given to 'compare'"
    control: CompareResult | None = None
    bench: BenchResult | None = None
    control_bench: BenchResult | None = None
    steps: dict[int, float] = field(default_factory=dict)
    others: list[Point] = field(default_factory=list)
    worst: list[Sample] = field(default_factory=list)


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
        measured = _given_results(given, parts, notes)
        if data is not None:
            _compare(parts, data, measured, runtime, progress)
        if bench is not None:
            timer = _Timer(parts.dense.path, bench, runtime, progress) if parts.dense is not None else None
            _bench(parts, plan, measured, timer, Path(folder))
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


def _given_results(given: Given, parts: Cast, notes: list[str]) -> Measured:
    """The results among the inputs that are about these networks."""
    found = Measured()
    for file, comparison in given.comparisons:
        hashes, names = (comparison.a_sha256, comparison.b_sha256), (comparison.a, comparison.b)
        if _about(hashes, names, parts.dense, parts.short):
            found.comparison = comparison
        elif _about(hashes, names, parts.dense, parts.scratch):
            found.control = comparison
        else:
            notes.append(f"{file} compares other files than those given; it was left out.")
    for file, bench in given.benches:
        if bench.b is None:
            notes.append(f"{file} measured one network; a report needs the pair.")
            continue
        hashes, names = (bench.a.sha256, bench.b.sha256), (bench.a.path, bench.b.path)
        if _about(hashes, names, parts.dense, parts.short):
            found.bench = bench
        elif _about(hashes, names, parts.dense, parts.scratch):
            found.control_bench = bench
        else:
            notes.append(f"{file} measured other files than those given; it was left out.")
    return found


def _about(
    hashes: tuple[str | None, str | None],
    names: tuple[str, str],
    a: GivenModel | None,
    b: GivenModel | None,
) -> bool:
    """Whether a result is about these two, told by the hashes of the files; by their names where it has none."""
    if a is None or b is None:
        return False
    if None not in hashes:
        return hashes == (a.sha256, b.sha256)
    return tuple(Path(name).name for name in names) == (a.path.name, b.path.name)


def _compare(
    parts: Cast,
    data: DataOptions,
    measured: Measured,
    runtime: Runtime,
    progress: Progress | None,
) -> None:
    from lacoot_deploy.runtime.sessions import open_session
    from lacoot_deploy.workflow.comparing import compare
    from lacoot_deploy.workflow.report_samples import worst_samples

    if parts.dense is None:
        return
    dense = parts.dense
    if parts.short is not None:
        measured.comparison = compare(dense.path, parts.short.path, data, runtime=runtime, progress=progress)
        measured.judged_on = f"{portable(data.spec)} [{data.split}]"
        manifest = dense.opened.manifest
        samples = samples_for(dense.opened.model, manifest, data)
        sessions = [open_session(one.path, runtime) for one in (dense, parts.short)]
        measured.worst = worst_samples(
            measured.comparison,
            samples=samples,
            sessions=(sessions[0], sessions[1]),
            preprocessing=manifest.preprocessing if manifest is not None else None,
        )
    if parts.scratch is not None:
        measured.control = compare(dense.path, parts.scratch.path, data, runtime=runtime, progress=progress)
        measured.judged_on = f"{portable(data.spec)} [{data.split}]"
    for other in parts.others:
        found = compare(dense.path, other.path, data, runtime=runtime, progress=progress)
        score = found.accuracy.b if found.accuracy is not None else found.agreement
        if score is not None:
            gone = len(dense.opened.blocks) - len(other.opened.blocks)
            measured.others.append(
                Point(removed=max(gone, 0), score=score, macs=other.opened.costs.macs, label=other.path.name)
            )


@dataclass(frozen=True)
class _Timer:
    """Measures other networks against the dense one."""

    dense: Path
    options: BenchOptions
    runtime: Runtime
    progress: Progress | None

    def __call__(
        self, path: Path, what: str, *, seconds: float | None = None, per_block: bool = False
    ) -> BenchResult:
        from lacoot_deploy.workflow.benching import benchmark

        tell = self.progress
        # Memory is no figure of the page, and costs a process for each network.
        return benchmark(
            self.dense,
            path,
            replace(
                self.options,
                memory=False,
                variants=False,
                min_time=min(self.options.min_time, seconds or self.options.min_time),
            ),
            runtime=self.runtime,
            per_block=per_block,
            progress=None if tell is None else lambda done, total: tell(done, total, what),
        )


def _bench(parts: Cast, plan: Plan | None, measured: Measured, timed: _Timer | None, folder: Path) -> None:
    if parts.dense is None or timed is None:
        return
    if parts.short is not None:
        measured.bench = timed(parts.short.path, "latency", per_block=True)
    if parts.scratch is not None:
        measured.control_bench = timed(parts.scratch.path, "latency of the control")
    for other, point in zip(parts.others, measured.others, strict=False):
        speedup = timed(other.path, f"latency of {other.path.name}").speedup
        point.latency = None if speedup is None else 1 / speedup
    for depth, path in _steps(parts.dense, plan, folder):
        speedup = timed(path, f"latency with {depth} blocks gone", seconds=STEP_SECONDS).speedup
        if speedup is not None:
            measured.steps[depth] = 1 / speedup


def _steps(dense: GivenModel, plan: Plan | None, folder: Path) -> list[tuple[int, Path]]:
    """The dense network cut by the first steps of the plan, at up to `STEPS` depths."""
    from lacoot_deploy.graph.model.io import save_model
    from lacoot_deploy.graph.surgery.collapse import collapse_blocks
    from lacoot_deploy.selection.matching import resolve_plan

    if plan is None or len(plan.steps) < 2 or plan.steps[0].evidence.after_this_step is None:
        return []
    cuts, _ = resolve_plan(plan, dense.opened.blocks)
    depths = sorted({round(1 + i * (len(cuts) - 1) / (STEPS - 1)) for i in range(STEPS)})
    paths = []
    for depth in depths:
        target = folder / f"step{depth}.onnx"
        save_model(collapse_blocks(dense.opened.model, cuts[:depth]), target, source=dense.path)
        paths.append((depth, target))
    return paths


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
        notes=[*notes, *(parts.dense.opened.notes if parts.dense is not None else ())],
    )
    document.missing = missing_sections(document, parts)
    return document
