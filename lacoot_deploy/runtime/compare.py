"""Is B still right? Two models on the same samples: drift, agreement, and the task's score with an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.batching import Batch, Batching, find_batching, rows
from lacoot_deploy.runtime.comparison import CompareResult as CompareResult
from lacoot_deploy.runtime.comparison import Limits as Limits
from lacoot_deploy.runtime.comparison import ScoreComparison as ScoreComparison
from lacoot_deploy.runtime.comparison import violations
from lacoot_deploy.runtime.drift import DriftStream, OutputDrift
from lacoot_deploy.runtime.evaluate import DEFAULT_BATCH, class_scores
from lacoot_deploy.runtime.sessions import Session
from lacoot_deploy.runtime.signatures import check_signatures
from lacoot_deploy.tasks import Facts, Judge, Measure, Task, fit_task
from lacoot_deploy.tasks.belief import MOST_SAMPLES, Belief, require_belief, try_labels
from lacoot_deploy.tasks.own import task_is_metric, task_of

Metric = Callable[[Mapping[str, NDArray[Any]], Any], Any]
"""Given all outputs [N, ...] and the labels, a score per sample [N] (or one for all); larger is better."""

Found = dict[str, NDArray[Any]]


def compare_models(
    a: Session,
    b: Session,
    samples: Samples,
    *,
    task: TaskOptions | None = None,
    metric: Metric | None = None,
    limits: Limits | None = None,
    batch_size: int = DEFAULT_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> CompareResult:
    """Run both models on the same samples and say how they differ; `CompareResult.require` turns limits into an error.

    Args:
        a: The reference.
        b: The model in question.
        samples: What to run them on, with labels where a score is wanted.
        task: What the user says about what they are for.
        metric: A user's function that scores, in place of the task's measure.
        limits: What B may differ by.
        batch_size: Samples per run.
        progress: Called with samples done and samples in all.

    Raises:
        InputError: The signatures differ, the samples do not fit, or A tells the labels no better than guessing would.
    """
    check_signatures(a, b)
    batching = _batching(a, b, samples, batch_size)
    scores = _Scores.fit(a, samples, task or TaskOptions(), metric, batching)
    streams = {info.name: DriftStream() for info in a.outputs}
    unlike: dict[str, str] = {}
    predictions = _Predictions()
    for batch in batching.batches(samples):
        found_a, found_b = (_run(model, batch) for model in (a, b))
        for name, values in found_a.items():
            if values.shape == found_b[name].shape:
                streams[name].add(values, found_b[name], batch.start)
            else:
                unlike[name] = _unlike(name, values, found_b[name], a, b, batch)
        alike = {name: values for name, values in found_a.items() if name not in unlike}
        predictions.add(alike, found_b)
        scores.add(found_a, found_b, batch)
        if progress is not None:
            progress(batch.start + batch.real, len(samples))
    return _comparison(a, b, samples, streams, unlike, predictions, scores, limits or Limits())


def _comparison(
    a: Session,
    b: Session,
    samples: Samples,
    streams: Mapping[str, DriftStream],
    unlike: Mapping[str, str],
    predictions: _Predictions,
    scores: _Scores,
    limits: Limits,
) -> CompareResult:
    belief = scores.belief
    comparison = CompareResult(
        a=a.label,
        b=b.label,
        samples=len(samples),
        outputs={n: _NOT_COMPARED if n in unlike else stream.result() for n, stream in streams.items()},
        agreement=predictions.agreement(),
        predictions=predictions.output,
        task=None if scores.task is None else scores.task.sentence(),
        dense=None if belief is None or belief.guess is None else belief.record(),
        accuracy=scores.score() if scores.labelled else None,
        top5=scores.top5() if scores.labelled else None,
        fidelity=None if scores.labelled else scores.score(),
        limits=limits,
        notes=list(unlike.values()),
    )
    comparison.violations = violations(comparison)
    return comparison


_NOT_COMPARED = OutputDrift(max_abs=None, rel_rms=None, cosine=None, unequal=1.0)


def _batching(a: Session, b: Session, samples: Samples, wanted: int) -> Batching:
    """A batch size that both models run with."""
    first, second = (find_batching(m.run, m.inputs, samples, wanted)[0] for m in (a, b))
    if first.exact and second.exact and first.size != second.size:
        raise InputError(
            f"The two models cannot be compared: {a.label} runs with {first.size} samples and {b.label} with "
            f"{second.size}."
        )
    return second if second.exact else first


def _run(model: Session, batch: Batch) -> Found:
    return {name: _per_sample(values, batch) for name, values in model.run(batch.feeds).items()}


def _per_sample(values: Any, batch: Batch) -> NDArray[Any]:
    """An output as an array with a sample axis; one without is held to be a single sample's."""
    if not isinstance(values, np.ndarray):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        values = column
    axis = next((i for i, length in enumerate(values.shape) if length == batch.size), None)
    if axis is None or (axis and batch.size == 1):
        return np.asarray(values[None])
    return rows(values, axis, batch.real)


