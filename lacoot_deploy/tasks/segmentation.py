"""One class a pixel: label maps of another size than the output, pixels without a label, mean IoU over classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import NUMPY, Operations
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.class_scores import ClassScores, odd_classes, whole_numbers
from lacoot_deploy.tasks.masks import masked_mean

IGNORED = (-100, -1, 255)
"""Labels of pixels that do not count; 255 where the output has no such class."""

NONE = -1


@dataclass(frozen=True)
class Segmentation(Task):
    """One class a pixel.

    Attributes:
        scores: How the output tells classes; a single channel stands for yes or no.
        label: Name of the labels; None where there are none.
        single: Whether the output has one channel, so that there are two classes.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "segmentation"
    summary: ClassVar[str] = "a class for each pixel: mean IoU, pixel accuracy"
    wants: ClassVar[str] = (
        "an output of [samples, classes, height, width] (or the class itself, [samples, height, width]) and label maps"
    )

    scores: ClassScores
    label: str | None = None
    single: bool = False
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """The first output of maps; without labels only where they are surely classes."""
        unfit = Unfit("no output is a map of classes")
        for name, values in facts.outputs.items():
            scores = _map_scores(name, values, [a.shape[1:] for a in facts.labels.values()])
            if scores is None:
                continue
            single = scores.kind != "answers" and scores.classes == 1
            if not facts.labels:
                if facts.named or _surely_classes(name, scores, single, values, facts):
                    return cls(_counted(scores, [values], single), None, single)
                continue
            for label, given in facts.labels.items():
                read = _read(given, 2 if single else scores.classes)
                if not isinstance(read, Unfit):
                    return cls(_counted(scores, [values, read], single), label, single)
                unfit = read
        return unfit

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output with the classes."""
        return (self.scores.output,)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Mean IoU over the classes that occur, and the share of right pixels."""
        return (
            Measure("mean IoU", "points", self._mean_iou, span=100.0),
            Measure("pixel accuracy", "points", self._accuracy, span=100.0),
        )

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """Label maps [n, height, width], -1 where a pixel does not count.

        Raises:
            InputError: The labels are no maps of the output's classes.
        """
        if self.label is None or self.label not in labels:
            return Truth()
        found = _read(labels[self.label], 0 if self.scores.kind == "answers" else self.classes)
        if isinstance(found, Unfit):
            raise InputError(f"The labels do not fit the output {self.scores.output!r}: {found.reason}.")
        return Truth({"map": found})

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 2 if self.single else self.scores.classes

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """Cross-entropy (else the divergence from the dense network's classes), mean over pixels that count."""
        values = self._channels(ops, outputs[self.scores.output])
        labels = truth.labels.get("map")
        if labels is None:
            assert dense is not None
            other = self._channels(ops, dense[self.scores.output])
            return masked_mean(ops, self._two().costs(ops, values, None, other), None)
        labels = ops.like(labels, values)
        values = self._in_size(ops, values, labels.shape[1:])
        return masked_mean(ops, self._two().costs(ops, values, labels, None), labels != NONE)

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Per class the pixels that both, the network and the truth give it: [n, 3 classes]."""
        labels = truth.labels.get("map")
        found = np.zeros((len(outputs[self.scores.output]), 3, self.classes + 1))
        for i, counts in enumerate(found):
            wanted = labels[i] if labels is not None else self._answers(dense, i, None)
            given = self._answers(outputs, i, wanted.shape)
            real = wanted != NONE
            given, wanted = (np.minimum(a[real], self.classes).astype(np.int64) for a in (given, wanted))
            for row, classes in zip(counts, (given[given == wanted], given, wanted), strict=True):
                row[:] = np.bincount(classes, minlength=self.classes + 1)
        return np.asarray(found[:, :, : self.classes].reshape(len(found), 3 * self.classes))

    def settings(self) -> dict[str, Any]:
        """How the output tells classes, and how many there are."""
        return {"scores": self.scores.kind, "classes": self.classes, "axis": self.scores.axis}

    def _two(self) -> ClassScores:
        return ClassScores(self.scores.output, 1, self.scores.kind, self.classes)

    def _channels(self, ops: Operations, values: Any) -> Any:
        """The output as [n, classes, height, width]; answers as [n, height, width]."""
        if self.scores.kind == "answers":
            return values.reshape(len(values), *values.shape[-2:])
        values = ops.move(values, self.scores.axis, 1)
        if not self.single:
            return values
        values = ops.floating(values)
        no = 1 - values if self.scores.kind == "probabilities" else values * 0
        return ops.join([no, values], 1)

    def _in_size(self, ops: Operations, values: Any, size: Any) -> Any:
        """Class scores brought to a label map's size, bilinear as evaluations do; answers by their nearest pixel."""
        if tuple(values.shape[-2:]) == tuple(size):
            return values
        if self.scores.kind == "answers":
            places = [
                np.minimum(((np.arange(n) + 0.5) * m / n).astype(np.int64), m - 1)
                for n, m in zip(size, values.shape[-2:], strict=True)
            ]
            return values[:, places[0]][:, :, places[1]]
        values = ops.floating(values)
        for axis in (2, 3):
            weights = ops.like(_bilinear(values.shape[axis], size[axis - 2]), values)
            weights = weights if ops is NUMPY else weights.to(values.dtype)
            values = ops.move(ops.move(values, axis, 3) @ weights.T, 3, axis)
        return values

    def _answers(self, outputs: Outputs | None, i: int, size: Any) -> NDArray[Any]:
        assert outputs is not None
        values = self._channels(NUMPY, np.asarray(outputs[self.scores.output])[i : i + 1])
        if size is not None:
            values = self._in_size(NUMPY, values, size)
        answers = self._two().answers(values)[0]
        return np.asarray(np.maximum(answers, 0))

    def _mean_iou(self, found: Statistics) -> float:
        both, given, wanted = found.reshape(len(found), 3, -1).sum(axis=0)
        union = given + wanted - both
        return 100 * float(np.mean(both[union > 0] / union[union > 0])) if union.any() else float("nan")

    def _accuracy(self, found: Statistics) -> float:
        both, _, wanted = found.reshape(len(found), 3, -1).sum(axis=(0, 2))
        return 100 * float(both / wanted) if wanted else float("nan")


