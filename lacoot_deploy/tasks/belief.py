"""Labels are tried before they are believed: does the dense network tell them better than guessing would?

Guessing is what the same answers score when the labels are dealt to other samples. Where the dense network is no
better, what may be the matter is found by trying: labels that count from one, another order of classes, other labels of
the same data, targets or inputs in other units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError, LacootError
from lacoot_deploy.manifest import BeliefRecord
from lacoot_deploy.tasks.base import Measure, Score, Truth
from lacoot_deploy.tasks.judge import Judge
from lacoot_deploy.tasks.registry import fit_task

Run = Callable[[Samples], Mapping[str, NDArray[Any]]]
"""Runs the dense network on samples."""

MOST_SAMPLES = 256
DEALS = 20
FEW = 20
"""Below so many samples only a score that is no better than the mean guess is doubted."""

Z_GUESS = 1.645
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Belief:
    """What trying the labels showed.

    Attributes:
        measure: The task's measure.
        score: The dense network's score with its interval.
        samples: Samples that it was taken on.
        guess: What guessing scores; None where there are no labels.
        believed: Whether the dense network is better than guessing.
        hint: What may be the matter, found by trying; None where nothing was found or all is well.
        task: The task in one line.
    """

    measure: Measure
    score: Score
    samples: int
    guess: float | None
    believed: bool
    hint: str | None
    task: str

    def sentence(self) -> str:
        """The dense network's score in one line."""
        low, high = (self.measure.show(value) for value in (self.score.low, self.score.high))
        value = self.measure.show(self.score.value)
        text = f"Dense network: {self.measure.name} {value} (95 % interval {low} to {high}) on {self.samples} samples"
        return f"{text}; guessing gives {self.measure.show(self.guess)}" if self.guess is not None else text

    def record(self) -> BeliefRecord:
        """The same for a plan or a comparison."""
        return BeliefRecord(
            task=self.task,
            measure=self.measure.name,
            unit=self.measure.unit,
            score=self.score.value,
            ci95=(self.score.low, self.score.high),
            guess=self.guess,
            believed=self.believed,
            samples=self.samples,
            sentence=f"{self.sentence()}.",
        )


def try_labels(judge: Judge, samples: Samples, *, run: Run | None = None) -> Belief:
    """Hold the dense network's score against guessing; where it is no better, look for what may be the matter.

    Args:
        judge: With the dense network's outputs on the samples.
        samples: The samples.
        run: Runs the dense network, to try other inputs; None not to.
    """
    measure, count = judge.task.measure, len(samples)
    score = judge.dense_score()
    if not judge.labels:
        return Belief(measure, score, count, None, True, None, judge.task.sentence())
    small = _part(judge, count)
    guess, needed = _guessing(small)
    believed = _better(measure, _score(small, small.truth), needed)
    hint = None
    if not believed:
        sign = 1 if measure.higher else -1
        tried = list(_hints(small, samples.take(_few(count)), needed, run))
        hint = max(tried, key=lambda one: sign * one[0])[1] if tried else None
    return Belief(measure, score, count, guess, believed, hint, judge.task.sentence())


def require_belief(belief: Belief, *, trust: bool, source: str = "") -> None:
    """Refuse labels that the dense network tells no better than guessing does.

    Args:
        belief: What trying them showed.
        trust: Whether the user believes them nevertheless.
        source: Where they come from.

    Raises:
        InputError: They are not believed; the message says what may be the matter.
    """
    if belief.believed or trust:
        return
    hint = f" {belief.hint}" if belief.hint else ""
    where = f" of {source}" if source else ""
    raise InputError(
        f"The labels{where} do not seem to belong to the model. {belief.sentence()}.{hint} "
        f"Give --trust-labels to go on."
    )


Tried = tuple[float, str]
"""The score that something gives, and what it is."""


def _few(count: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, MOST_SAMPLES)).round().astype(np.int64)


