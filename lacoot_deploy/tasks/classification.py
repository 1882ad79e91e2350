"""One class a sample: int labels, N x 1, one-hot, shares of classes; scores, probabilities or the class itself out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import Operations
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.class_scores import ClassScores, odd_classes, whole_numbers

IGNORE = -100
"""The label of a sample that does not count, as in PyTorch."""

TOP = (1, 3, 5, 10)


@dataclass(frozen=True)
class Classification(Task):
    """One class a sample.

    Attributes:
        scores: How the output tells classes.
        label: Name of the labels; None where there are none.
        class_names: Names of the classes, where the data has them.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "one class a sample: accuracy, top-k"
    wants: ClassVar[str] = (
        "an output of [samples, classes] (or the class itself, [samples]) and one whole number a sample, one-hot rows "
        "or rows of shares"
    )

    scores: ClassScores
    label: str | None = None
    class_names: tuple[str, ...] = ()
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """The first output of one row of scores (or one whole number) per sample whose classes the labels are."""
        unfit = Unfit(f"no output is one row of class scores per sample ({_shapes(facts)})")
        floating = any(values.dtype.kind == "f" for values in facts.outputs.values())
        for name, values in sorted(facts.outputs.items(), key=lambda item: item[1].dtype.kind != "f"):
            scores = _class_scores(name, values)
            unclear = _unit_rows(values) or (values.dtype.kind != "f" and floating)
            if scores is None or (not facts.labels and not facts.named and unclear):
                continue
            if not facts.labels:
                return cls(scores, None, facts.classes)
            for label, given in facts.labels.items():
                found = _read(given, scores, facts.classes)
                if isinstance(found, Unfit):
                    unfit = found
                elif facts.named or scores.kind != "answers" or found.ndim == 1:
                    return cls(scores, label, facts.classes)
        return unfit

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output with the classes."""
        return (self.scores.output,)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Accuracy and, with enough classes, top-3, top-5 and top-10."""
        return tuple(_top(k, column) for column, k in enumerate(self._tops()))

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """Class numbers [n], or shares [n, classes] where labels are no whole numbers.

        Raises:
            InputError: The labels are no classes of the output.
        """
        if self.label is None or self.label not in labels:
            return Truth()
        found = _read(labels[self.label], self.scores, self.class_names)
        if isinstance(found, Unfit):
            raise InputError(f"The labels do not fit the output {self.scores.output!r}: {found.reason}.")
        return Truth({"classes": found})

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """Cross-entropy with the labels, else the divergence from the dense network's classes; 0 where none counts."""
        values = _flat(outputs[self.scores.output], self.scores)
        labels = truth.labels.get("classes")
        if labels is None:
            assert dense is not None
            return self.scores.costs(ops, values, None, _flat(dense[self.scores.output], self.scores))
        costs = self.scores.costs(ops, values, labels, None)
        return costs if labels.ndim > 1 else ops.where(ops.like(labels, values) != IGNORE, costs, 0.0)

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Whether each sample is right among the k best, and last whether it counts: float64 [n, k + 1]."""
        values = _flat(np.asarray(outputs[self.scores.output]), self.scores)
        labels = truth.labels.get("classes")
        if labels is None:
            assert dense is not None
            labels = self.scores.answers(_flat(np.asarray(dense[self.scores.output]), self.scores))
        elif labels.ndim > 1:
            labels = labels.argmax(axis=1)
        columns, tops = [self.scores.hits(values, labels)], self._tops()[1:]
        if tops:
            ranks = self.scores.ranks(values, labels)
            columns += [ranks < k for k in tops]
        return np.stack([*columns, labels != IGNORE], axis=1).astype(np.float64)

    def settings(self) -> dict[str, Any]:
        """How the output tells classes and how many there are."""
        return {"scores": self.scores.kind, "classes": self.scores.classes}

    def with_measure(self, name: str) -> Task:
        """The same task judged by another measure; any `top-K` with fewer than all classes.

        Raises:
            UsageError: It has no such measure.
        """
        k = re.fullmatch(r"top-([1-9]\d*)", name)
        if k is None or int(k[1]) >= self.scores.classes or self.scores.kind == "answers":
            return super().with_measure(name)
        return replace(self, measure_name="accuracy" if k[1] == "1" else name)

    def _tops(self) -> tuple[int, ...]:
        if self.scores.kind == "answers":
            return (1,)
        asked = re.fullmatch(r"top-(\d+)", self.measure_name or "")
        wanted = {*TOP, int(asked[1])} if asked else {*TOP}
        return tuple(sorted(k for k in wanted if k == 1 or k < self.scores.classes))


def _shapes(facts: Facts) -> str:
    return (
        ", ".join(f"{name} is {list(values.shape)}" for name, values in facts.outputs.items())
        or "there is none"
    )


def _flat(values: Any, scores: ClassScores) -> Any:
    """The output as [n, classes] (or [n]); pooled convolutions leave axes of length one behind."""
    return values.reshape(len(values), -1) if scores.kind != "answers" else values.reshape(len(values))


def _class_scores(name: str, values: NDArray[Any]) -> ClassScores | None:
    if values.ndim == 0 or values.dtype.kind not in "fiu":
        return None
    inside = [size for size in values.shape[1:] if size != 1]
    if values.dtype.kind in "iu":
        return ClassScores(name, 1, "answers", 0) if not inside else None
    return ClassScores.of(name, values.reshape(len(values), -1), 1) if len(inside) == 1 else None


def _read(labels: NDArray[Any], scores: ClassScores, names: tuple[str, ...]) -> NDArray[Any] | Unfit:
    """Labels as class numbers [n] or shares of classes [n, classes]."""
    if labels.dtype.kind in "US":
        numbers = {name: number for number, name in enumerate(names)}
        unknown = next((str(text) for text in labels.reshape(-1) if str(text) not in numbers), None)
        if unknown is not None:
            return Unfit(
                f"labels are texts ({unknown!r} among them); give the number of the class instead", near=True
            )
        labels = np.array([numbers[str(text)] for text in labels.reshape(-1)]).reshape(labels.shape)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    numbers_ = whole_numbers(labels)
    if labels.ndim == 2 and scores.kind != "answers":
        if labels.shape[1] != scores.classes:
            return Unfit(
                f"labels have {labels.shape[1]} columns, but the output has {scores.classes} classes",
                near=True,
            )
        if not np.isfinite(labels).all() or labels.min(initial=0) < 0:
            return Unfit("labels hold negative or infinite shares of classes", near=True)
        if not np.allclose(labels.sum(axis=1, dtype=np.float64), 1, atol=1e-3):
            return Unfit(
                "the rows of labels do not add up to 1, so that they are no shares of classes", near=True
            )
        return labels.argmax(axis=1) if numbers_ is not None else labels.astype(np.float64)
    if labels.ndim != 1:
        return Unfit(f"labels have shape {list(labels.shape)}, not one class a sample", near=True)
    if numbers_ is None:
        return Unfit("labels are no whole numbers", near=True)
    odd = odd_classes(numbers_, scores.classes, IGNORE)
    return numbers_ if odd is None else Unfit(odd, near=True)


def _unit_rows(values: NDArray[Any]) -> bool:
    """Whether every row has length one: an embedding, of whose entries none is a class. One-hot rows are classes."""
    if values.dtype.kind != "f":
        return False
    lengths = np.linalg.norm(values.reshape(len(values), -1).astype(np.float64), axis=1)
    return bool(len(values) > 1 and np.allclose(lengths, 1, atol=1e-3) and (values < 0).any())


def _top(k: int, column: int) -> Measure:
    def hits(found: Statistics) -> NDArray[np.bool_]:
        return _counted(found)[:, column].astype(bool)

    name = "accuracy" if k == 1 else f"top-{k}"
    return Measure(name, "points", total=lambda found: _percent(hits(found)), per_sample=hits, span=100.0)


def _counted(found: Statistics) -> Statistics:
    return found[found[:, -1] > 0]


def _percent(hits: NDArray[Any]) -> float:
    return 100 * float(np.mean(hits)) if len(hits) else float("nan")
