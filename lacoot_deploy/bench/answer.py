"""Puts what the measuring process answered into the result that a user reads."""

from __future__ import annotations

import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.bench.environment import NOISY_FLOOR, gpu_name, noise_warnings
from lacoot_deploy.bench.opener import NVIDIA
from lacoot_deploy.bench.protocol import ContestantReport, ModelFile, Request, Response
from lacoot_deploy.bench.result import BenchResult, Environment, ModelLatency, RawSamples
from lacoot_deploy.bench.statistics import (
    P99_SAMPLES,
    noise_floor,
    ratio_interval,
    smallest_detectable,
    standard_error,
    summarise,
    verdict,
)
from lacoot_deploy.machine import describe_machine


def median_ms(report: ContestantReport) -> float:
    """Median latency over all samples."""
    summary = summarise(np.concatenate([np.asarray(samples) for samples in report.samples]))
    return summary.p50 * 1e3


def log_ratios(found: Mapping[str, ContestantReport], against: str = "b") -> list[NDArray[np.float64]]:
    """Per cycle: log of the latency of A over that of B, or of A's second session.

    One session against one session, so that equal models give a symmetric distribution around zero: the mean of two
    sessions of A against one of B would not, since interruptions skew all of them upwards.
    """
    return [
        np.asarray(first) - np.asarray(second)
        for first, second in zip(found["a"].cycles, found[against].cycles, strict=True)
    ]


def build_result(
    request: Request, response: Response, files: Mapping[str, ModelFile], memory: Mapping[str, Response]
) -> BenchResult:
    """What `bench` says.

    Args:
        request: What was asked.
        response: What was measured.
        files: The models by name, `a` and perhaps `b`.
        memory: What each took, where that was measured.
    """
    found = response.contestants
    environment = _environment(request, response)
    models = {name: _latency(files[name], found[name], response.batch, memory.get(name)) for name in files}
    result = BenchResult(
        a=models["a"],
        environment=environment,
        samples=RawSamples(a=_raw(found["a"].samples)),
    )
    if "b" in models:
        result.b = models["b"]
        _add_pair(result, found, request.options.seed)
    result.warnings = noise_warnings(
        response.activity,
        cpus=environment.affinity,
        quota=environment.quota,
        threads=request.runtime.threads,
        floor=result.noise_floor,
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


def _add_pair(result: BenchResult, found: Mapping[str, ContestantReport], seed: int) -> None:
    """What follows from the pairs: the speed-up with its interval, held against A beside itself."""
    rounds, own = log_ratios(found), log_ratios(found, "a_again")
    ratio, floor = ratio_interval(rounds, seed=seed), noise_floor(ratio_interval(own, seed=seed))
    result.speedup, result.ci95 = ratio.value, (ratio.low, ratio.high)
    result.noise_floor, result.verdict = floor, verdict(ratio, floor)
    result.smallest_detectable = smallest_detectable(ratio, floor)
    result.pairs = sum(len(pairs) for pairs in rounds)
    result.samples = RawSamples(
        a=_raw(found["a"].samples),
        a_again=_raw(found["a_again"].samples),
        b=_raw(found["b"].samples),
        log_ratios=[[round(float(v), 6) for v in pairs] for pairs in rounds],
        self_log_ratios=[[round(float(v), 6) for v in pairs] for pairs in own],
    )


def _environment(request: Request, response: Response) -> Environment:
    """Where and how it was measured; the caller adds how long that took."""
    machine, runtime, options = describe_machine(), request.runtime, request.options
    return Environment(
        cpu=machine.cpu,
        cpus=machine.cpus,
        affinity=machine.affinity,
        quota=machine.quota,
        gpu=gpu_name() if response.provider in NVIDIA else None,
        system=machine.system,
        **vars(response.activity),
        onnxruntime=response.onnxruntime,
        python=platform.python_version(),
        provider=response.provider,
        why=response.why,
        provider_options=dict(runtime.provider_options),
        threads=runtime.threads,
        thread_pool=response.thread_pool,
        optimization=options.optimization,
        tf32=(options.use_tf32 is not False) if response.provider == "cuda" else None,
        io_binding=response.io_binding,
        cuda_graph=options.cuda_graph,
        batch=response.batch,
        shapes=response.shapes,
        inputs="given" if request.feeds else f"generated (seed {options.seed})",
        rounds=len(response.contestants["a"].samples),
        seed=options.seed,
        seconds=0.0,
    )


def _latency(file: ModelFile, report: ContestantReport, batch: int, memory: Response | None) -> ModelLatency:
    from lacoot_deploy.bench.files import file_hash, total_bytes

    summary = summarise(np.concatenate([np.asarray(samples) for samples in report.samples]))
    return ModelLatency(
        path=file.label,
        sha256=file_hash(file.path),
        file_bytes=total_bytes(file.path),
        provider=report.provider,
        placement=dict(Counter(node.provider for node in report.nodes)),
        nodes=report.nodes,
        cpu_nodes=report.cpu_nodes,
        samples=summary.samples,
        interrupted=report.interrupted,
        p50_ms=summary.p50 * 1e3,
        p90_ms=summary.p90 * 1e3,
        p99_ms=None if summary.p99 is None else summary.p99 * 1e3,
        iqr_ms=summary.iqr * 1e3,
        min_ms=summary.minimum * 1e3,
        per_second=batch / summary.p50,
        creation_ms=1e3 * statistics.median(report.creation),
        first_run_ms=1e3 * statistics.median(report.first),
        warm_runs=int(statistics.median(report.warm_runs)),
        peak_memory_bytes=None if memory is None else memory.peak_bytes,
        gpu_memory_bytes=None if memory is None else memory.gpu_bytes,
        standard_errors=_standard_errors(report, batch),
    )


def _standard_errors(report: ContestantReport, batch: int) -> dict[str, float]:
    rounds = [np.asarray(samples) for samples in report.samples]
    quartiles = [np.percentile(one, [25, 50, 75, 90, 99]) for one in rounds]
    by_round = {
        "p50_ms": [1e3 * q[1] for q in quartiles],
        "p90_ms": [1e3 * q[3] for q in quartiles],
        "p99_ms": [1e3 * q[4] for q in quartiles] if sum(map(len, rounds)) >= P99_SAMPLES else [],
        "iqr_ms": [1e3 * (q[2] - q[0]) for q in quartiles],
        "min_ms": [1e3 * float(one.min()) for one in rounds],
        "per_second": [batch / q[1] for q in quartiles],
        "creation_ms": [1e3 * seconds for seconds in report.creation],
        "first_run_ms": [1e3 * seconds for seconds in report.first],
    }
    found = {name: standard_error([float(value) for value in values]) for name, values in by_round.items()}
    return {name: float(f"{error:.3g}") for name, error in found.items() if error is not None}


def _raw(samples: Sequence[Sequence[float]]) -> list[list[float]]:
    """Milliseconds to the nanosecond."""
    return [[round(1e3 * value, 6) for value in one] for one in samples]
