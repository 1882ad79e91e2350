"""How good a shortened network's outputs are, by a task: against labels where there are any, and the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.tasks.base import Difference, Outputs, Score, Task, Truth
from lacoot_deploy.tasks.registry import fit_task


@dataclass(frozen=True)
class Quality:
    """What a network's outputs are worth on one set of samples.

    Attributes:
        samples: Number of samples judged.
        drift: Relative RMS difference of the judged outputs from the dense network's.
        divergence: Mean of what a sample costs against the dense network's answers.
        agreement: The task's score with the dense network's answers for labels.
        loss: Mean of what a sample costs against the labels; None without labels.
        labelled: The task's score against the labels; None without labels.
        measure: Name of that score, such as `accuracy`.
        higher: Whether a larger score is better.
        unit: Of a difference of two scores.
    """

    samples: int
    drift: float
    divergence: float
    agreement: float
    loss: float | None
    labelled: float | None
    measure: str
    higher: bool = True
    unit: str = "points"

    @property
    def score(self) -> float:
        """What `--max-drop` limits: the score against labels, or against the dense network where there are none."""
        return self.agreement if self.labelled is None else self.labelled

    @property
    def score_name(self) -> str:
        """The measure's name, or `agreement` where the dense network's answers stand in and it is an accuracy."""
        if self.labelled is not None:
            return self.measure
        return "agreement" if self.measure == "accuracy" else f"{self.measure} against the dense network"

    @property
    def accuracy(self) -> float | None:
        """The score where it is an accuracy against labels."""
        return self.labelled if self.measure == "accuracy" else None

    def drop_to(self, after: Quality) -> float:
        """How much worse another network's score is, in the measure's unit."""
        return self.score - after.score if self.higher else after.score - self.score


class Judge:
    """Judges outputs of any network on the samples of the dense network's outputs, by one task."""

    def __init__(self, task: Task, dense: Outputs, truth: Truth) -> None:
        """Keep the dense network's outputs.

        Args:
            task: What the network is for.
            dense: Outputs by name, [N, ...] each.
            truth: Of the same samples.
        """
        self.task, self.truth = task, truth
        self.dense = {name: dense[name] for name in task.outputs}
        self._unlabelled = truth.unlabelled()

    @classmethod
    def of(cls, dense: Outputs, samples: Samples, task: Task | TaskOptions | None = None) -> Judge:
        """A judge by the task that was fitted, named or, for None, found.

        Raises:
            UsageError: As for `fit_task`.
            InputError: As for `fit_task`, or labels do not fit.
        """
        fitted = task if isinstance(task, Task) else fit_task(dense, samples, task)
        return cls(fitted, dense, fitted.truth(samples.label_arrays, samples.own_feeds))

    @property
    def labels(self) -> bool:
        """Whether labels decide."""
        return bool(self.truth.labels)

    def judge(self, outputs: Outputs) -> Quality:
        """The quality of a network's outputs on the same samples, in the same order."""
        task, measure = self.task, self.task.measure
        names = list(self.dense)
        drift = relative_rms(
            [np.asarray(outputs[n]) for n in names], [np.asarray(self.dense[n]) for n in names]
        )
        loss = labelled = None
        if self.labels:
            loss = _mean(task.costs(outputs, self.truth, self.dense))
            labelled = measure.total(task.statistics(outputs, self.truth, self.dense))
        return Quality(
            samples=len(next(iter(self.dense.values()))),
            drift=drift,
            divergence=_mean(task.costs(outputs, self._unlabelled, self.dense)),
            agreement=measure.total(task.statistics(outputs, self._unlabelled, self.dense)),
            loss=loss,
            labelled=labelled,
            measure=measure.name,
            higher=measure.higher,
            unit=measure.unit,
        )

    def costs(self, outputs: Outputs, *, start: int = 0, labels: bool = True) -> NDArray[np.float64]:
        """What each sample costs, never negative, float64 [n].

        Args:
            outputs: Outputs of n samples.
            start: Which of the samples the first of them is.
            labels: False for the distance from the dense network's answers also where there are labels.
        """
        name = next(iter(self.dense))
        part = slice(start, start + len(outputs[name]))
        truth = self.truth if labels else self._unlabelled
        return self.task.costs(outputs, truth.take(part), {n: v[part] for n, v in self.dense.items()})

    def worse_by(self, first: Outputs, second: Outputs) -> Difference:
        """How much worse the second outputs' score is than the first's, with its paired interval."""
        one, other = (self.task.statistics(outputs, self.truth, self.dense) for outputs in (first, second))
        return self.task.difference(one, other)

    def dense_score(self) -> Score:
        """The dense network's own score with its interval; against itself where there are no labels."""
        return self.task.score(self.task.statistics(self.dense, self.truth, self.dense))

    def difference(self, outputs: Outputs) -> Difference:
        """How much worse the outputs' score is than the dense network's, with its paired interval."""
        before = self.task.statistics(self.dense, self.truth, self.dense)
        return self.task.difference(before, self.task.statistics(outputs, self.truth, self.dense))


def _mean(costs: NDArray[np.float64]) -> float:
    return float(costs.mean()) if len(costs) else 0.0


def relative_rms(values: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> float:
    """Root mean square of the difference over that of the reference, all arrays together; 0 for 0 over 0.

    Args:
        values: Arrays of any shapes.
        reference: As many of the same shapes.
    """
    difference = sum(
        float(np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2))
        for a, b in zip(values, reference, strict=True)
    )
    size = sum(float(np.sum(b.astype(np.float64) ** 2)) for b in reference)
    if difference == 0:
        return 0.0
    return float("inf") if size == 0 or not np.isfinite(difference) else float(np.sqrt(difference / size))
