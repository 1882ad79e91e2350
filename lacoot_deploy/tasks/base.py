"""What a network is for: which outputs and labels belong together, what a sample costs, and what counts as right.

A task is fitted once to a network's outputs and to labels; from then on the same object serves every command. Its cost
is one formula that runs in NumPy and in PyTorch. Its score is made from statistics that are taken sample by sample, so
that any score (an accuracy, a mean IoU, a rank correlation) has an interval from the same samples in pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import UsageError
from lacoot_deploy.intervals import (
    bootstrap_interval,
    mcnemar_p,
    mean_interval,
    paired_mean_interval,
    paired_proportions_interval,
    paired_score_interval,
    proportion_interval,
)
from lacoot_deploy.manifest import TaskRecord
from lacoot_deploy.tasks.arrays import NUMPY, Operations, torch_operations

Outputs = Mapping[str, Any]
"""A network's outputs by name, NumPy arrays or PyTorch tensors, [n, ...]."""

Statistics = NDArray[Any]
"""What a score is made from: one row per sample, [n, k] or [n]."""

CHUNK_ENTRIES = 1 << 22
"""Entries of an output that are looked at at a time, so that large maps need no copy in double precision."""


@dataclass(frozen=True)
class Truth:
    """What is known of samples beside the inputs, prepared by a task; NumPy arrays or PyTorch tensors.

    Attributes:
        labels: By the names of the task, [n, ...] each; empty where there are none.
        mask: Which positions count, [n, positions], 1 or 0; None where all do.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    mask: Any = None

    def take(self, indices: Any) -> Truth:
        """The truth of the samples at these indices."""
        mask = None if self.mask is None else self.mask[indices]
        return Truth({name: values[indices] for name, values in self.labels.items()}, mask)

    def unlabelled(self) -> Truth:
        """The same without labels: the dense network's answers stand in."""
        return replace(self, labels={})


@dataclass(frozen=True)
class Facts:
    """What a task is fitted to.

    Attributes:
        outputs: The dense network's outputs on the first samples, [n, ...] each, those alone that may be judged.
        labels: The labels of all samples by name; empty where there are none.
        inputs: The inputs of all samples by name.
        classes: Names of the classes, where the data has them.
        named: Whether the user named the task: then what merely may be it is it.
    """

    outputs: Mapping[str, NDArray[Any]]
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    named: bool = False


@dataclass(frozen=True)
class Unfit:
    """Why a task does not fit.

    Attributes:
        reason: As part of a sentence: "labels hold -1, which is no class".
        near: Whether the outputs would fit, and only the labels do not: then the reason is worth telling.
    """

    reason: str
    near: bool = False


@dataclass(frozen=True)
class Measure:
    """One score of a task.

    Attributes:
        name: What it is called, such as `accuracy` or `mean IoU`.
        unit: Of a difference of two scores, such as `points`.
        total: The score from statistics.
        per_sample: Each sample's own score, whose mean the score is: bool [n] (then the score is a percentage) or float
            [n]; None where the score is no mean over samples. Samples that do not count are left out.
        higher: Whether a larger score is better.
        span: Distance of the best and the worst score that there can be; None where there is no such bound.
        drawn: From statistics, a function of sample indices that gives the score of those samples: for scores that are
            drawn anew many times and have something to sort but once. None to take the rows and call `total`.
    """

    name: str
    unit: str
    total: Callable[[Statistics], float]
    per_sample: Callable[[Statistics], NDArray[Any]] | None = None
    higher: bool = True
    span: float | None = None
    drawn: Callable[[Statistics], Callable[[NDArray[np.int64]], float]] | None = None

    def draws(self, statistics: Statistics) -> Callable[[NDArray[np.int64]], float]:
        """The score of chosen samples, as a function of their indices."""
        if self.drawn is not None:
            return self.drawn(statistics)
        return lambda chosen: self.total(statistics[chosen])

    def show(self, value: float) -> str:
        """A score for reading, with its sign of percent where it is one."""
        text = f"{value:.2f}" if self.span == 100 or abs(value) >= 100 else f"{value:.4g}"
        return f"{text} %" if self.unit == "points" else text


@dataclass(frozen=True)
class Score:
    """A network's score with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much worse one network's score is than another's on the same samples, in the measure's unit.

    Attributes:
        drop: The first score less the second where larger is better, else the second less the first.
        low: Lower end of the 95 % interval of the drop.
        high: Upper end.
        p_value: Exact McNemar test of no difference, for scores that are shares of samples.
        method: How the interval was made.
    """

    drop: float
    low: float
    high: float
    p_value: float | None
    method: str


