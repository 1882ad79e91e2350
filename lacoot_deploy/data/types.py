"""Images and samples as the other rooms see them: plain numpy arrays with labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
        feeds: One array per input; the first axis counts samples and is equally long in all.
        labels: What the source calls its labels, of any type and shape, [N, ...]; None where there are none.
        description: Where they came from, for records and messages.
        classes: Class names where the source has them; the label is the index.
        further_labels: Labels of other names, [N, ...] each.
    """

    feeds: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    description: str = ""
    classes: tuple[str, ...] = ()
    further_labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def label_arrays(self) -> dict[str, NDArray[Any]]:
        """All labels by name; those without a name of their own are `labels`."""
        return {**({} if self.labels is None else {"labels": self.labels}), **self.further_labels}

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def take(self, indices: NDArray[Any] | slice) -> Samples:
        """The samples at the given indices, in that order."""
        labels = None if self.labels is None else self.labels[indices]
        feeds = {name: a[indices] for name, a in self.feeds.items()}
        further = {name: a[indices] for name, a in self.further_labels.items()}
        return Samples(feeds, labels, self.description, self.classes, further)

    def batches(self, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Feeds of at most `size` samples each, in order; the last may be shorter."""
        for start in range(0, len(self), size):
            yield {name: a[start : start + size] for name, a in self.feeds.items()}


def join(first: Samples, second: Samples) -> Samples:
    """All samples of both, the first ones first; both have the same inputs and both have labels or neither."""
    labels = (
        None
        if first.labels is None or second.labels is None
        else np.concatenate([first.labels, second.labels])
    )
    feeds = {name: np.concatenate([array, second.feeds[name]]) for name, array in first.feeds.items()}
    further = {
        name: np.concatenate([array, second.further_labels[name]])
        for name, array in first.further_labels.items()
        if name in second.further_labels
    }
    return Samples(feeds, labels, first.description, first.classes, further)
