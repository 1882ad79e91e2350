"""The figures of a report: from the results that were given, and measured on the spot where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.manifest import Plan
from lacoot_deploy.progress import Progress
from lacoot_deploy.reports.records import Point
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.workflow.data import samples_for
from lacoot_deploy.workflow.report_inputs import Cast, Given, GivenModel

if TYPE_CHECKING:
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.reports.records import Sample
    from lacoot_deploy.runtime.comparison import CompareResult


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


def given_results(given: Given, parts: Cast, notes: list[str]) -> Measured:
    """The results among the inputs that are about these networks; of the others a note is made."""
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


def compare_all(
    parts: Cast,
    data: DataOptions,
    measured: Measured,
    runtime: Runtime,
    progress: Progress | None,
) -> None:
    """Compare every network with the dense one on the data.

    Args:
        parts: The networks.
        data: The samples.
        measured: What is known; it is added to.
        runtime: Where they run.
        progress: Called with (done, total, what).
    """
    from lacoot_deploy.runtime.sessions import open_session
    from lacoot_deploy.workflow.comparing import compare
    from lacoot_deploy.workflow.report_samples import worst_samples

    if parts.dense is None:
        return
    dense = parts.dense
    if parts.short is not None:
        measured.comparison = compare(dense.path, parts.short.path, data, runtime=runtime, progress=progress)
        measured.judged_on = f"{data.portable} [{data.split}]"
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
        measured.judged_on = f"{data.portable} [{data.split}]"
    for other in parts.others:
        found = compare(dense.path, other.path, data, runtime=runtime, progress=progress)
        score = found.accuracy.b if found.accuracy is not None else found.agreement
        if score is not None:
            gone = len(dense.opened.blocks) - len(other.opened.blocks)
            measured.others.append(
                Point(removed=max(gone, 0), score=score, macs=other.opened.costs.macs, label=other.path.name)
            )


@dataclass(frozen=True)
class Timer:
    """Measures other networks against the dense one."""

    dense: Path
    options: BenchOptions
    runtime: Runtime
    progress: Progress | None

    def __call__(
        self, path: Path, what: str, *, seconds: float | None = None, per_block: bool = False
    ) -> BenchResult:
        """Latency of the dense network and another one, in pairs; for so many seconds at most."""
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


def bench_all(parts: Cast, plan: Plan | None, measured: Measured, timed: Timer | None, folder: Path) -> None:
    """Time every network against the dense one, which is cut by the steps of the plan besides.

    Args:
        parts: The networks.
        plan: The plan behind the collapsed one, where it is known.
        measured: What is known; it is added to.
        timed: Measures; None where there is no dense network.
        folder: Where the steps of the plan are written for a while.
    """
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
