"""The `--data` grammar: turns a specification into model inputs with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.arrays import Reading, check_feed, read_npz, samples_from
from lacoot_deploy.data.images import IMAGE_SOURCES, load_images, normalise
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.data.splits import VAL_FRACTION
from lacoot_deploy.data.types import ImageSet, InputInfo, Samples
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.userfunctions import call_function, load_function

GRAMMAR = "digits, cifar10:PATH, fashion-mnist:PATH, imagefolder:PATH, npz:PATH or python:module:function"


def load_samples(
    spec: str | DataOptions,
    *,
    inputs: Sequence[InputInfo],
    preprocessing: PreprocessingRecord | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    val_fraction: float = VAL_FRACTION,
) -> Samples:
    """Samples for a model from a data specification.

    Args:
        spec: One of `digits`, `cifar10:PATH`, `fashion-mnist:PATH`, `imagefolder:PATH`, `npz:PATH`,
            `python:module:function`. The function of the last is called with no argument and returns a mapping from
            input names (and optionally `labels`) to arrays, or a pair (inputs, labels), or one mapping for each sample.
            Or the options that say this and what follows.
        inputs: The model's inputs.
        preprocessing: How images become inputs; needed for image sources.
        split: `train`, `val` or `test`, for image sources; npz and python sources are taken whole.
        limit: At most that many samples, chosen at random by `seed`; None for all.
        seed: Seed of that choice.
        val_fraction: Share of an image source's training images that `val` is; what the model was trained with.

    Raises:
        UsageError: The specification is not understood, or preprocessing is missing.
        InputError: The data is missing, malformed or does not fit the inputs.
    """
    options = spec if isinstance(spec, DataOptions) else DataOptions(spec, split, limit, seed)
    spec, split, limit, seed = options.spec, options.split, options.limit, options.seed
    kind, _, rest = spec.partition(":")
    if kind in ("npz", "python"):
        source = rest if kind == "npz" else spec
        reading = Reading(source, inputs, options.sample_axis, options.shared)
        found = read_npz(Path(rest)) if kind == "npz" else _called(rest, spec)
        samples = samples_from(found, reading)
    elif kind not in IMAGE_SOURCES:
        raise UsageError(f"The data source {spec!r} is not known; use one of {GRAMMAR}.")
    else:
        samples = _from_images(spec, inputs, preprocessing, split, limit, seed, val_fraction)
    samples = replace(samples, description=spec if kind in ("npz", "python") else f"{spec} [{split}]")
    if len(samples) == 0:
        raise InputError(f"{spec} holds no samples.")
    if limit is not None and limit < len(samples):
        samples = samples.take(choose(len(samples), limit, seed))
    return samples


def _called(target: str, spec: str) -> Any:
    """What a data source of the user's own gives; a generator is run to its end, so that its errors are told too."""
    found = call_function(load_function(target, "data source"), spec)
    return call_function(list, spec, found) if isinstance(found, Iterator) else found


def choose(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Sorted indices of `limit` out of `count` samples, chosen without replacement."""
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def _from_images(
    spec: str,
    inputs: Sequence[InputInfo],
    preprocessing: PreprocessingRecord | None,
    split: str,
    limit: int | None,
    seed: int,
    val_fraction: float,
) -> Samples:
    if len(inputs) != 1:
        names = ", ".join(info.name for info in inputs)
        raise InputError(
            f"{spec} gives one image per sample, but the model has {len(inputs)} inputs ({names})."
        )
    info = inputs[0]
    size = None if preprocessing is None else preprocessing.size
    images: ImageSet = load_images(spec, split, size=size, val_fraction=val_fraction)
    if preprocessing is None:
        raise UsageError(
            "The model carries no preprocessing in its manifest: give --mean, --std and --size for image data."
        )
    if limit is not None and limit < len(images):
        images = images.take(choose(len(images), limit, seed))
    values = normalise(images.images, preprocessing)
    if len(info.shape) == 4 and info.shape[3] == values.shape[1] and info.shape[1] != values.shape[1]:
        values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    check_feed(info, values, spec, 0)
    feeds = {info.name: values.astype(info.dtype, copy=False)}
    return Samples(feeds, images.labels, classes=images.classes)
