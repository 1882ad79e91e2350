"""The `--data` grammar: turns a specification into model inputs with labels."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.bounds import check_bytes
from lacoot_deploy.data.images import IMAGE_SOURCES, exists, load_images, normalise
from lacoot_deploy.data.splits import VAL_FRACTION
from lacoot_deploy.data.types import ImageSet, InputInfo, Samples
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.userfunctions import load_function

GRAMMAR = "digits, cifar10:PATH, fashion-mnist:PATH, imagefolder:PATH, npz:PATH or python:module:function"


def load_samples(
    spec: str,
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
            input names (and optionally `labels`) to arrays, or a pair (inputs, labels).
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
    kind, _, rest = spec.partition(":")
    if kind == "npz":
        samples = from_arrays(_read_npz(Path(rest)), inputs, rest)
    elif kind == "python":
        samples = from_arrays(load_function(rest, "data source")(), inputs, spec)
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
    _check(info, values, spec)
    feeds = {info.name: values.astype(info.dtype, copy=False)}
    return Samples(feeds, images.labels, classes=images.classes)


def _check(info: InputInfo, values: NDArray[Any], source: str) -> None:
    want, got = info.shape, values.shape
    fits = len(want) == len(got) and all(
        not isinstance(w, int) or w == g for w, g in zip(want[1:], got[1:], strict=False)
    )
    if not fits:
        wanted = "[" + ", ".join("?" if d is None else str(d) for d in want) + "]"
        raise InputError(
            f"{source} does not fit input {info.name!r}: it has shape {list(got)}, expected {wanted}."
        )


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not str(path) or not exists(path) or not path.is_file():
        raise InputError(f"{path} does not exist; give npz:PATH with an .npz file.")
    try:
        # Opened as a zip archive first: np.load would take a pickle or a single array as well, and looks at neither
        # how much it is about to unpack.
        with zipfile.ZipFile(path) as archive:
            check_bytes(sum(info.file_size for info in archive.infolist()), f"What {path} unpacks to")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _no_objects(arrays[name], name) for name in arrays.files}
    except InputError:
        raise
    except Exception as error:  # damaged headers and every way of packing have errors of their own
        raise InputError(f"{path} is no usable .npz file: {str(error) or type(error).__name__}.") from None


def _no_objects(array: Any, name: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise ValueError(f"{name} is no array of numbers or texts")
    return array


def from_arrays(data: Any, inputs: Sequence[InputInfo], source: str) -> Samples:
    """Samples from what a user's function or file gives: a mapping from input names to arrays, or (inputs, labels).

    Args:
        data: It.
        inputs: The model's inputs.
        source: Where it came from, as messages call it.

    Raises:
        InputError: It does not fit the inputs.
    """
    if isinstance(data, tuple) and len(data) == 2:
        feeds, labels = data
        data = dict(feeds) if isinstance(feeds, dict) else {inputs[0].name: feeds}
        if labels is not None:
            data["labels"] = labels
    if not isinstance(data, dict):
        raise InputError(
            f"{source} gives a {type(data).__name__}; expected a mapping from input names to arrays."
        )
    arrays = {name: np.asarray(value) for name, value in data.items()}
    missing = [info.name for info in inputs if info.name not in arrays]
    if missing:
        raise InputError(
            f"{source} lacks an array for input {', '.join(map(repr, missing))}; "
            f"it holds {', '.join(map(repr, sorted(arrays))) or 'nothing'}."
        )
    feeds = {}
    for info in inputs:
        values = arrays[info.name]
        _check(info, values, source)
        kind = _element_type(info, source)
        if kind is not None and not np.can_cast(values.dtype, kind, "same_kind"):
            raise InputError(
                f"{source} does not fit input {info.name!r}: it is {values.dtype}, expected {info.dtype}."
            )
        feeds[info.name] = values if kind is None else values.astype(kind, copy=False)
    named_input = any(info.name == "labels" for info in inputs)
    labels = None if named_input else arrays.get("labels")
    shared = _without_samples(feeds, inputs)
    if len(shared) == len(feeds):
        raise InputError(
            f"{source} holds no array with a first axis to count samples by: {', '.join(map(repr, sorted(feeds)))}."
        )
    if labels is not None and (labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer)):
        raise InputError(f"The labels in {source} must be one integer per sample.")
    counts = {name: len(a) for name, a in feeds.items() if name not in shared}
    counts |= {} if labels is None else {"labels": len(labels)}
    if len(set(counts.values())) > 1:
        raise InputError(f"{source} holds different numbers of samples: {counts}.")
    return Samples(feeds, None if labels is None else labels.astype(np.int64), shared=shared)


def _without_samples(feeds: dict[str, NDArray[Any]], inputs: Sequence[InputInfo]) -> frozenset[str]:
    """Inputs that are given whole to every run, where that is certain.

    A scalar has no axis to count by. An array of exactly the shape that the model fixes is one too where another input
    has another number of samples.
    """
    scalars = {name for name, array in feeds.items() if array.ndim == 0}
    fixed = {i.name for i in inputs if i.shape and i.shape == feeds[i.name].shape}
    free = {len(feeds[name]) for name in feeds.keys() - scalars - fixed}
    if not free and fixed:
        free = {max(len(feeds[name]) for name in fixed)}
    if len(free) != 1:
        return frozenset(scalars)
    return frozenset(scalars | {name for name in fixed if len(feeds[name]) not in free})


def _element_type(info: InputInfo, source: str) -> np.dtype[Any] | None:
    """NumPy's type of an input's elements; None for texts, which are fed as they are.

    Raises:
        InputError: NumPy has no such type.
    """
    if info.dtype == "str":
        return None
    try:
        return np.dtype(info.dtype)
    except TypeError:
        raise InputError(
            f"{source} cannot be fed to input {info.name!r}: it is {info.dtype}, which NumPy arrays cannot hold."
        ) from None