def _part(judge: Judge, count: int) -> Judge:
    chosen = _few(count)
    dense = {name: np.asarray(values)[chosen] for name, values in judge.dense.items()}
    return Judge(judge.task, dense, judge.truth.take(chosen))


def _score(judge: Judge, truth: Truth, outputs: Mapping[str, NDArray[Any]] | None = None) -> float:
    given = judge.dense if outputs is None else outputs
    return judge.task.measure.total(judge.task.statistics(given, truth, judge.dense))


def _better(measure: Measure, score: float, than: float) -> bool:
    return bool(np.isfinite(score) and (score > than if measure.higher else score < than))


def _guessing(judge: Judge) -> tuple[float, float]:
    """What guessing scores, and what a score must be better than not to be guessing."""
    measure, random = judge.task.measure, np.random.default_rng(0)
    count = len(next(iter(judge.dense.values())))
    scores = [_score(judge, judge.truth.take(random.permutation(count))) for _ in range(DEALS)]
    finite = [score for score in scores if np.isfinite(score)]
    if not finite:
        return float("nan"), -np.inf if measure.higher else np.inf
    mean, spread = float(np.mean(finite)), float(np.std(finite))
    if spread <= 1e-9 * max(abs(mean), 1):
        return _blind(judge, mean)
    needed = mean + (1 if measure.higher else -1) * (Z_GUESS * spread if count >= FEW else 0.0)
    if measure.name == "R2":
        # Whoever always says the mean has 0.
        mean, needed = max(mean, 0.0), max(needed, 0.0)
    return mean, needed


def _blind(judge: Judge, mean: float) -> tuple[float, float]:
    """Where all labels are the same, dealing them anew shows nothing: one of all classes is the guess.

    Where all answers are the same although the labels are not, their score is the guess itself.
    """
    same = all(bool(np.all(values == values[:1])) for values in judge.truth.labels.values())
    if not same:
        return mean, mean
    classes = judge.task.settings().get("classes")
    if classes and judge.task.measure.higher:
        return 100.0 / classes, 100.0 / classes
    return mean, mean - 1e-9 * max(abs(mean), 1) if judge.task.measure.higher else mean + 1e-9


def _hints(judge: Judge, samples: Samples, needed: float, run: Run | None) -> Iterator[Tried]:
    """What fits better, each found by trying, with the score that it gives."""
    measure = judge.task.measure
    own = _score(judge, judge.truth)

    def fits(score: float) -> bool:
        clearly = _better(measure, score, needed)
        return clearly and (not np.isfinite(own) or abs(score - own) > 0.1 * (measure.span or abs(own)))

    name = next((n for n in ("classes", "map", "tokens") if n in judge.truth.labels), None)
    if name is not None and judge.truth.labels[name].dtype.kind in "iu":
        yield from _other_numbers(judge, name, fits)
    if judge.task.name in ("regression", "denoising"):
        yield from _other_units(judge)
    yield from _other_pairs(judge, samples, fits)
    if run is not None:
        yield from _other_inputs(judge, samples, run, fits)


def _other_numbers(judge: Judge, name: str, fits: Callable[[float], bool]) -> Iterator[Tried]:
    """Labels that count from elsewhere, or classes in another order."""
    labels = judge.truth.labels[name]
    classes = int(judge.task.settings().get("classes") or labels.max(initial=0) + 1)
    show = judge.task.measure.show
    counted = labels >= 0
    for shift in (-1, 1):
        moved = np.where(counted, (labels + shift) % classes, labels)
        score = _score(judge, replace(judge.truth, labels={name: moved}))
        if fits(score):
            what = "less" if shift < 0 else "plus"
            yield score, f"Labels {what} one give {show(score)}: do they count from another number?"
    scores = getattr(judge.task, "scores", None)
    answers = None if scores is None else scores.answers(np.asarray(judge.dense[judge.task.outputs[0]]))
    if answers is None or answers.shape != labels.shape or len(labels) < 2 * classes:
        return
    half = len(labels) // 2
    order = _best_order(answers[:half], labels[:half], classes)
    renamed = np.where(counted, order[np.clip(labels, 0, classes - 1)], labels)
    rest = slice(half, None)
    late = Judge(judge.task, {n: v[rest] for n, v in judge.dense.items()}, judge.truth.take(rest))
    score = _score(late, replace(late.truth, labels={name: renamed[rest]}))
    if fits(score):
        pairs = ", ".join(f"{old} is {new}" for old, new in enumerate(order[:10]) if old != new)
        yield score, f"Another order of the classes gives {show(score)} (label {pairs}, as the model counts)."


