"""How many samples a model takes at a time, found by running it, and where its outputs count samples.

Some models run with one batch size alone, and not all of them say so: the size may be fixed in an input, or written
into a Reshape somewhere inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo, Samples
from lacoot_deploy.errors import InputError

Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], Mapping[str, Any]]

SIZES = (1, 2, 4, 8, 16, 32, 3, 6, 12)
"""What is tried where a model does not run with the size that was wanted."""


@dataclass(frozen=True)
class Batch:
    """Some samples on their way through a model.

    Attributes:
        start: Place of the first of them.
        real: How many they are.
        size: How many the run has; more where it was filled up with copies of the last.
        feeds: The arrays to run on.
    """

    start: int
    real: int
    size: int
    feeds: Feeds


@dataclass(frozen=True)
class Batching:
    """How samples go through a model.

    Attributes:
        size: Samples of a run.
        exact: Whether every run has that many, so that a last one that is short is filled up.
    """

    size: int
    exact: bool = False

    def batches(self, samples: Samples) -> Iterator[Batch]:
        """The samples, batch by batch.

        Raises:
            InputError: The batch size is below 1.
        """
        if self.size < 1:
            raise InputError(f"The batch size must be at least 1, not {self.size}.")
        batches = samples.batches(self.size, full=self.exact)
        for (start, real), feeds in zip(samples.parts(self.size), batches, strict=True):
            yield Batch(start, real, self.size if self.exact else real, feeds)


def declared_batch(inputs: Sequence[InputInfo], shared: frozenset[str] = frozenset()) -> int | None:
    """The batch size that the model's inputs are fixed to; None where they leave it free."""
    sizes = (i.shape[0] for i in inputs if i.shape and i.name not in shared)
    return next((size for size in sizes if isinstance(size, int)), None)


def find_batching(
    run: Run, inputs: Sequence[InputInfo], samples: Samples, wanted: int
) -> tuple[Batching, Mapping[str, Any]]:
    """A batch size that the model runs with, and what it gave for the first batch of the samples.

    The size that its inputs are fixed to, else the one wanted; where it does not run with that, or gives outputs that
    count no samples but do so sample by sample, the first of `SIZES` that it does run with.

    Args:
        run: Runs the model once.
        inputs: Its inputs.
        samples: What to run it on.
        wanted: Samples of a run, where the model leaves that free.

    Raises:
        InputError: The model runs with none of them; the message is that of the first failure.
    """
    declared = declared_batch(inputs, samples.shared)
    first = Batching(wanted) if declared is None else Batching(declared, exact=True)
    try:
        values = _first(run, first, samples)
    except InputError as error:
        if declared is not None:
            raise
        for size in SIZES:
            if size <= len(samples) and size != first.size:
                try:
                    return Batching(size, exact=True), _first(run, Batching(size, exact=True), samples)
                except InputError:
                    continue
        raise error from None
    size = min(first.size, len(samples))
    if declared is None and size > 1 and _counting(values, size) < len(values):
        single = Batching(1, exact=True)
        try:
            one = _first(run, single, samples)
        except InputError:
            return first, values
        if sum(0 in _axes(value, 1) for value in one.values()) > _counting(values, size):
            return single, one
    return first, values


def _first(run: Run, batching: Batching, samples: Samples) -> Mapping[str, Any]:
    return run(next(batching.batches(samples)).feeds)


def _counting(values: Mapping[str, Any], size: int) -> int:
    return sum(_axes(value, size) != () for value in values.values())


def _axes(value: Any, size: int) -> tuple[int, ...]:
    """The axes of a value that have as many entries as there were samples."""
    if not isinstance(value, np.ndarray):
        return ()
    return tuple(axis for axis, length in enumerate(value.shape) if length == size)


def sample_axes(runs: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, int]:
    """Where the outputs of a model count samples.

    That is the axis that has as many entries as each run had samples, the first axis where it does. An output whose
    other axes change from run to run, as the rows that a detector finds, counts none.

    Args:
        runs: What the model gave in each run, and how many samples the run had.

    Returns:
        The axis, for the outputs that have one.
    """
    if not runs:
        return {}
    found: dict[str, int] = {}
    for name, value in runs[0][0].items():
        axes = set(_axes(value, runs[0][1]))
        for values, size in runs[1:]:
            axes &= set(_axes(values[name], size))
        # Where all runs are of one size, another axis may have that length by chance.
        sure = axes if len({size for _, size in runs}) > 1 else axes & {0}
        if sure and len({_rest(values[name], min(sure)) for values, _ in runs}) == 1:
            found[name] = min(sure)
    return found


def _rest(value: NDArray[Any], axis: int) -> tuple[int, ...]:
    return value.shape[:axis] + value.shape[axis + 1 :]


def rows(value: NDArray[Any], axis: int, real: int) -> NDArray[Any]:
    """The entries of an output that belong to real samples, [real, ...]."""
    return np.moveaxis(value, axis, 0)[:real]


def first_not_finite(value: NDArray[Any]) -> tuple[int, ...] | None:
    """Index of the first entry that is no number or infinite; None where all are finite or the type has none such."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fc":
        return None
    finite = np.isfinite(value)
    if finite.all():
        return None
    return tuple(int(i) for i in np.argwhere(~finite)[0])


def check_finite(
    name: str, value: NDArray[Any], samples: Samples, start: int = 0, *, what: str = "output"
) -> None:
    """Refuse samples for which a network gives what is no number.

    Args:
        name: The output.
        value: What it is for samples from number `start` on, [n, ...].
        samples: All samples.
        start: Place of the first of them.
        what: What messages call the output.

    Raises:
        InputError: Naming the output, the sample and the place.
    """
    place = first_not_finite(value)
    if place is not None:
        at = f" at {list(place[1:])}" if place[1:] else ""
        raise InputError(
            f"The model's {what} {name!r} is {value[place]}{at} for sample {samples.number(start + place[0])}; mend "
            f"that sample, or leave it out."
        )


def check_samples(samples: Samples) -> None:
    """Refuse samples that hold what is no number. Infinity is let through: masks are made of it.

    Raises:
        InputError: Naming the input, the sample and the place.
    """
    for name, values in samples.feeds.items():
        for number, part in enumerate(getattr(values, "parts", ())):
            if part.dtype.kind == "f" and np.isnan(part).any():
                raise InputError(
                    f"Input {name!r} is nan in sample {samples.number(number)}; mend it, or leave it out."
                )
        if not isinstance(values, np.ndarray):
            continue
        if values.dtype.kind != "f" or not np.isnan(values.sum(dtype=np.float64)):
            continue
        wrong = np.argwhere(np.isnan(values))
        if not len(wrong):
            continue
        place = [int(i) for i in wrong[0]]
        where = "the array" if name in samples.shared else f"sample {samples.number(place.pop(0))}"
        at = f" at {place}" if place else ""
        raise InputError(f"Input {name!r} is nan in {where}{at}; mend it, or leave it out.")
