"""`bench`: the latency of one model, or of two in pairs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lacoot_deploy.bench.answer import build_result, log_ratios, median_ms
from lacoot_deploy.bench.options import DEFAULTS, BenchOptions
from lacoot_deploy.bench.process import ask
from lacoot_deploy.bench.protocol import ModelFile, Request, Response
from lacoot_deploy.bench.requests import feeds_file, model_file
from lacoot_deploy.bench.result import BenchResult, Variant
from lacoot_deploy.bench.statistics import ratio_interval
from lacoot_deploy.errors import LacootError
from lacoot_deploy.runtime.options import AUTO, Runtime

if TYPE_CHECKING:
    from lacoot_deploy.bench.requests import Model

CUDA_VARIANTS = {"host_copies": {"io_binding": False}, "cuda_graph": {"cuda_graph": True}}


def bench(
    a: Model,
    b: Model | None = None,
    options: BenchOptions = DEFAULTS,
    *,
    runtime: Runtime = AUTO,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Measure latency; with two models in interleaved pairs, with an interval and a verdict.

    Each round opens fresh sessions of A, of A once more (for the noise floor) and of B in random order, warms them up
    and times them in turn. The defaults take 10 to 15 seconds for models of a few milliseconds.

    Args:
        a: The model, or the reference of the two: a file's path or a model.
        b: The model that is said to be faster or slower than A.
        options: How to measure.
        runtime: Where both run.
        feeds: One array per input; None to generate them. Both models are run on the same.
        progress: Called with rounds done and rounds in all.

    Raises:
        InputError: A model or the feeds are not usable, or the memory ran out.
        ProviderError: The provider does not run a model here.
        UsageError: An option is out of range.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as folder:
        files = {"a": model_file(a, Path(folder), "A")}
        contestants = {"a": files["a"]}
        if b is not None:
            files["b"] = model_file(b, Path(folder), "B")
            contestants |= {"a_again": files["a"], "b": files["b"]}
        request = Request(
            kind="latency",
            models=contestants,
            runtime=runtime,
            options=options,
            feeds=feeds_file(feeds, Path(folder)),
        )
        response = ask(request, progress)
        taken = {name: _memory(request, file) for name, file in files.items()} if options.memory else {}
        result = build_result(request, response, files, taken)
        if (
            options.variants
            and response.provider == "cuda"
            and not options.cuda_graph
            and response.io_binding
        ):
            result.variants = {name: _variant(request, change) for name, change in CUDA_VARIANTS.items()}
    result.environment.seconds = time.perf_counter() - started
    return result


def _memory(request: Request, file: ModelFile) -> Response:
    return ask(request.model_copy(update={"kind": "memory", "models": {"a": file}}))


def _variant(request: Request, change: Mapping[str, Any]) -> Variant:
    options = replace(request.options, min_time=request.options.min_time / 2, **change)
    try:
        response = ask(request.model_copy(update={"options": options}))
    except LacootError as error:
        return Variant(reason=str(error))
    found = response.contestants
    variant = Variant(a_ms=median_ms(found["a"]))
    if "b" in found:
        ratio = ratio_interval(log_ratios(found), seed=request.options.seed)
        variant.b_ms = median_ms(found["b"])
        variant.speedup, variant.ci95 = ratio.value, (ratio.low, ratio.high)
    return variant
