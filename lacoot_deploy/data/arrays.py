"""Samples from arrays by name: `.npz` files, folders of `.npy` files, and what functions of the user's own return.

One array per input under its name; `labels`, or `labels.NAME` for several, of any type and shape; `NAME.0`, `NAME.1`,
... for an input whose samples differ in size. An array that is none of these is an error that names the nearest.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.bounds import check_bytes
from lacoot_deploy.data.images import exists
from lacoot_deploy.data.ragged import Ragged, gather_ragged
from lacoot_deploy.data.types import InputInfo, Samples
from lacoot_deploy.errors import InputError, UsageError

LABELS = "labels"


@dataclass(frozen=True)
class Reading:
    """How arrays are read.

    Attributes:
        source: What messages call them.
        inputs: The model's inputs.
        sample_axis: The axis that counts samples, of inputs where that is not the first.
        shared: Inputs that have no sample axis.
    """

    source: str
    inputs: Sequence[InputInfo]
    sample_axis: Mapping[str, int] = field(default_factory=dict)
    shared: tuple[str, ...] = ()

    def check_names(self) -> None:
        """Refuse names that are no inputs.

        Raises:
            UsageError: An option names an input that the model does not have.
        """
        names = [info.name for info in self.inputs]
        for option, given in (("--sample-axis", self.sample_axis), ("--shared", self.shared)):
            unknown = [name for name in given if name not in names]
            if unknown:
                raise UsageError(
                    f"{option} names {unknown[0]!r}, which is no input; the model has {', '.join(names)}."
                )


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file, or of the `.npy` files in a folder, which are read when they are used.

    Raises:
        InputError: There is no such file, or it holds something else than arrays of numbers and texts.
    """
    if str(path) and exists(path) and path.is_dir():
        return _read_folder(path)
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


def _read_folder(folder: Path) -> dict[str, NDArray[Any]]:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise InputError(f"{folder} is a folder without .npy files; give one .npy file for each input in it.")
    try:
        return {f.stem: np.load(f, mmap_mode="r", allow_pickle=False) for f in files}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds a file that is no array of numbers or texts: {error}.") from None