def _best_order(answers: NDArray[Any], labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """For each label the class that the answers give it most often, no class twice."""
    from scipy.optimize import linear_sum_assignment

    counted = (labels >= 0) & (labels < classes)
    table = np.zeros((classes, classes))
    np.add.at(table, (labels[counted], answers[counted]), 1)
    return np.asarray(linear_sum_assignment(-table)[1])


def _other_units(judge: Judge) -> Iterator[Tried]:
    """Targets that are a multiple of the outputs, or lie elsewhere."""
    for name, target in judge.truth.labels.items():
        values = np.asarray(judge.dense[name], np.float64).reshape(len(target), -1)
        slope, shift = np.polyfit(values.ravel(), target.ravel(), 1) if np.ptp(values) else (0.0, 0.0)
        spread = float(target.var())
        explained = 1 - float(((slope * values + shift - target) ** 2).mean()) / spread if spread else 0.0
        if explained > 0.3:
            yield (
                100 * explained,
                f"The labels are about {slope:.4g} x the output {shift:+.4g} (R2 {100 * explained:.1f} %): they are in "
                f"other units.",
            )


def _other_pairs(judge: Judge, samples: Samples, fits: Callable[[float], bool]) -> Iterator[Tried]:
    """Other labels of the same data."""
    arrays = samples.label_arrays
    for label in arrays if len(arrays) > 1 else ():
        alone = replace(samples, labels=None, further_labels={label: arrays[label]})
        try:
            task = fit_task(judge.dense, alone, TaskOptions(judge.task.name))
            other = Judge(task, judge.dense, task.truth(alone.label_arrays, alone.own_feeds))
            score = _score(other, other.truth)
        except LacootError:
            continue
        if other.labels and fits(score):
            yield score, f"The labels {label!r} of the same data give {judge.task.measure.show(score)}."


def _other_inputs(judge: Judge, samples: Samples, run: Run, fits: Callable[[float], bool]) -> Iterator[Tried]:
    """Inputs in another scale, without their mean, or with their colours the other way round."""
    for name, values in samples.own_feeds.items():
        if values.dtype.kind != "f" or values.ndim < 2:
            continue
        for what, changed in _variants(values):
            feeds = {**samples.feeds, name: changed.astype(values.dtype)}
            try:
                outputs = run(replace(samples, feeds=feeds))
                score = _score(judge, judge.truth, outputs)
            except LacootError:
                continue
            if fits(score):
                yield score, f"With input {name!r} {what} it is {judge.task.measure.show(score)}."


def _variants(values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    x = values.astype(np.float64)
    yield "divided by 255", x / 255
    yield "multiplied by 255", x * 255
    axis = 1 if x.ndim == 4 and x.shape[1] in (1, 3, 4) else x.ndim - 1
    others = tuple(i for i in range(x.ndim) if i != axis)
    mean, std = x.mean(axis=others, keepdims=True), x.std(axis=others, keepdims=True)
    yield "less its mean, over its standard deviation (per channel)", (x - mean) / np.where(std > 0, std, 1)
    if x.ndim == 4 and x.shape[axis] == 3:
        shape = [3 if i == axis else 1 for i in range(4)]
        unit = x / 255 if x.max() > 16 else x
        imagenet = [np.reshape(part, shape) for part in IMAGENET]
        yield "normalised as for ImageNet", (unit - imagenet[0]) / imagenet[1]
        yield "with its colour channels the other way round", np.flip(x, axis)
    yield "brought from 0..1 to -1..1", 2 * x - 1
