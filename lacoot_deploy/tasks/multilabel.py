"""Several yes-or-no answers a sample, or one: per-label accuracy, F1, average precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import Operations, rows
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.class_scores import TINY, Kind, whole_numbers

IGNORE = -100


@dataclass(frozen=True)
class Multilabel(Task):
    """Yes or no, once or several times a sample.

    Attributes:
        output: Name of the output, one column for each answer.
        kind: `scores` (yes above 0), `probabilities` (yes above 0.5) or `answers` (1 is yes).
        answers: Number of answers a sample.
        label: Name of the labels; None where there are none.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "multilabel"
    summary: ClassVar[str] = "yes or no, once or several times a sample: accuracy, F1, average precision"
    wants: ClassVar[str] = (
        "an output of [samples, answers] (or [samples]) and labels of 0 and 1 of the same shape"
    )

    output: str
    kind: Kind
    answers: int
    label: str | None = None
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """An output of the labels' shape whose labels are 0 and 1; without labels one of independent probabilities."""
        unfit = Unfit("no output has one column for each yes or no")
        for name, values in facts.outputs.items():
            kind = _kind(values)
            if kind is None:
                continue
            found = cls(name, kind, values[0].size)
            if kind == "answers" and found.answers == 1 and not facts.named:
                continue
            if not facts.labels:
                if facts.named or (kind == "probabilities" and not _one_of_several(values)):
                    return found
                continue
            for label, given in facts.labels.items():
                read = found._read(given)
                if isinstance(read, Unfit):
                    unfit = read if facts.named else unfit
                elif facts.named or found.answers == 1 or not _one_of_several(read):
                    return cls(name, kind, found.answers, label)
        return unfit

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output with the answers."""
        return (self.output,)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Accuracy over all answers; F1 and average precision, means over the answers that occur."""
        return (
            Measure(
                "accuracy", "points", lambda s: 100 * float(self._right(s).mean()), self._right, span=100.0
            )
            if self.answers == 1
            else Measure("accuracy", "points", self._accuracy, span=100.0),
            Measure("F1", "points", self._f1, span=100.0),
            Measure("average precision", "points", self._average_precision, span=100.0),
        )

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """Labels [n, answers] of 0 and 1; -100 does not count.

        Raises:
            InputError: The labels are not 0 and 1, or not of the output's shape.
        """
        if self.label is None or self.label not in labels:
            return Truth()
        found = self._read(labels[self.label])
        if isinstance(found, Unfit):
            raise InputError(f"The labels do not fit the output {self.output!r}: {found.reason}.")
        return Truth({"answers": found})

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """Binary cross-entropy, mean over answers; without labels the divergence from the dense network's."""
        values = rows(outputs[self.output])
        labels = truth.labels.get("answers")
        if self.kind == "answers":
            assert labels is not None or dense is not None
            target = ops.like(
                rows(dense[self.output]) if labels is None and dense is not None else labels, values
            )
            return _mean(ops, ops.floating(values != target), target != IGNORE)
        yes, no = self._logs(ops, values)
        if labels is not None:
            target = ops.like(labels, values)
            costs = -ops.where(target == 1, yes, 0.0) - ops.where(target == 0, no, 0.0)
            return _mean(ops, ops.where(ops.finite(values), costs, np.inf), target != IGNORE)
        assert dense is not None
        other = rows(dense[self.output])
        wanted_yes, wanted_no = self._logs(ops, other)
        costs = ops.exp(wanted_yes) * (wanted_yes - yes) + ops.exp(wanted_no) * (wanted_no - no)
        return ops.where(ops.finite(values), ops.clip(costs, 0.0, None), np.inf).mean(1)

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Each sample's scores, above 0 for yes, and its labels, NaN where one does not count: [n, 2 answers]."""
        scores = self._scores(outputs)
        labels = truth.labels.get("answers")
        if labels is None:
            assert dense is not None
            labels = self._scores(dense) > 0
        target = np.where(labels == IGNORE, np.nan, labels.astype(np.float64))
        return np.concatenate([scores, target], axis=1)

    def settings(self) -> dict[str, Any]:
        """How the output tells yes, and how many answers there are."""
        return {"scores": self.kind, "answers": self.answers}

    def _logs(self, ops: Operations, values: Any) -> tuple[Any, Any]:
        values = ops.floating(values)
        if self.kind == "probabilities":
            return ops.log(ops.clip(values, TINY, None)), ops.log(ops.clip(1 - values, TINY, None))
        return -ops.softplus(-values), -ops.softplus(values)

    def _scores(self, outputs: Outputs) -> NDArray[np.float64]:
        values = rows(np.asarray(outputs[self.output])).astype(np.float64)
        return np.asarray(values if self.kind == "scores" else values - 0.5)

    def _read(self, labels: NDArray[Any]) -> NDArray[np.int64] | Unfit:
        numbers = whole_numbers(labels)
        if numbers is None:
            return Unfit("labels are neither 0 nor 1", near=True)
        numbers = numbers.reshape(len(numbers), -1)
        if numbers.shape[1] != self.answers:
            near = self.answers > 1 and numbers.shape[1] > 1
            return Unfit(f"labels have {numbers.shape[1]} columns, but the output has {self.answers}", near)
        odd = numbers[(numbers != 0) & (numbers != 1) & (numbers != IGNORE)]
        if odd.size:
            return Unfit(f"labels hold {int(odd[0])}, which is neither 0 nor 1", near=True)
        return numbers

    def _split(self, found: Statistics) -> tuple[NDArray[Any], NDArray[Any]]:
        return found[:, : self.answers], found[:, self.answers :]

    def _right(self, found: Statistics) -> NDArray[np.bool_]:
        scores, labels = self._split(found)
        counts = ~np.isnan(labels)
        return np.asarray(((scores > 0) == (labels == 1))[counts])

    def _accuracy(self, found: Statistics) -> float:
        right = self._right(found)
        return 100 * float(right.mean()) if len(right) else float("nan")

    def _f1(self, found: Statistics) -> float:
        scores, labels = self._split(found)
        yes, real = (scores > 0) & ~np.isnan(labels), labels == 1
        hits, size = (yes & real).sum(axis=0), yes.sum(axis=0) + real.sum(axis=0)
        return 100 * float(np.mean(2 * hits[size > 0] / size[size > 0])) if size.any() else float("nan")

    def _average_precision(self, found: Statistics) -> float:
        scores, labels = self._split(found)
        each = [average_precision(s, y) for s, y in zip(scores.T, labels.T, strict=True) if (y == 1).any()]
        return 100 * float(np.mean(each)) if each else float("nan")