def _no_objects(array: Any, name: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise ValueError(f"{name} is no array of numbers or texts")
    return array


def samples_from(data: Any, reading: Reading) -> Samples:
    """Samples from what a file holds or a function returned.

    Args:
        data: A mapping from names to arrays; a pair (inputs, labels); or one mapping for each sample.
        reading: How it is read.

    Raises:
        UsageError: An option names an input that the model does not have.
        InputError: It does not fit the inputs.
    """
    reading.check_names()
    source, inputs = reading.source, reading.inputs
    arrays = gather_ragged(_mapping(data, inputs, source), [info.name for info in inputs], source)
    missing = [info.name for info in inputs if info.name not in arrays]
    if missing:
        raise InputError(
            f"{source} lacks an array for input {', '.join(map(repr, missing))}; "
            f"it holds {', '.join(map(repr, sorted(arrays))) or 'nothing'}."
        )
    feeds = {info.name: _feed(info, arrays.pop(info.name), reading) for info in inputs}
    labels, further = arrays.pop(LABELS, None), {}
    for name in list(arrays):
        if name.startswith(f"{LABELS}."):
            further[name.removeprefix(f"{LABELS}.")] = arrays.pop(name)
    if arrays:
        raise InputError(_unknown(next(iter(arrays)), inputs, source))
    shared = _without_samples(feeds, inputs) | frozenset(reading.shared)
    if len(shared) == len(feeds):
        raise InputError(
            f"{source} holds no array with a first axis to count samples by: {', '.join(map(repr, sorted(feeds)))}."
        )
    counts = {name: len(a) for name, a in feeds.items() if name not in shared}
    for name, array in (({} if labels is None else {LABELS: labels}) | further).items():
        if np.ndim(array) == 0:
            raise InputError(f"{name} in {source} is a single value; labels need one entry a sample.")
        counts[name] = len(array)
    if len(set(counts.values())) > 1:
        raise InputError(f"{source} holds different numbers of samples: {counts}.")
    axes = {name: axis for name, axis in reading.sample_axis.items() if axis and name not in shared}
    return Samples(feeds, labels, shared=shared, further_labels=further, axes=axes)


def _mapping(data: Any, inputs: Sequence[InputInfo], source: str) -> dict[str, Any]:
    if isinstance(data, tuple) and len(data) == 2:
        feeds, labels = data
        data = dict(feeds) if isinstance(feeds, Mapping) else {inputs[0].name: feeds}
        if isinstance(labels, Mapping):
            data |= {f"{LABELS}.{name}": values for name, values in labels.items()}
        elif labels is not None:
            data[LABELS] = labels
    if isinstance(data, np.ndarray) and len(inputs) == 1:
        data = {inputs[0].name: data}
    if (
        not isinstance(data, Mapping)
        and isinstance(data, Iterable)
        and not isinstance(data, (str, bytes, np.ndarray))
    ):
        data = _gathered(list(data), source)
    if not isinstance(data, Mapping):
        raise InputError(
            f"{source} gives a {type(data).__name__}; expected a mapping from input names to arrays."
        )
    return dict(data)


def _gathered(parts: list[Any], source: str) -> dict[str, Any]:
    """One mapping for each sample, or for a few samples at a time, as lists by name."""
    wrong = next((part for part in parts if not isinstance(part, Mapping)), None)
    if not parts or wrong is not None:
        kind = "nothing" if wrong is None else f"a {type(wrong).__name__} for a sample"
        raise InputError(f"{source} gives {kind}; expected a mapping from input names to arrays.")
    names = list(parts[0])
    if any(list(part) != names for part in parts):
        raise InputError(f"{source} gives samples with different names.")
    return {name: Ragged.of_batches([np.asarray(part[name]) for part in parts]) for name in names}


def _feed(info: InputInfo, values: Any, reading: Reading) -> Any:
    """An input's array, samples first, in the model's type."""
    source, axis = reading.source, reading.sample_axis.get(info.name, 0)
    if isinstance(values, Ragged):
        for part in values.parts:
            check_feed(info, part[None], source, 0)
    else:
        values = np.asarray(values)
        if axis >= max(values.ndim, 1):
            raise InputError(
                f"--sample-axis {info.name}={axis}: the array in {source} has {values.ndim} axes."
            )
        check_feed(info, values, source, None if info.name in reading.shared else axis)
    kind = _element_type(info, source)
    if kind is not None and not np.can_cast(values.dtype, kind, "same_kind"):
        raise InputError(
            f"{source} does not fit input {info.name!r}: it is {values.dtype}, expected {info.dtype}."
        )
    values = values if kind is None else values.astype(kind, copy=False)
    return np.moveaxis(values, axis, 0) if axis else values


def _unknown(name: str, inputs: Sequence[InputInfo], source: str) -> str:
    known = [info.name for info in inputs] + [LABELS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"labels of another name are called {LABELS}.{name}."
    return f"{source} holds {name!r}, which is neither an input ({', '.join(known[:-1])}) nor labels; {hint}"


def check_feed(info: InputInfo, values: NDArray[Any], source: str, axis: int | None) -> None:
    """Refuse an array that is not of an input's shape.

    Args:
        info: The input.
        values: The array, in the model's layout.
        source: Where it comes from.
        axis: The axis that counts samples, of any length; None where none does.

    Raises:
        InputError: It has another number of axes, or another length along one that the model fixes.
    """
    want, got = info.shape, values.shape
    fits = len(want) == len(got) and all(
        not isinstance(w, int) or w == g or i == axis for i, (w, g) in enumerate(zip(want, got, strict=False))
    )
    if not fits:
        wanted = "[" + ", ".join("?" if d is None else str(d) for d in want) + "]"
        raise InputError(
            f"{source} does not fit input {info.name!r}: it has shape {list(got)}, expected {wanted}."
        )


def _without_samples(feeds: Mapping[str, Any], inputs: Sequence[InputInfo]) -> frozenset[str]:
    """Inputs that are given whole to every run, where that is certain.

    A scalar has no axis to count by. An array of exactly the shape that the model fixes is one too where another input
    has another number of samples.
    """
    scalars = {name for name, array in feeds.items() if array.ndim == 0}
    fixed = {i.name for i in inputs if i.shape and i.shape == getattr(feeds[i.name], "shape", None)}
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
