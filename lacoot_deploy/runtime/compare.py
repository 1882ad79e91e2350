"""Is B still right? Two models on the same samples: drift, agreement, accuracy with an interval, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from lacoot_deploy.data.types import InputInfo, Samples
from lacoot_deploy.errors import InputError, LacootError, VerificationError
from lacoot_deploy.intervals import mcnemar_p, paired_bootstrap_interval, paired_proportions_interval
from lacoot_deploy.runtime.drift import DriftStream, OutputDrift
from lacoot_deploy.runtime.evaluate import (
    DEFAULT_BATCH,
    class_scores,
    fixed_batch,
    padded_batches,
    top_k_hits,
)
from lacoot_deploy.runtime.feeds import shape_text
from lacoot_deploy.runtime.sessions import Session

Metric = Callable[[Mapping[str, NDArray[Any]], "NDArray[np.int64] | None"], Any]
"""Given all outputs [N, ...] and the labels, a score per sample [N] (or one for all); larger is better."""

SCALAR_METRIC_DRAWS = 200


class Limits(BaseModel):
    """What B may differ by; None for no limit.

    Attributes:
        max_abs: Largest absolute difference of any numeric output.
        max_rel_rms: Relative RMS of any numeric output.
        min_agreement: Least agreement of predictions, in percent.
        max_drop: Largest drop of the accuracy or metric, in points.
    """

    max_abs: float | None = None
    max_rel_rms: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None


class ScoreComparison(BaseModel):
    """A labelled score of both models.

    Attributes:
        metric: `top-1`, `top-5` or the name of the user's metric.
        a: Score of A: percent for accuracies and for metrics that answer yes or no per sample, else the metric's unit.
        b: Score of B.
        drop_points: a - b.
        ci95: 95 % interval of the drop, from the same samples in pairs.
        p_value: Exact McNemar test of no difference, for yes-or-no scores.
        method: How the interval was made.
    """

    metric: str
    a: float
    b: float
    drop_points: float
    ci95: tuple[float, float]
    p_value: float | None = None
    method: str


class Comparison(BaseModel):
    """What `compare` says.

    Attributes:
        a: What model A is called.
        b: What model B is called.
        a_sha256: Hash of A's file (without external data); None where it was no file.
        b_sha256: And of B's.
        samples: Number of samples.
        outputs: Drift by output name.
        agreement: Percent of predictions (largest class score, or equal value for labels) in which B agrees with A;
            None where no output holds predictions.
        predictions: The output that the agreement is about.
        accuracy: Labelled score; None without labels.
        top5: Top-5 accuracy, where there are more than five classes.
        limits: The limits given.
        violations: One sentence for each limit exceeded.
    """

    schema_version: int = 1
    a: str
    b: str
    a_sha256: str | None = None
    b_sha256: str | None = None
    samples: int
    outputs: dict[str, OutputDrift]
    agreement: float | None
    predictions: str | None
    accuracy: ScoreComparison | None
    top5: ScoreComparison | None = None
    limits: Limits = Field(default_factory=Limits)
    violations: list[str] = Field(default_factory=list)

    def require(self) -> None:
        """Stand by the limits.

        Raises:
            VerificationError: One is exceeded, or B has NaN or infinity where A has none.
        """
        if self.violations:
            raise VerificationError(" ".join(self.violations))


def compare_models(
    a: Session,
    b: Session,
    samples: Samples,
    *,
    metric: Metric | None = None,
    limits: Limits | None = None,
    batch_size: int = DEFAULT_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run both models on the same samples and say how they differ; `Comparison.require` turns limits into an error.

    Args:
        a: The reference.
        b: The model in question.
        samples: What to run them on, with labels where accuracy is wanted.
        metric: A user's metric in place of top-1 accuracy. All outputs are kept in memory for it.
        limits: What B may differ by.
        batch_size: Samples per run.
        progress: Called with samples done and samples in all.

    Raises:
        InputError: The signatures differ, or the samples do not fit.
    """
    check_signatures(a, b)
    streams = {info.name: DriftStream() for info in a.outputs}
    predictions = _PredictionStream()
    kept: dict[str, tuple[list[Any], list[Any]]] = {info.name: ([], []) for info in a.outputs}
    fixed = fixed_batch(a.inputs) or fixed_batch(b.inputs)
    for start, real, feeds in padded_batches(samples, batch_size, fixed):
        size = len(next(iter(feeds.values())))
        found_a, found_b = ({n: _per_sample(v, size, real) for n, v in m.run(feeds).items()} for m in (a, b))
        for name, values in found_a.items():
            other = found_b[name]
            if values.shape != other.shape:
                raise InputError(
                    f"Output {name!r} has shape {list(values.shape)} in {a.label} but {list(other.shape)} in {b.label} "
                    f"for the same input."
                )
            streams[name].add(values, other, start)
            if metric is not None:
                kept[name][0].append(values)
                kept[name][1].append(other)
        labels = None if samples.labels is None else samples.labels[start : start + real]
        predictions.add(found_a, found_b, labels)
        if progress is not None:
            progress(start + real, len(samples))

    accuracy, top5 = predictions.scores()
    if metric is not None:
        all_a, all_b = ({name: np.concatenate(pair[i]) for name, pair in kept.items()} for i in (0, 1))
        accuracy, top5 = _metric_score(all_a, all_b, samples.labels, metric), None
    comparison = Comparison(
        a=a.label,
        b=b.label,
        samples=len(samples),
        outputs={name: stream.result() for name, stream in streams.items()},
        agreement=predictions.agreement(),
        predictions=predictions.output,
        accuracy=accuracy,
        top5=top5,
        limits=limits or Limits(),
    )
    comparison.violations = _violations(comparison)
    return comparison


