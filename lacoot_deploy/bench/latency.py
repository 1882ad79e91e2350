"""`bench`: the latency of one model, or of two in pairs."""

from __future__ import annotations

import platform
import statistics as stdlib_statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.bench.environment import NOISY_FLOOR, gpu_name, noise_warnings
from lacoot_deploy.bench.process import ask
from lacoot_deploy.bench.protocol import (
    ContestantReport,
    ModelFile,
    Request,
    Response,
    RunOptions,
)
from lacoot_deploy.bench.requests import feed_options, model_file
from lacoot_deploy.bench.result import BenchResult, Environment, ModelLatency, RawSamples, Variant
from lacoot_deploy.bench.statistics import (
    noise_floor,
    ratio_interval,
    smallest_detectable,
    summarise,
    verdict,
)
from lacoot_deploy.errors import LacootError, UsageError
from lacoot_deploy.runtime.machine import describe_machine

if TYPE_CHECKING:
    from lacoot_deploy.bench.requests import Model

CUDA_VARIANTS = {"host_copies": {"io_binding": False}, "cuda_graph": {"cuda_graph": True}}


def bench(
    a: Model,
    b: Model | None = None,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    rounds: int | None = None,
    min_time: float = 8.0,
    threads: int | None = None,
    provider: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    optimization: str = "all",
    use_tf32: bool | None = None,
    io_binding: bool | None = None,
    cuda_graph: bool = False,
    allow_cpu_nodes: bool = False,
    memory: bool = True,
    variants: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Measure latency; with two models in interleaved pairs, with an interval and a verdict.

    Each round opens fresh sessions of A, of A once more (for the noise floor) and of B in random order, warms them up
    and times them in turn. The defaults take 10 to 15 seconds for models of a few milliseconds.

    Args:
        a: The model, or the reference of the two: a file's path or a model.
        b: The model that is said to be faster or slower than A.
        feeds: One array per input; None to generate them. Both models are run on the same.
        batch: Size of free first axes of generated feeds.
        dims: Sizes of free dimensions of generated feeds by name.
        rounds: Rounds of fresh sessions; None for 10, or 5 for slow models. At least 3 for an honest interval.
        min_time: Seconds of timed runs, all models together; sessions and warm-up come on top.
        threads: Threads inside one operator; None for ONNX Runtime's choice (the physical cores).
        provider: As for `runtime.sessions.open_session`.
        provider_options: Options for the provider, as ONNX Runtime spells them.
        optimization: Graph optimisations: `none`, `basic`, `extended` or `all`.
        use_tf32: Whether CUDA may round float32 to TF32; None for ONNX Runtime's default (yes).
        io_binding: Keep inputs and outputs on the device; None for: on CUDA yes, else no.
        cuda_graph: Replay runs as a CUDA graph.
        allow_cpu_nodes: Whether nodes beyond shape arithmetic may fall back to the CPU.
        memory: Whether to measure the peak memory, in one more process per model.
        variants: Whether to measure on CUDA also with host copies and as a CUDA graph.
        seed: Seed of the orders and of generated feeds.
        progress: Called with rounds done and rounds in all.

    Raises:
        InputError: A model or the feeds are not usable, or the memory ran out.
        ProviderError: The provider does not run a model here.
        UsageError: An option is out of range.
    """
    if rounds is not None and rounds < 1:
        raise UsageError(f"The number of rounds must be at least 1, not {rounds}.")
    if not min_time > 0:
        raise UsageError(f"The time to measure must be above 0 seconds, not {min_time}.")
    if threads is not None and threads < 1:
        raise UsageError(f"The number of threads must be at least 1, not {threads}.")
    started = time.perf_counter()
    options = RunOptions(
        provider=provider,
        provider_options={str(k): str(v) for k, v in (provider_options or {}).items()},
        threads=threads,
        optimization=optimization,
        use_tf32=use_tf32,
        io_binding=io_binding,
        cuda_graph=cuda_graph,
        allow_cpu_nodes=allow_cpu_nodes,
    )
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as folder:
        files = {"a": model_file(a, Path(folder), "A")}
        contestants = {"a": files["a"]}
        if b is not None:
            files["b"] = model_file(b, Path(folder), "B")
            contestants |= {"a_again": files["a"], "b": files["b"]}
        request = Request(
            kind="latency",
            models=contestants,
            options=options,
            feeds=feed_options(feeds, batch, dims, seed, Path(folder)),
            rounds=rounds,
            seconds=min_time,
            seed=seed,
        )
        response = ask(request, progress)
        peaks = {name: _peak(request, file) if memory else None for name, file in files.items()}
        result = _result(request, response, files, peaks)
        if variants and response.provider == "cuda" and not cuda_graph and response.io_binding:
            result.variants = {name: _variant(request, change) for name, change in CUDA_VARIANTS.items()}
    result.environment.seconds = time.perf_counter() - started
    return result


def _peak(request: Request, file: ModelFile) -> int | None:
    only = request.model_copy(update={"kind": "memory", "models": {"a": file}})
    return ask(only).peak_bytes


def _variant(request: Request, change: Mapping[str, Any]) -> Variant:
    options = request.options.model_copy(update=dict(change))
    try:
        response = ask(request.model_copy(update={"options": options, "seconds": request.seconds / 2}))
    except LacootError as error:
        return Variant(reason=str(error))
    found = response.contestants
    variant = Variant(a_ms=_milliseconds(found["a"])[0])
    if "b" in found:
        ratio = ratio_interval(_log_ratios(found), seed=request.seed)
        variant.b_ms = _milliseconds(found["b"])[0]
        variant.speedup, variant.ci95 = ratio.value, (ratio.low, ratio.high)
    return variant


def _milliseconds(report: ContestantReport) -> tuple[float, int]:
    summary = summarise(np.concatenate([np.asarray(samples) for samples in report.samples]))
    return summary.p50 * 1e3, summary.samples


def _log_ratios(found: Mapping[str, ContestantReport], against: str = "b") -> list[NDArray[np.float64]]:
    """Per cycle: log of the latency of A over that of B, or of A's second session.

    One session against one session, so that equal models give a symmetric distribution around zero: the mean of two
    sessions of A against one of B would not, since interruptions skew all of them upwards.
    """
    return [
        np.asarray(first) - np.asarray(second)
        for first, second in zip(found["a"].cycles, found[against].cycles, strict=True)
    ]


def _result(
    request: Request, response: Response, files: Mapping[str, ModelFile], peaks: Mapping[str, int | None]
) -> BenchResult:
    found = response.contestants
    machine = describe_machine()
    environment = Environment(
        cpu=machine.cpu,
        cpus=machine.cpus,
        affinity=machine.affinity,
        quota=machine.quota,
        gpu=gpu_name() if response.provider in ("cuda", "tensorrt") else None,
        system=machine.system,
        load_before=response.activity.load_before,
        load_after=response.activity.load_after,
        other_cpu=response.activity.other_cpu,
        throttled=response.activity.throttled,
        stolen_share=response.activity.stolen_share,
        overheated=response.activity.overheated,
        gpu_slowed=response.activity.gpu_slowed,
        onnxruntime=response.onnxruntime,
        python=platform.python_version(),
        provider=response.provider,
        provider_options=request.options.provider_options,
        threads=request.options.threads,
        thread_pool=response.thread_pool,
        optimization=request.options.optimization,
        tf32=(request.options.use_tf32 is not False) if response.provider == "cuda" else None,
        io_binding=response.io_binding,
        cuda_graph=request.options.cuda_graph,
        batch=response.batch,
        shapes=response.shapes,
        inputs="given" if request.feeds.file else f"generated (seed {request.feeds.seed})",
        rounds=len(found["a"].samples),
        seed=request.seed,
        seconds=0.0,
    )
    models = {name: _latency(files[name], found[name], response.batch, peaks[name]) for name in files}
    result = BenchResult(
        a=models["a"],
        environment=environment,
        samples=RawSamples(a=_raw(found["a"].samples)),
    )
    floor = None
    if "b" in models:
        rounds, own = _log_ratios(found), _log_ratios(found, "a_again")
        ratio = ratio_interval(rounds, seed=request.seed)
        floor = noise_floor(ratio_interval(own, seed=request.seed))
        result.b = models["b"]
        result.speedup, result.ci95 = ratio.value, (ratio.low, ratio.high)
        result.noise_floor = floor
        result.verdict = verdict(ratio, floor)
        result.smallest_detectable = smallest_detectable(ratio, floor)
        result.pairs = sum(len(pairs) for pairs in rounds)
        result.samples = RawSamples(
            a=_raw(found["a"].samples),
            a_again=_raw(found["a_again"].samples),
            b=_raw(found["b"].samples),
            log_ratios=[[round(float(v), 6) for v in pairs] for pairs in rounds],
            self_log_ratios=[[round(float(v), 6) for v in pairs] for pairs in own],
        )
    result.warnings = noise_warnings(
        response.activity,
        cpus=machine.affinity,
        quota=machine.quota,
        threads=request.options.threads,
        floor=floor,
        unstable=[files[name].label for name in files if not found[name].stable],
    )
    if result.b is not None and result.ci95 is not None:
        medians, slack = result.a.p50_ms / result.b.p50_ms, 1 + NOISY_FLOOR
        if not result.ci95[0] / slack <= medians <= result.ci95[1] * slack:
            result.warnings.append(
                f"The medians of all runs differ by a factor of {medians:.2f}, outside the interval of the speed-up: "
                f"interruptions or uneven runs lengthen one of the models more than the other."
            )
    if result.b is not None and environment.rounds < 3:
        result.warnings.append(
            f"{environment.rounds} round(s) of fresh sessions say little about how sessions differ; use 5 or more."
        )
    return result


def _latency(file: ModelFile, report: ContestantReport, batch: int, peak: int | None) -> ModelLatency:
    from lacoot_deploy.bench.files import file_hash, total_bytes

    summary = summarise(np.concatenate([np.asarray(samples) for samples in report.samples]))
    return ModelLatency(
        path=file.label,
        sha256=file_hash(file.path),
        file_bytes=total_bytes(file.path),
        provider=report.provider,
        placement=report.placement,
        cpu_nodes=report.cpu_nodes,
        samples=summary.samples,
        p50_ms=summary.p50 * 1e3,
        p90_ms=summary.p90 * 1e3,
        p99_ms=None if summary.p99 is None else summary.p99 * 1e3,
        iqr_ms=summary.iqr * 1e3,
        min_ms=summary.minimum * 1e3,
        per_second=batch / summary.p50,
        creation_ms=1e3 * stdlib_statistics.median(report.creation),
        first_run_ms=1e3 * stdlib_statistics.median(report.first),
        peak_memory_bytes=peak,
    )


def _raw(samples: Sequence[Sequence[float]]) -> list[list[float]]:
    """Milliseconds to the nanosecond."""
    return [[round(1e3 * value, 6) for value in one] for one in samples]
