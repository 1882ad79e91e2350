"""What shipped files are worth: scores on samples that chose nothing, and latencies of all of them in one run."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacoot_deploy.bench.files import total_bytes
from lacoot_deploy.bench.result import BenchResult
from lacoot_deploy.errors import InputError, LacootError
from lacoot_deploy.files import sha256_file
from lacoot_deploy.progress import Progress
from lacoot_deploy.shipping.account import Conditions, Gain, Line, Scored, ShipResult, Timed
from lacoot_deploy.shipping.conversion import Job
from lacoot_deploy.shipping.operators import fallbacks
from lacoot_deploy.shipping.registry import NUMBERS
from lacoot_deploy.shipping.targets import Target, get_target
from lacoot_deploy.shipping.trials import Trials, finite
from lacoot_deploy.workflow.ship_request import PLAIN, USUAL_DROP, ShipRequest, Source, samples_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.bench.series import Series
    from lacoot_deploy.data import Samples
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.selection.limits import Evidence
    from lacoot_deploy.tasks import Judge

CALIBRATION = 512
"""Samples that ranges are taken from, at most."""

SHOWN = 4
"""Samples that go into the folder to check files by."""


@dataclass(frozen=True)
class Judged:
    """The dense network's answers on every role of samples, and what files are held to.

    Attributes:
        request: What was asked.
        target: The device.
        runtime: Where files run.
        evidence: The samples with their roles.
        trials: Runs files on the choosing samples.
        judge: Judges files on the confirming samples.
        limit: Most that the score may drop; None for no limit.
    """

    request: ShipRequest
    target: Target
    runtime: Runtime
    evidence: Evidence
    trials: Trials
    judge: Judge
    limit: float | None

    @classmethod
    def on(cls, dense: Source, request: ShipRequest, runtime: Runtime) -> Judged:
        """What the dense network answers, and what it is for.

        Raises:
            UsageError: There are too few samples, or the task does not fit.
            InputError: The network cannot be run on the samples.
        """
        from lacoot_deploy.runtime.evaluate import predict
        from lacoot_deploy.runtime.sessions import open_session
        from lacoot_deploy.selection.limits import Evidence
        from lacoot_deploy.tasks import Judge
        from lacoot_deploy.tasks.belief import require_belief, try_labels
        from lacoot_deploy.workflow.data import task_of

        said, samples = task_of(dense.manifest, request.data), samples_of(dense, request.data)
        evidence = Evidence.split(samples, seed=request.data.seed, fit_limit=CALIBRATION, task=said)
        session = open_session(dense.path, runtime)
        judge = Judge.of(predict(session, evidence.confirm), evidence.confirm, said)
        belief = try_labels(judge, evidence.confirm, run=lambda some: predict(session, some))
        require_belief(belief, trust=said.trust_labels, source=evidence.confirm.description)
        choosing = Judge.of(predict(session, evidence.choose), evidence.choose, judge.task)
        share = judge.task.measure.unit == "points"
        limit = request.max_drop if request.max_drop is not None else USUAL_DROP if share else None
        return cls(
            request,
            get_target(request.target),
            runtime,
            evidence,
            Trials(evidence.choose, choosing, runtime),
            judge,
            limit,
        )

    def job(self, source: Source, folder: Path) -> Job:
        """What the conversions of a model are given."""
        return Job(
            path=source.path,
            folder=folder,
            calibration=self.evidence.fit,
            trials=self.trials,
            target=self.target,
            max_drop=self.limit,
            batch=self.request.batch,
            opset=self.request.opset,
        )

    def fill(self, line: Line, path: Path, beside: Sequence[Path] = ()) -> None:
        """What a file is worth on the confirming samples; above the limit it is left out.

        Raises:
            InputError: It does not run.
        """
        from lacoot_deploy.runtime.evaluate import predict
        from lacoot_deploy.runtime.sessions import open_session

        outputs = predict(open_session(path, self.runtime), self.evidence.confirm, list(self.judge.dense))
        if not finite(outputs) and finite(self.judge.dense):
            raise InputError("its answers hold NaN or infinity where the dense network's are numbers")
        line.file, line.beside = path.name, [one.name for one in beside]
        line.sha256, line.bytes = sha256_file(path), total_bytes(path)
        judge, task = self.judge, self.judge.task
        quality, difference = judge.judge(outputs), judge.difference(outputs)
        score = task.score(task.statistics(outputs, judge.truth, judge.dense))
        line.score = Scored(
            value=score.value,
            low=score.low,
            high=score.high,
            drop=difference.drop,
            drop_low=difference.low,
            drop_high=difference.high,
        )
        line.agreement, line.drift = quality.agreement, quality.drift
        if self.limit is not None and difference.drop > self.limit and line.conversion != PLAIN:
            line.verdict = "left out"
            line.reason = (
                f"its {task.measure.name} drops by {difference.drop:.2f} {task.measure.unit} (95 % interval "
                f"{difference.low:.2f} to {difference.high:.2f}) on the confirming samples, above {self.limit:g}"
            )

    def conditions(self) -> Conditions:
        """How the account was made."""
        import onnxruntime

        from lacoot_deploy.bench.environment import gpu_name
        from lacoot_deploy.data.options import portable
        from lacoot_deploy.machine import describe_machine

        task, data = self.judge.task, self.request.data
        return Conditions(
            data=f"{portable(data.spec)} [{data.split}]",
            calibration_samples=len(self.evidence.fit),
            choosing_samples=len(self.evidence.choose),
            confirming_samples=len(self.evidence.confirm),
            seed=data.seed,
            task=task.sentence(),
            measure=task.measure.name,
            unit=task.measure.unit,
            higher=task.measure.higher,
            labels=self.judge.labels,
            max_drop=self.limit,
            batch=self.request.batch,
            provider=self.runtime.provider,
            cpu=describe_machine().cpu,
            gpu=None if self.runtime.provider == "cpu" else gpu_name(),
            threads=self.runtime.threads,
            onnxruntime=onnxruntime.__version__,
            openvino=_openvino_version(),
        )

    def shown(self) -> Samples:
        """The samples that go into the folder."""
        return self.evidence.confirm.take(slice(0, max(SHOWN, self.request.batch)))


def plain_line(source: Source, folder: Path, judged: Judged) -> Line:
    """A model as it is, copied into the folder with its weights.

    Raises:
        InputError: It cannot be run, or does not have the dense model's inputs and outputs.
    """
    from lacoot_deploy.graph.model.io import save_model

    path = folder / f"{source.stem}.onnx"
    if any(True for _ in _external(source)):
        save_model(source.model, path, source=source.path)
    else:
        shutil.copyfile(source.path, path)
    line = Line(name=f"{source.stem} {PLAIN}", model=source.path.name, role=source.role, conversion=PLAIN)
    judged.fill(line, path, sorted(set(folder.glob(f"{path.name}.*"))))
    if line.score is not None and judged.limit is not None and line.score.drop > judged.limit:
        line.notes.append(
            f"Before anything is converted, its score is {line.score.drop:.2f} below the dense network's already, more "
            f"than the limit of {judged.limit:g}."
        )
    return line


def _external(source: Source) -> Any:
    from lacoot_deploy.graph.model.external import external_tensors

    return external_tensors(source.model)


def measure_latency(
    account: ShipResult, folder: Path, judged: Judged, options: BenchOptions, told: Progress
) -> BenchResult | None:
    """Time all files of the folder in one run, and work out what cutting and converting gain together.

    Returns:
        The first cut network in float32 against the dense one, for the page; None where there is none.
    """
    from lacoot_deploy.bench.series import bench_series

    batch = judged.request.batch
    lines = account.shipped
    feeds = next(judged.evidence.confirm.batches(batch))
    paths = {f"b{number}": folder / str(line.file) for number, line in enumerate(lines) if number}
    if not paths:
        return None
    # The time is that of a pair, which is three models: the reference is measured twice.
    seconds = options.min_time * (len(paths) + 2) / 3
    wanted = replace(options, batch=None, dims={}, min_time=seconds, variants=False, allow_cpu_nodes=True)
    try:
        series = bench_series(
            folder / str(lines[0].file),
            paths,
            wanted,
            runtime=judged.runtime,
            feeds=feeds,
            progress=lambda done, total: told(done, total, "latency"),
        )
    except LacootError as error:
        account.notes.append(f"Latency was not measured: {error}")
        return None
    for number, line in enumerate(lines):
        _time(line, series, f"b{number}" if number else None)
    first = series.result(next(iter(paths)))
    if platform.machine().lower() in ("x86_64", "amd64") and judged.target.platform == "arm":
        account.notes.append(
            f"Latency is that of this machine's {platform.machine()} processor; what is fast there need not be on "
            f"{judged.target.summary}. Time the files on the device with run.py."
        )
    account.notes += first.warnings
    account.gains = _gains(lines, series)
    cut = next((n for n, line in enumerate(lines) if n and line.conversion == PLAIN), None)
    return None if cut is None else BenchResult(**series.result(f"b{cut}").model_dump())


def _time(line: Line, series: Series, name: str | None) -> None:
    result = series.result(name or "b1")
    model = result.b if name is not None else result.a
    assert model is not None
    line.peak_memory_bytes = model.peak_memory_bytes
    if name is None:
        line.latency = Timed(ms=model.p50_ms, speedup=1.0, low=1.0, high=1.0, verdict="reference")
    elif result.speedup is not None and result.ci95 is not None:
        low, high = result.ci95
        line.latency = Timed(
            ms=model.p50_ms, speedup=result.speedup, low=low, high=high, verdict=str(result.verdict)
        )


def _gains(lines: Sequence[Line], series: Series) -> list[Gain]:
    """For every converted cut file: what both gain over each alone."""
    from lacoot_deploy.bench.series import REFERENCE

    names = {id(line): f"b{number}" if number else REFERENCE for number, line in enumerate(lines)}
    dense = {line.conversion: line for line in lines if line.role == "dense"}
    plain = {line.model: line for line in lines if line.conversion == PLAIN}
    gains = []
    for both in lines:
        cut, converted = plain.get(both.model), dense.get(both.conversion)
        if both.role == "dense" or both.conversion == PLAIN or cut is None or converted is None:
            continue
        over_cut = series.ratio(names[id(cut)], names[id(both)])
        over_converted = series.ratio(names[id(converted)], names[id(both)])
        gains.append(
            Gain(
                both=both.name,
                cut=cut.name,
                converted=converted.name,
                conversion=both.conversion,
                drop=None if both.score is None else both.score.drop,
                speedup=1.0 if both.latency is None else both.latency.speedup,
                over_cut=(over_cut.value, over_cut.low, over_cut.high),
                over_converted=(over_converted.value, over_converted.low, over_converted.high),
            )
        )
    return gains


def numbers_of(conversion: str) -> str | None:
    """Which numbers a chain of conversions ends with; None for float32."""
    return next((name for name in conversion.split("+") if name in NUMBERS), None)


def note_fallbacks(line: Line, folder: Path, judged: Judged, scratch: Path) -> None:
    """What of a file does not run as it was meant to."""
    if line.file is not None:
        line.fallbacks = fallbacks(
            folder / line.file, scratch, numbers=numbers_of(line.conversion), runtime=judged.runtime
        )


def answers(path: Path, judged: Judged, samples: Samples) -> dict[str, NDArray[Any]]:
    """All outputs of a file on some samples, on the CPU."""
    from lacoot_deploy.runtime.evaluate import predict
    from lacoot_deploy.runtime.sessions import open_session
    from lacoot_deploy.shipping.trials import CPU

    return predict(open_session(path, CPU), samples)


def _openvino_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("openvino")
    except PackageNotFoundError:
        return None