def _unlike(name: str, values: Any, other: Any, a: Session, b: Session, batch: Batch) -> str:
    """Why an output cannot be held against the other model's; a detector finds as many rows as it finds.

    Raises:
        InputError: It counts samples, and yet has another shape.
    """
    if values.shape[1:] != other.shape[1:] and len(values) == len(other) == batch.real and batch.real > 1:
        raise InputError(
            f"Output {name!r} has shape {list(values.shape)} in {a.label} but {list(other.shape)} in {b.label} "
            f"for the same input."
        )
    return (
        f"Output {name!r} has shape {list(values.shape[1:])} in {a.label} but {list(other.shape[1:])} in {b.label} for "
        f"the same input: its differences are left out."
    )


class _Scores:
    """The task's statistics of both models, batch by batch."""

    def __init__(self, task: Task | None, samples: Samples, belief: Belief | None) -> None:
        self.task, self.belief = task, belief
        self._truth = None if task is None else task.truth(samples.label_arrays, samples.own_feeds)
        # A metric of the user's own is a score in its own right, labels or not.
        self.labelled = self._truth is not None and (bool(self._truth.labels) or task_is_metric(task))
        self._found: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])

    @classmethod
    def fit(
        cls, a: Session, samples: Samples, options: TaskOptions, metric: Metric | None, batching: Batching
    ) -> _Scores:
        """Fit the task to what the reference gives for some samples, and try the labels on them."""
        few = samples.take(
            np.linspace(0, len(samples) - 1, min(len(samples), MOST_SAMPLES)).round().astype(int)
        )

        def run(some: Samples) -> Found:
            found = [(_run(a, batch), batch.real) for batch in batching.batches(some)]
            names = [n for n in found[0][0] if all(len(f[n]) == real for f, real in found)]
            alike = [n for n in names if len({f[n].shape[1:] for f, _ in found}) == 1]
            return {n: np.concatenate([f[n] for f, _ in found]) for n in alike}

        outputs = run(few)
        if metric is not None:
            facts = Facts(outputs, samples.label_arrays, samples.own_feeds)
            return cls(task_of(metric, getattr(metric, "__name__", "metric"), facts), samples, None)
        if not outputs:
            return cls(None, samples, None)
        try:
            task = fit_task(outputs, samples, options)
        except InputError:
            if samples.label_arrays or options.name is not None:
                raise
            return cls(None, samples, None)
        judge = Judge(task, outputs, task.truth(few.label_arrays, few.own_feeds))
        belief = try_labels(judge, few, run=run)
        require_belief(belief, trust=options.trust_labels, source=samples.description)
        return cls(task, samples, belief)

    def add(self, a: Found, b: Found, batch: Batch) -> None:
        """Take in what both models give for a batch."""
        if self.task is None or self._truth is None:
            return
        truth = self._truth.take(slice(batch.start, batch.start + batch.real))
        for found, outputs in zip(self._found, (a, b), strict=True):
            found.append(self.task.statistics(outputs, truth, a))

    def score(self, measure: Measure | None = None) -> ScoreComparison | None:
        """Both scores by a measure of the task, its own for None."""
        if self.task is None:
            return None
        measure = measure or self.task.measure
        first, second = (np.concatenate(found) for found in self._found)
        if self.belief is not None and measure is self.task.measure:
            score = self.task.score(first)
            self.belief = replace(self.belief, score=score, samples=len(first))
        found = self.task.difference(first, second, measure)
        top = self.task.name == "classification" and measure.name == "accuracy"
        return ScoreComparison(
            metric="top-1" if top else measure.name,
            a=measure.total(first),
            b=measure.total(second),
            drop_points=found.drop,
            unit=measure.unit,
            ci95=(found.low, found.high),
            p_value=found.p_value,
            method=found.method,
        )

    def top5(self) -> ScoreComparison | None:
        """Top-5 accuracy, beside an accuracy of more than five classes."""
        if self.task is None or self.task.measure.name != "accuracy":
            return None
        five = next((m for m in self.task.measures if m.name == "top-5"), None)
        return None if five is None else self.score(five)


class _Predictions:
    """Whether both models predict the same, batch by batch."""

    def __init__(self) -> None:
        self.output: str | None = None
        self.agree: list[NDArray[Any]] = []

    def add(self, a: Found, b: Found) -> None:
        """Take in what both models give for a batch."""
        self.output = self.output or _prediction_output(a)
        if self.output in a:
            same = _predicted(a[self.output]) == _predicted(b[self.output])
            self.agree.append(np.asarray(same).reshape(-1))

    def agreement(self) -> float | None:
        """In percent; None where no output holds predictions."""
        return 100.0 * float(np.concatenate(self.agree).mean()) if self.agree else None


def _prediction_output(outputs: Mapping[str, NDArray[Any]]) -> str | None:
    scores = class_scores(outputs)
    if scores is not None:
        return scores
    # A map of class scores (segmentation, tokens), else a label of its own.
    for name, values in outputs.items():
        if values.dtype.kind == "f" and values.ndim in (3, 4) and values.shape[_class_axis(values)] > 1:
            return name
    return next((name for name, values in outputs.items() if values.dtype.kind in "iuOU"), None)


def _class_axis(values: NDArray[Any]) -> int:
    return 1 if values.ndim == 4 else values.ndim - 1


def _predicted(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values.argmax(axis=_class_axis(values)) if values.dtype.kind == "f" else values)