def average_precision(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Precision averaged over the recall that each threshold adds; equal scores are one threshold.

    Args:
        scores: Larger for yes, [n].
        labels: 1 for yes, 0 for no, NaN for what does not count, [n]; at least one is 1.
    """
    counts = ~np.isnan(labels)
    scores, labels = scores[counts], labels[counts]
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _kind(values: NDArray[Any]) -> Kind | None:
    inside = [size for size in values.shape[1:] if size != 1]
    if values.ndim == 0 or len(inside) > 1 or not values.size:
        return None
    if values.dtype.kind in "iub":
        return "answers" if np.isin(values, (0, 1)).all() else None
    if values.dtype.kind != "f":
        return None
    return "probabilities" if bool(np.all((values >= 0) & (values <= 1))) else "scores"


def _one_of_several(values: NDArray[Any]) -> bool:
    """Whether the rows are one-hot or shares of classes: then the answers are one choice, not several."""
    flat = values.reshape(len(values), -1)
    return bool(flat.shape[1] > 1 and np.allclose(flat.sum(axis=1, dtype=np.float64), 1, atol=1e-3))


def _mean(ops: Operations, costs: Any, counts: Any) -> Any:
    weights = ops.floating(counts)
    return ops.where(counts, costs, 0.0).sum(1) / ops.clip(weights.sum(1), 1.0, None)
