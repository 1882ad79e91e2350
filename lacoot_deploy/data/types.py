"""Images and samples as the other rooms see them: plain numpy arrays with labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.ragged import Ragged


@dataclass(frozen=True)
class InputInfo:
    """One input (or output) of a model.

    Attributes:
        name: Its public name.
        shape: Its dimensions: numbers, symbolic names, or None where free.
        dtype: Its numpy element type, such as "float32"; "str" for strings.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str


@dataclass(frozen=True)
class ImageSet:
    """Labelled 8-bit images.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        classes: Class names; the label is the index.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[Any]) -> ImageSet:
        """The images at the given indices, in that order."""
        return ImageSet(self.images[indices], self.labels[indices], self.classes)


@dataclass(frozen=True)
class Samples:
    """Model inputs by name, with labels where there are any.

    Attributes:
        feeds: One array per input; the first axis counts samples and is equally long in all but the shared ones.
        labels: What the source calls its labels, of any type and shape, [N, ...]; None where there are none.
        description: Where they came from, for records and messages.
        classes: Class names where the source has them; the label is the index.
        shared: Names of the arrays that have no sample axis (a scalar, a switch) and are given whole to every run.
        numbers: int64 [N], which sample of the source each one is; None where they are the source's own, in order.
        further_labels: Labels of other names, [N, ...] each.
        axes: The axis that counts samples in what is fed, of inputs where it is not the first.
    """

    feeds: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    description: str = ""
    classes: tuple[str, ...] = ()
    shared: frozenset[str] = frozenset()
    numbers: NDArray[np.int64] | None = None
    further_labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)

    @property
    def label_arrays(self) -> dict[str, NDArray[Any]]:
        """All labels by name; those without a name of their own are `labels`."""
        return {**({} if self.labels is None else {"labels": self.labels}), **self.further_labels}

    @property
    def groups(self) -> NDArray[Any] | None:
        """Which samples belong together, one number each: those of a pair; None where each stands for itself."""
        return self.further_labels.get("pair")

    @property
    def own_feeds(self) -> dict[str, NDArray[Any]]:
        """The inputs that have a sample axis, and whose samples are of one size."""
        return {
            name: array
            for name, array in self.feeds.items()
            if name not in self.shared and isinstance(array, np.ndarray)
        }

    def __len__(self) -> int:
        return next((len(a) for name, a in self.feeds.items() if name not in self.shared), 1)

    def take(self, indices: NDArray[Any] | slice) -> Samples:
        """The samples at the given indices, in that order."""
        numbers = np.arange(len(self)) if self.numbers is None else self.numbers
        return replace(
            self,
            feeds={name: a if name in self.shared else a[indices] for name, a in self.feeds.items()},
            labels=None if self.labels is None else self.labels[indices],
            numbers=numbers[indices],
            further_labels={name: a[indices] for name, a in self.further_labels.items()},
        )

    def batches(self, size: int, *, full: bool = False) -> Iterator[dict[str, NDArray[Any]]]:
        """Feeds of at most `size` samples each, in order and as the model takes them; the last may be shorter.

        Args:
            size: Samples of a batch; fewer where the next sample is of another size.
            full: Whether a batch that is short is filled up with copies of its last sample.
        """
        for start, count in self.parts(size):
            fill = size - count if full else 0
            yield {
                name: a if name in self.shared else self._part(name, start, count, fill)
                for name, a in self.feeds.items()
            }

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Where batches of at most `size` samples begin, and how many samples they have."""
        feeds: list[Any] = list(self.feeds.values())
        ragged = [a for a in feeds if isinstance(a, Ragged)]
        start, total = 0, len(self)
        while start < total:
            count = min([size, total - start, *(a.run(start, size) for a in ragged)])
            yield start, count
            start += count

    def _part(self, name: str, start: int, count: int, fill: int) -> NDArray[Any]:
        values: Any = self.feeds[name]
        part = values.stacked(start, count) if isinstance(values, Ragged) else values[start : start + count]
        if fill:
            part = np.concatenate([part, np.repeat(part[-1:], fill, axis=0)])
        axis = self.axes.get(name, 0)
        return np.ascontiguousarray(np.moveaxis(part, 0, axis)) if axis else part

    def number(self, index: int) -> int:
        """Which sample of the source the one at this place is."""
        return index if self.numbers is None else int(self.numbers[index])


def _joined(first: Any, second: Any) -> Any:
    return first.joined(second) if isinstance(first, Ragged) else np.concatenate([first, second])


def join(first: Samples, second: Samples) -> Samples:
    """All samples of both, the first ones first; both have the same inputs and both have labels or neither."""
    labels = (
        None
        if first.labels is None or second.labels is None
        else np.concatenate([first.labels, second.labels])
    )
    feeds = {
        name: array if name in first.shared else _joined(array, second.feeds[name])
        for name, array in first.feeds.items()
    }
    numbers = [first.number(i) for i in range(len(first))] + [second.number(i) for i in range(len(second))]
    further = {
        name: np.concatenate([array, second.further_labels[name]])
        for name, array in first.further_labels.items()
    }
    return replace(
        first,
        feeds=feeds,
        labels=labels,
        numbers=np.asarray(numbers, dtype=np.int64),
        further_labels=further,
    )