def check_signatures(a: Session, b: Session) -> None:
    """Refuse two models that do not take the same inputs and give the same outputs; a free dimension fits any size.

    Raises:
        InputError: Naming the first input or output that differs, and how.
    """
    for what, ours, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        there = {info.name: info for info in theirs}
        missing = [info.name for info in ours if info.name not in there]
        extra = [name for name in there if name not in {info.name for info in ours}]
        if missing or extra:
            raise InputError(
                f"The two models cannot be compared: {what}s of {a.label} are {_names(ours)}, of {b.label} "
                f"{_names(theirs)}."
            )
        for info in ours:
            other = there[info.name]
            if info.dtype != other.dtype:
                raise InputError(
                    f"The two models cannot be compared: {what} {info.name!r} is {info.dtype} in {a.label} but "
                    f"{other.dtype} in {b.label}."
                )
            if info.shape and other.shape and not _compatible(info, other):
                raise InputError(
                    f"The two models cannot be compared: {what} {info.name!r} has shape {shape_text(info.shape)} in "
                    f"{a.label} but {shape_text(other.shape)} in {b.label}."
                )


def _compatible(a: InputInfo, b: InputInfo) -> bool:
    return len(a.shape) == len(b.shape) and all(
        x == y for x, y in zip(a.shape, b.shape, strict=True) if isinstance(x, int) and isinstance(y, int)
    )


def _names(infos: tuple[InputInfo, ...]) -> str:
    return ", ".join(info.name for info in infos) or "none"


def _per_sample(values: Any, size: int, real: int) -> NDArray[Any]:
    """An output as an array with a sample axis; one without is held to be a single sample's."""
    if not isinstance(values, np.ndarray):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        values = column
    if values.ndim and len(values) == size:
        return np.asarray(values[:real])
    return np.asarray(values[None])


class _PredictionStream:
    """What both models predict, batch by batch: whether they agree, and whether each is right."""

    def __init__(self) -> None:
        self.output: str | None = None
        self.agree: list[NDArray[Any]] = []
        self.hits: dict[int, tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]] = {}

    def add(
        self, a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None
    ) -> None:
        self.output = self.output or _prediction_output(a)
        if self.output is None:
            return
        first, second = a[self.output], b[self.output]
        self.agree.append(np.asarray(_predicted(first) == _predicted(second)).reshape(-1))
        if labels is None or first.ndim != 2 or first.dtype.kind != "f":
            return
        for k in (1, 5) if first.shape[1] > 5 else (1,):
            hits = self.hits.setdefault(k, ([], []))
            for values, found in zip((first, second), hits, strict=True):
                found.append(top_k_hits(values, labels, k))

    def agreement(self) -> float | None:
        return 100.0 * float(np.concatenate(self.agree).mean()) if self.agree else None

    def scores(self) -> tuple[ScoreComparison | None, ScoreComparison | None]:
        top1, top5 = (
            _hits_score(f"top-{k}", np.concatenate(self.hits[k][0]), np.concatenate(self.hits[k][1]))
            if k in self.hits
            else None
            for k in (1, 5)
        )
        return top1, top5


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


