"""`bench`: the latency of one model, or of two in pairs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lacoot_deploy.bench.answer import build_result, log_ratios, median_ms
from lacoot_deploy.bench.process import ask
from lacoot_deploy.bench.protocol import ModelFile, Request, Response, RunOptions
from lacoot_deploy.bench.requests import feed_options, model_file
from lacoot_deploy.bench.result import BenchResult, Variant
from lacoot_deploy.bench.statistics import ratio_interval
from lacoot_deploy.errors import LacootError, UsageError

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
    warmup_time: float | None = None,
    warmup_runs: int | None = None,
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
        warmup_time: Seconds that each session's warm-up takes at least; None for 0.05. It goes on until the runs are
            stable, for a second more at most.
        warmup_runs: Runs that it has at least; None for 3.
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
    if warmup_time is not None and not warmup_time >= 0:
        raise UsageError(f"The time to warm up must be 0 seconds or more, not {warmup_time}.")
    if warmup_runs is not None and warmup_runs < 1:
        raise UsageError(f"The number of warm-up runs must be at least 1, not {warmup_runs}.")
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
            warm_seconds=warmup_time,
            warm_runs=warmup_runs,
            seed=seed,
        )
        response = ask(request, progress)
        taken = {name: _memory(request, file) for name, file in files.items()} if memory else {}
        result = build_result(request, response, files, taken)
        if variants and response.provider == "cuda" and not cuda_graph and response.io_binding:
            result.variants = {name: _variant(request, change) for name, change in CUDA_VARIANTS.items()}
    result.environment.seconds = time.perf_counter() - started
    return result


def _memory(request: Request, file: ModelFile) -> Response:
    return ask(request.model_copy(update={"kind": "memory", "models": {"a": file}}))


def _variant(request: Request, change: Mapping[str, Any]) -> Variant:
    options = request.options.model_copy(update=dict(change))
    try:
        response = ask(request.model_copy(update={"options": options, "seconds": request.seconds / 2}))
    except LacootError as error:
        return Variant(reason=str(error))
    found = response.contestants
    variant = Variant(a_ms=median_ms(found["a"]))
    if "b" in found:
        ratio = ratio_interval(log_ratios(found), seed=request.seed)
        variant.b_ms = median_ms(found["b"])
        variant.speedup, variant.ci95 = ratio.value, (ratio.low, ratio.high)
    return variant
