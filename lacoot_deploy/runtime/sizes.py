"""What a model is timed on: one run of the user's data, so that the sizes are those that it will meet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo, Samples
from lacoot_deploy.runtime.batching import Batching, declared_batch, find_batching
from lacoot_deploy.runtime.feeds import (
    dependent_sizes,
    generate_feeds,
    index_limits,
    model_inputs,
    sizes_of,
)
from lacoot_deploy.runtime.options import AUTO, Runtime

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, NDArray[Any]]


def timed_feeds(
    model: onnx.ModelProto,
    samples: Samples,
    dims: Mapping[str, int],
    *,
    runtime: Runtime = AUTO,
    source: Path | None = None,
) -> Feeds:
    """Arrays for one run: the first samples, as few as the model runs with.

    Args:
        model: The model.
        samples: The data.
        dims: Sizes of free dimensions that shall be others than those of the data, by name or `INPUT:AXIS`; with any,
            the values are generated.
        runtime: Where the model runs.
        source: The model's file, where it has external data.

    Raises:
        InputError: The model does not run on the samples.
        UsageError: A name in `dims` is no free dimension of the model.
    """
    inputs = tuple(info for info in model_inputs(model) if info.name in samples.feeds)
    feeds = next(_batching(model, inputs, samples, runtime, source).batches(samples)).feeds
    if not dims:
        return feeds
    return generate_feeds(inputs, dims=_changed(inputs, feeds, dims), limits=index_limits(model))


def _batching(
    model: onnx.ModelProto,
    inputs: tuple[InputInfo, ...],
    samples: Samples,
    runtime: Runtime,
    source: Path | None,
) -> Batching:
    from lacoot_deploy.runtime.sessions import open_session

    declared = declared_batch(inputs, samples.shared)
    if declared is not None:
        return Batching(declared, exact=True)
    session = open_session(model, runtime, source=source)
    return find_batching(session.run, inputs, samples, 1)[0]


def _changed(
    inputs: tuple[InputInfo, ...], feeds: Mapping[str, NDArray[Any]], dims: Mapping[str, int]
) -> dict[str, int]:
    """The sizes of the data with some of them changed, and what is computed from those with them."""
    seen, sums = sizes_of(inputs, feeds), dependent_sizes(inputs)
    chosen = dict(dims)
    for info in inputs:
        for axis, dim in enumerate(info.shape):
            key = f"{info.name}:{axis}"
            if isinstance(dim, int) or key in dims or dim in dims or dim in sums:
                continue
            chosen.setdefault(dim if isinstance(dim, str) else key, seen[key])
    return chosen