class Task(ABC):
    """A task that was fitted to a network's outputs and to labels; instances are frozen dataclasses.

    Attributes:
        name: Its name in the registry and on the command line.
        summary: One line for the help text.
        wants: What outputs and labels it is for, as part of a sentence.
        costs_tell: Whether what a sample costs tells the score: where it only tells how near the dense network is, a
            repair has to show in the score itself.
        measure_name: The measure that its score is; None for the first of `measures`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    wants: ClassVar[str]
    costs_tell: ClassVar[bool] = True
    measure_name: str | None = None

    @classmethod
    @abstractmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """The task for these outputs and labels, or why it cannot be."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are judged."""

    @property
    @abstractmethod
    def measures(self) -> tuple[Measure, ...]:
        """The scores that it knows, the usual one first."""

    @abstractmethod
    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """Labels and masks of samples as costs and statistics want them.

        Args:
            labels: By name, as the data gives them; empty where there are none.
            inputs: The samples' inputs.

        Raises:
            InputError: Labels that are no labels of this task; the message says which and why.
        """

    @abstractmethod
    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """What each sample costs, never negative, [n]: the one definition, in operations of either kind.

        With labels in the truth they decide; without, the distance from the dense network's answers does.
        """

    @abstractmethod
    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """What the measures are made from, a row per sample; without labels the dense network's answers stand in."""

    def costs(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> NDArray[np.float64]:
        """What each sample costs, float64 [n]; infinite where an output is not finite.

        Args:
            outputs: NumPy arrays [n, ...] by name.
            truth: Of the same samples.
            dense: The dense network's outputs of the same samples; needed where the truth has no labels.
        """
        parts = [
            np.asarray(self.formula(NUMPY, *part), np.float64)
            for part in _chunks(self.outputs, outputs, truth, dense)
        ]
        costs = np.concatenate(parts) if parts else np.zeros(0)
        return np.where(np.isnan(costs), np.inf, costs)

    def torch_costs(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Any:
        """The same numbers as a differentiable tensor [n], of the outputs' own precision.

        Args:
            outputs: Tensors [n, ...] by name.
            truth: Of the same samples; arrays or tensors.
            dense: The dense network's outputs of the same samples as tensors; needed where the truth has no labels.
        """
        return self.formula(torch_operations(), outputs, truth, dense)

    @property
    def measure(self) -> Measure:
        """The measure that limits and reports speak of."""
        return next((m for m in self.measures if m.name == self.measure_name), self.measures[0])

    def score(self, statistics: Statistics) -> Score:
        """The score of one network's statistics with its interval."""
        measure = self.measure
        value = measure.total(statistics)
        if measure.per_sample is None:
            low, high = bootstrap_interval(measure.draws(statistics), len(statistics), span=measure.span)
            return Score(
                value, min(low, value), max(min(high, 100.0) if measure.span == 100 else high, value)
            )
        samples = measure.per_sample(statistics)
        if samples.dtype == bool:
            low, high = proportion_interval(int(samples.sum()), len(samples))
            return Score(value, 100 * low, 100 * high)
        return Score(value, *mean_interval(samples, span=measure.span))

    def difference(self, first: Statistics, second: Statistics, measure: Measure | None = None) -> Difference:
        """How much worse the second network is than the first, from statistics of the same samples."""
        measure = measure or self.measure
        sign = 1 if measure.higher else -1
        drop = sign * (measure.total(first) - measure.total(second))
        if measure.per_sample is None:
            draws = measure.draws(first), measure.draws(second)
            low, high = paired_score_interval(*draws, len(first), span=measure.span)
            low, high = (low, high) if measure.higher else (-high, -low)
            return Difference(drop, low, high, None, "paired bootstrap")
        a, b = measure.per_sample(first), measure.per_sample(second)
        if a.dtype == bool and b.dtype == bool:
            low, high = paired_proportions_interval(a, b)
            return Difference(
                drop, 100 * low, 100 * high, mcnemar_p(a, b), "paired proportions (Bonett-Price)"
            )
        low, high = paired_mean_interval(sign * a, sign * b, span=measure.span)
        return Difference(drop, low, high, None, "paired t")

    def with_measure(self, name: str) -> Task:
        """The same task whose score is another of its measures.

        Raises:
            UsageError: It has no such measure.
        """
        wanted = name.replace(" ", "").lower()
        for measure in self.measures:
            if measure.name.replace(" ", "").lower() == wanted:
                return replace(self, measure_name=measure.name)  # type: ignore[type-var]
        known = ", ".join(measure.name for measure in self.measures)
        raise UsageError(f"The task {self.name} has no measure {name!r}; it has {known}.")

    def settings(self) -> dict[str, Any]:
        """What else was found when it was fitted, as plain data for records."""
        return {}

    def record(self) -> TaskRecord:
        """For a manifest or a plan."""
        measure = self.measure
        return TaskRecord(
            name=self.name,
            measure=measure.name,
            unit=measure.unit,
            outputs=list(self.outputs),
            settings=self.settings(),
        )

    def sentence(self) -> str:
        """What it is for, in one line."""
        return f"{self.name} on {', '.join(self.outputs)}, judged by {self.measure.name}"


def _chunks(
    names: Sequence[str], outputs: Outputs, truth: Truth, dense: Outputs | None
) -> Iterator[tuple[Outputs, Truth, Outputs | None]]:
    """Samples a few at a time where they are large, so that intermediate values stay small; NumPy arrays."""
    arrays = {name: np.asarray(outputs[name]) for name in names}
    count = min((len(values) for values in arrays.values()), default=0)
    largest = max((values.size // max(count, 1) for values in arrays.values()), default=1)
    size = max(1, CHUNK_ENTRIES // max(largest, 1))
    if size >= count:
        yield arrays, truth, dense
        return
    for start in range(0, count, size):
        part = slice(start, start + size)
        yield (
            {name: values[part] for name, values in arrays.items()},
            truth.take(part),
            None if dense is None else {name: dense[name][part] for name in names},
        )
