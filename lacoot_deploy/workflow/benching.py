"""`bench`: latency of one model, or of two in pairs, on generated inputs or on real data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacoot_deploy.errors import InputError
from lacoot_deploy.workflow.data import DataOptions, samples_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lacoot_deploy.bench import BenchResult


def bench_files(
    a: str | Path,
    b: str | Path | None = None,
    *,
    data: DataOptions | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    **options: Any,
) -> BenchResult:
    """Latency of model A, or of A and B in interleaved pairs.

    Args:
        a: The model, or the reference of the two.
        b: The model that is said to be faster or slower than A.
        data: Real samples to run on; None to generate inputs.
        batch: Samples in one run; 1 by default where the model leaves it free.
        dims: Sizes of other free dimensions of generated inputs.
        options: As for `lacoot_deploy.bench.bench`.

    Raises:
        InputError: A file or the data cannot be used.
        ProviderError: The provider does not run a model here.
        UsageError: An option is out of range.
    """
    from lacoot_deploy.bench import bench
    from lacoot_deploy.graph.io import load_model

    paths = [Path(path) for path in (a, b) if path is not None]
    models = [load_model(path) for path in paths]
    feeds: dict[str, NDArray[Any]] | None = None
    if data is not None:
        from lacoot_deploy.manifest import read_manifest

        samples = samples_for(models[0], read_manifest(models[0], path=paths[0]), data)
        if len(samples) < (batch or 1):
            raise InputError(f"--batch {batch} is larger than the {len(samples)} samples of {data.spec}.")
        feeds = next(samples.batches(batch or 1))
    return bench(
        paths[0],
        paths[1] if b is not None else None,
        feeds=feeds,
        batch=None if feeds is not None else batch,
        dims=dims,
        **options,
    )