def _hits_score(metric: str, a: NDArray[np.bool_], b: NDArray[np.bool_]) -> ScoreComparison:
    low, high = paired_proportions_interval(a, b)
    score_a, score_b = 100.0 * float(a.mean()), 100.0 * float(b.mean())
    return ScoreComparison(
        metric=metric,
        a=score_a,
        b=score_b,
        drop_points=score_a - score_b,
        ci95=(100 * low, 100 * high),
        p_value=mcnemar_p(a, b),
        method="paired proportions (Bonett-Price)",
    )


def _metric_score(
    a: Mapping[str, NDArray[Any]],
    b: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64] | None,
    metric: Metric,
) -> ScoreComparison:
    name = getattr(metric, "__name__", "metric")
    count = len(next(iter(a.values())))
    try:
        scores_a, scores_b = (np.asarray(metric(outputs, labels)) for outputs in (a, b))
    except LacootError:
        raise
    except Exception as error:  # what a user's function raises is the user's to choose
        raise InputError(f"The metric {name} failed: {type(error).__name__}: {error}.") from error
    if scores_a.shape != scores_b.shape or scores_a.shape not in ((count,), ()):
        raise InputError(
            f"The metric {name} must give one score per sample ({count}) or one number; it gave shapes "
            f"{list(scores_a.shape)} and {list(scores_b.shape)}."
        )
    if scores_a.dtype == bool and scores_a.shape:
        return _hits_score(name, scores_a, scores_b)
    if scores_a.shape:
        difference = scores_a.astype(np.float64) - scores_b.astype(np.float64)
        interval = paired_bootstrap_interval(lambda chosen: float(difference[chosen].mean()), count)
    else:

        def resampled(chosen: NDArray[np.int64]) -> float:
            picked = None if labels is None else labels[chosen]
            first, second = ({n: v[chosen] for n, v in outputs.items()} for outputs in (a, b))
            return float(metric(first, picked)) - float(metric(second, picked))

        interval = paired_bootstrap_interval(resampled, count, draws=SCALAR_METRIC_DRAWS)
    score_a, score_b = float(scores_a.mean()), float(scores_b.mean())
    return ScoreComparison(
        metric=name,
        a=score_a,
        b=score_b,
        drop_points=score_a - score_b,
        ci95=interval,
        method="paired bootstrap",
    )


def _violations(comparison: Comparison) -> list[str]:
    limits, found = comparison.limits, []
    for name, drift in comparison.outputs.items():
        if drift.new_nonfinite and drift.nonfinite_b is not None:
            found.append(
                f"Output {name!r} of {comparison.b} has {drift.new_nonfinite} NaN or infinite entries where "
                f"{comparison.a} has none, the first in sample {drift.nonfinite_b.first[0]}."
            )
        for label, value, limit in (
            ("maximum absolute difference", drift.max_abs, limits.max_abs),
            ("relative RMS difference", drift.rel_rms, limits.max_rel_rms),
        ):
            numeric = drift.max_abs is not None
            if limit is not None and numeric and (value is None or value > limit):
                shown = "infinite" if value is None else f"{value:.3g}"
                found.append(f"Output {name!r}: the {label} is {shown}, above the limit of {limit:g}.")
    wanted = limits.max_abs is not None or limits.max_rel_rms is not None
    if wanted and all(drift.max_abs is None for drift in comparison.outputs.values()):
        found.append(
            "The difference of outputs has a limit, but no output holds numbers; use --min-agreement."
        )
    if limits.min_agreement is not None:
        if comparison.agreement is None:
            found.append("The agreement has a limit, but no output holds predictions.")
        elif comparison.agreement < limits.min_agreement:
            found.append(
                f"The predictions agree in {comparison.agreement:.2f} %, below the limit of {limits.min_agreement:g} %."
            )
    if limits.max_drop is not None:
        if comparison.accuracy is None:
            found.append(
                "The drop has a limit, but there are no labels or no class scores to measure it with."
            )
        elif comparison.accuracy.drop_points > limits.max_drop:
            found.append(
                f"The {comparison.accuracy.metric} score drops by {comparison.accuracy.drop_points:.2f} points, above "
                f"the limit of {limits.max_drop:g}."
            )
    return found
