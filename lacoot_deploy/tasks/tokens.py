"""One label a position, or the next token: cross-entropy, perplexity, accuracy; masks and -100 are respected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import NUMPY, Operations
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.class_scores import ClassScores, odd_classes, whole_numbers
from lacoot_deploy.tasks.masks import find_mask, mask_of, masked_mean

IGNORE = -100
VOCABULARY = 1000
"""From so many classes on they are a vocabulary: perplexity is what people speak of."""


@dataclass(frozen=True)
class Tokens(Task):
    """One class a position of a sequence.

    Attributes:
        scores: How the output tells classes.
        label: Name of the labels; None where there are none.
        mask: Name of the input that says which positions are real; None where all are.
        shifted: Whether the labels are the input's own tokens, so that position t is to tell token t + 1.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "tokens"
    summary: ClassVar[str] = "a label or the next token at each position: accuracy, perplexity"
    wants: ClassVar[str] = "an output of [samples, positions, classes] and labels of [samples, positions]"

    scores: ClassScores
    label: str | None = None
    mask: str | None = None
    shifted: bool = False
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """The first output with a row of scores (or a whole number) for each position."""
        unfit = Unfit("no output has class scores for each position of a sequence")
        for name, values in facts.outputs.items():
            if not _is_sequence(values):
                continue
            positions = values.shape[1]
            mask = find_mask(facts.inputs, positions)
            scores = ClassScores.of(name, values, 2)
            if not facts.labels:
                if facts.named or _speaks_of_classes(name, scores, facts):
                    return cls(scores, None, mask)
                continue
            for label, given in facts.labels.items():
                found = _read(given, scores, positions)
                if isinstance(found, Unfit):
                    unfit = found
                    continue
                shifted = _are_inputs(found, facts.inputs)
                return cls(scores, label, mask, shifted)
        return unfit

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output with the classes."""
        return (self.scores.output,)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Accuracy over positions, perplexity and cross-entropy; perplexity first where classes are a vocabulary."""
        accuracy = Measure("accuracy", "points", lambda s: 100 * _ratio(s, 1), span=100.0)
        if self.scores.kind == "answers":
            return (accuracy,)
        entropy = Measure("cross-entropy", "nats", lambda s: _ratio(s, 0), higher=False)
        perplexity = Measure("perplexity", "of perplexity", _perplexity, higher=False)
        words = self.shifted or self.scores.classes >= VOCABULARY
        # Against the dense network's answers a perplexity says nothing that the divergence does not say better.
        first = words and self.label is not None
        return (perplexity, accuracy, entropy) if first else (accuracy, perplexity, entropy)

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """Labels [n, positions] with -100 where none counts, and the mask.

        Raises:
            InputError: The labels are no classes of the output, or not of its shape.
        """
        mask = mask_of(inputs, self.mask)
        if self.label is None or self.label not in labels:
            return Truth(mask=mask)
        given = labels[self.label]
        found = _read(given, self.scores, given.shape[1] if given.ndim > 1 else 0)
        if isinstance(found, Unfit):
            raise InputError(f"The labels do not fit the output {self.scores.output!r}: {found.reason}.")
        if mask is not None:
            found = np.where(mask[:, -found.shape[1] :] > 0, found, IGNORE)
        if self.shifted:
            found = np.concatenate([found[:, 1:], np.full((len(found), 1), IGNORE, found.dtype)], axis=1)
        return Truth({"tokens": found}, mask)

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """Cross-entropy (else the divergence from the dense network's classes), mean over positions that count."""
        values = outputs[self.scores.output]
        labels = truth.labels.get("tokens")
        if labels is not None:
            labels = ops.like(labels, values)
            return masked_mean(ops, self.scores.costs(ops, values, labels, None), labels != IGNORE)
        assert dense is not None
        costs = self.scores.costs(ops, values, None, dense[self.scores.output])
        mask = None if truth.mask is None else ops.like(truth.mask, values)[:, -costs.shape[1] :] > 0
        return masked_mean(ops, costs, mask)

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Each sample's sum of cross-entropies, its right positions and those that count: [n, 3]."""
        values = np.asarray(outputs[self.scores.output])
        labels = truth.labels.get("tokens")
        if labels is None:
            assert dense is not None
            labels = self.scores.answers(np.asarray(dense[self.scores.output]))
            if truth.mask is not None:
                labels = np.where(truth.mask[:, -labels.shape[1] :] > 0, labels, IGNORE)
        found = []
        for one, label in zip(values, labels, strict=True):
            counts = label != IGNORE
            entropy = 0.0
            if self.scores.kind != "answers":
                entropy = float(self.scores.costs(NUMPY, one[None], label[None], None)[0][counts].sum())
            hits = self.scores.hits(one[None], label[None])[0]
            found.append((entropy, (hits & counts).sum(), counts.sum()))
        return np.array(found, np.float64).reshape(-1, 3)

    def settings(self) -> dict[str, Any]:
        """The classes, the mask, and whether the labels are the next tokens."""
        found = {"scores": self.scores.kind, "classes": self.scores.classes}
        return found | {"mask": self.mask, "next_token": self.shifted}


def _is_sequence(values: NDArray[Any]) -> bool:
    if values.dtype.kind in "iu":
        return values.ndim == 2 and values.shape[1] > 1
    return values.dtype.kind == "f" and values.ndim == 3 and values.shape[2] > 1


def _speaks_of_classes(name: str, scores: ClassScores, facts: Facts) -> bool:
    """Whether an output of [samples, positions, columns] holds classes and not features."""
    if scores.kind == "answers":
        return False
    ids = [a for a in facts.inputs.values() if a.dtype.kind in "iu" and a.ndim == 2]
    vocabulary = (
        any(a.size and scores.classes > int(a.max()) >= 2 for a in ids) and scores.classes >= VOCABULARY
    )
    said = any(word in name.lower() for word in ("logit", "prob", "score"))
    return scores.kind == "probabilities" or vocabulary or said


def _read(labels: NDArray[Any], scores: ClassScores, positions: int) -> NDArray[np.int64] | Unfit:
    numbers = whole_numbers(labels)
    if numbers is None:
        return Unfit("labels are no whole numbers", near=labels.ndim == 2)
    if numbers.ndim == 3 and numbers.shape[2] == 1:
        numbers = numbers[:, :, 0]
    if numbers.ndim != 2 or numbers.shape[1] != positions:
        return Unfit(
            f"labels have shape {list(labels.shape)}, but the output has {positions} positions",
            near=numbers.ndim == 2,
        )
    odd = odd_classes(numbers, scores.classes, IGNORE)
    return numbers if odd is None else Unfit(odd, near=True)


def _are_inputs(labels: NDArray[np.int64], inputs: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the labels are an input's own tokens, as language models are given them."""
    counts = labels != IGNORE
    return any(
        a.dtype.kind in "iu" and a.shape == labels.shape and bool((a == labels)[counts].all())
        for name, a in inputs.items()
        if "mask" not in name.lower() and "type" not in name.lower() and len(np.unique(a)) > 2
    )


def _ratio(found: Statistics, column: int) -> float:
    counts = found[:, 2].sum()
    return float(found[:, column].sum() / counts) if counts else float("nan")


def _perplexity(found: Statistics) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(_ratio(found, 0)))
