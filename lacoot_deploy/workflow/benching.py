"""`bench`: latency of one model, or of two in pairs, on generated inputs or on real data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacoot_deploy.bench.options import BLOCK_SECONDS, DEFAULTS, BenchOptions
from lacoot_deploy.bench.result import BenchResult
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.workflow.data import samples_for

if TYPE_CHECKING:
    from numpy.typing import NDArray


def benchmark(
    a: str | Path,
    b: str | Path | None = None,
    options: BenchOptions = DEFAULTS,
    *,
    data: DataOptions | str | None = None,
    runtime: Runtime = AUTO,
    per_block: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Latency of model A, or of A and B in interleaved pairs.

    Args:
        a: The model, or the reference of the two.
        b: The model that is said to be faster or slower than A.
        options: How to measure.
        data: Real samples to run on, text as after `--data`; None to generate inputs. Where `options.dims` asks for
            other sizes than theirs, inputs are generated with those.
        runtime: Where both run.
        per_block: Measure also where A's time goes, by block, and where B is A without some of them, how much of the
            latency that they took was saved.
        progress: Called with rounds done and rounds in all.

    Raises:
        InputError: A file or the data cannot be used.
        ProviderError: The provider does not run a model here.
        UsageError: An option is out of range.
    """
    from lacoot_deploy.bench import bench
    from lacoot_deploy.graph.model.io import model_file
    from lacoot_deploy.runtime.reading import read_model

    paths = [model_file(path) for path in (a, b) if path is not None]
    models = [read_model(path) for path in paths]
    feeds: dict[str, NDArray[Any]] | None = None
    if data is not None:
        from lacoot_deploy.manifest import read_manifest
        from lacoot_deploy.runtime.sizes import timed_feeds

        data, batch = DataOptions.of(data), options.batch or 1
        samples = samples_for(models[0], read_manifest(models[0], path=paths[0]), data)
        if len(samples) < batch:
            raise InputError(f"--batch {batch} is larger than the {len(samples)} samples of {data.spec}.")
        feeds = next(samples.batches(batch))
        if options.dims or options.batch is None:
            feeds = timed_feeds(models[0], samples, options.dims, runtime=runtime, source=paths[0])
        options = replace(options, batch=None, dims={})
    result = bench(
        paths[0],
        paths[1] if b is not None else None,
        options,
        runtime=runtime,
        feeds=feeds,
        progress=progress,
    )
    if per_block:
        _add_blocks(result, paths, options, runtime, feeds)
    return result


def _add_blocks(
    result: BenchResult,
    paths: list[Path],
    options: BenchOptions,
    runtime: Runtime,
    feeds: Mapping[str, NDArray[Any]] | None,
) -> None:
    from lacoot_deploy.bench.per_block import block_latencies, realised
    from lacoot_deploy.workflow.inspecting import open_model

    opened = [open_model(path) for path in paths]
    result.per_block = block_latencies(
        paths[0],
        opened[0].able,
        replace(options, min_time=BLOCK_SECONDS),
        runtime=runtime,
        feeds=feeds,
    )
    if len(opened) < 2:
        return
    had, left = ({block.name for block in one.blocks} for one in opened)
    gone = [block.name for block in result.per_block.blocks if block.name not in left]
    if left - had:
        result.warnings.append(
            f"B has blocks that A has not ({min(left - had)}), so it is not A without some of its blocks: what was to "
            f"be expected of it is not known."
        )
    elif gone:
        result.realised = realised(result.per_block, gone, result)