def _map_scores(name: str, values: NDArray[Any], sizes: Sequence[tuple[int, ...]]) -> ClassScores | None:
    if values.dtype.kind in "iu":
        flat = values[:, 0] if values.ndim == 4 and values.shape[1] == 1 else values
        return ClassScores(name, 1, "answers", 0) if flat.ndim == 3 else None
    if values.dtype.kind != "f" or values.ndim != 4:
        return None
    # Channels lie last where the labels say so, or where that axis is by far the shortest: they are few beside pixels.
    last = values.shape[3] * 2 <= min(values.shape[1:3]) or values.shape[1:3] in sizes
    axis = 3 if last and values.shape[2:] not in sizes else 1
    scores = ClassScores.of(name, values, axis)
    if values.shape[axis] == 1 and bool(np.all((values >= 0) & (values <= 1))):
        return ClassScores(name, axis, "probabilities", 1)
    return scores


def _surely_classes(name: str, scores: ClassScores, single: bool, values: NDArray[Any], facts: Facts) -> bool:
    """Whether maps without labels are classes, and not an image that comes out as one went in."""
    if scores.kind == "answers":
        return all(a.dtype.kind in "iu" for a in facts.outputs.values())
    pictures = [a for a in facts.inputs.values() if a.ndim == 4 and a.dtype.kind in "fu"]
    if single or any(a.shape[1:] == values.shape[1:] for a in pictures):
        return False
    said = any(word in name.lower() for word in ("logit", "seg", "mask", "class", "score", "prob", "sem"))
    return scores.kind == "probabilities" or said


def _counted(scores: ClassScores, maps: list[NDArray[Any]], single: bool) -> ClassScores:
    """The classes that maps of answers speak of."""
    if scores.kind != "answers":
        return scores
    top = max(int(values.max(initial=0)) for values in maps)
    return ClassScores(scores.output, scores.axis, "answers", top + 1)


def _read(labels: NDArray[Any], classes: int) -> NDArray[np.int64] | Unfit:
    numbers = whole_numbers(labels)
    if numbers is None:
        return Unfit("labels are no whole numbers", near=labels.ndim >= 3)
    if numbers.ndim == 4 and 1 in (numbers.shape[1], numbers.shape[3]):
        numbers = numbers[:, 0] if numbers.shape[1] == 1 else numbers[:, :, :, 0]
    if numbers.ndim != 3:
        return Unfit(f"labels have shape {list(labels.shape)}, not one map a sample", near=False)
    ignored = [i for i in IGNORED if i < 0 or not 0 < classes - 1 >= i]
    numbers = np.where(np.isin(numbers, ignored), NONE, numbers)
    odd = odd_classes(numbers, classes, NONE)
    return numbers if odd is None else Unfit(odd, near=True)


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """Weights [target, source] of linear interpolation between pixel centres, edges held."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, source - 1)
    weights = np.zeros((target, source))
    np.add.at(weights, (np.arange(target), below), 1 - (place - below))
    np.add.at(weights, (np.arange(target), above), place - below)
    return weights
