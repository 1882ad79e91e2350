"""Vectors that mean something: pooled, compared by their cosine; with pairs and scores also by rank correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import NUMPY, Operations, rows
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.masks import find_mask, mask_of

Pooling = Literal["mean", "first", "none"]

PAIR, SCORE = "pair", "score"
"""Names of the labels: which pair a sample belongs to (two samples each), and how alike the two are."""

FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Embedding(Task):
    """One vector a sample.

    Being near to the dense network's vectors is not being as good at telling what is alike: on a published sentence
    encoder maps that brought the vectors nearer cost rank correlation, with every number of units gone. So `costs_tell`
    is false.

    Attributes:
        output: Name of the output.
        pooling: `mean` over the positions that count, `first` position, or `none`: the output is the vector.
        mask: Name of the input that says which positions count; None where all do.
        paired: Whether the labels `pair` and `score` are there.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "embedding"
    summary: ClassVar[str] = "vectors compared by their cosine; with pairs and scores, rank correlation"
    wants: ClassVar[str] = (
        "an output of [samples, columns] or [samples, positions, columns]; labels, if any, are `labels.pair` (a number "
        "that two samples share) and `labels.score`"
    )

    costs_tell: ClassVar[bool] = False

    output: str
    pooling: Pooling = "none"
    mask: str | None = None
    paired: bool = False
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """An output that is said to be a vector, or has rows of length one, or one vector for each token."""
        paired = PAIR in facts.labels and SCORE in facts.labels
        if facts.labels and not paired:
            return Unfit("labels are no pairs with scores (labels.pair and labels.score)")
        for name, values in sorted(facts.outputs.items(), key=lambda item: _rank(item[0], item[1])):
            if values.dtype.kind != "f" or values.ndim not in (2, 3, 4) or not values.size:
                continue
            if values.ndim == 4 and values.shape[2:] != (1, 1):
                continue
            if facts.named or paired or _surely_vectors(name, values, facts):
                sequence = values.ndim == 3
                mask = find_mask(facts.inputs, values.shape[1]) if sequence else None
                return cls(name, "mean" if sequence else "none", mask, paired)
        return Unfit("no output is surely a vector for each sample")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output with the vectors."""
        return (self.output,)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Rank correlation where there are pairs and scores; the cosine to the dense network's vectors."""
        cosine = Measure(
            "cosine", "points", lambda s: 100 * float(s[:, 0].mean()), lambda s: 100 * s[:, 0], span=100.0
        )
        pairs = Measure("rank correlation", "points", _rank_correlation, span=100.0)
        return (pairs, cosine) if self.paired else (cosine,)

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """The pair and the score of each sample, [n], and the mask.

        Raises:
            InputError: The labels are not one number a sample, or a pair has more than two samples.
        """
        mask = mask_of(inputs, self.mask)
        if not self.paired or PAIR not in labels:
            return Truth(mask=mask)
        pair, score = np.asarray(labels[PAIR]), np.asarray(labels[SCORE], np.float64)
        if pair.ndim != 1 or score.ndim != 1 or not np.isfinite(score).all():
            raise InputError("labels.pair and labels.score must hold one finite number a sample.")
        numbers, counts = np.unique(pair, return_counts=True)
        if counts.max(initial=0) > 2:
            raise InputError(f"The pair {numbers[counts.argmax()]} of labels.pair has more than two samples.")
        return Truth({PAIR: pair, SCORE: score}, mask)

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """One less the cosine to the dense network's vector; a rank correlation is no sum over samples."""
        assert dense is not None, "the cost of an embedding is its distance from the dense network's"
        ours, theirs = (self._vectors(ops, found[self.output], truth) for found in (outputs, dense))
        cosine = (ours * theirs).sum(1) / (_length(ops, ours) * _length(ops, theirs))
        return ops.where(ops.finite(ours).all(1), ops.clip(1 - cosine, 0.0, None), np.inf)

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """The cosine to the dense network's vector; for the first of a pair also its cosine and score: [n, 3]."""
        ours = self._vectors(NUMPY, outputs[self.output], truth)
        ours = ours / _length(NUMPY, ours)[:, None]
        found = np.full((len(ours), 3), np.nan)
        if dense is not None:
            theirs = self._vectors(NUMPY, dense[self.output], truth)
            found[:, 0] = (ours * theirs).sum(axis=1) / _length(NUMPY, theirs)
        if PAIR in truth.labels:
            first: dict[Any, int] = {}
            for i, pair in enumerate(truth.labels[PAIR]):
                other = first.setdefault(pair, i)
                if other != i:
                    found[other, 1:] = ours[other] @ ours[i], truth.labels[SCORE][other]
        elif self.paired and dense is not None:
            found = np.concatenate([found[:, :1], _own_pairs(ours, theirs)], axis=1)
        return found

    def settings(self) -> dict[str, Any]:
        """The pooling and the mask."""
        return {"pooling": self.pooling, "mask": self.mask}

    def _vectors(self, ops: Operations, values: Any, truth: Truth) -> Any:
        values = ops.floating(values)
        if self.pooling == "none":
            return rows(values)
        if self.pooling == "first":
            return values[:, 0]
        if truth.mask is None:
            return values.mean(1)
        weights = ops.floating(ops.like(truth.mask, values))[:, -values.shape[1] :]
        total = (values * weights[:, :, None]).sum(1)
        return total / ops.clip(weights.sum(1), 1.0, None)[:, None]


def _length(ops: Operations, vectors: Any) -> Any:
    return ops.clip(ops.sqrt((vectors * vectors).sum(1)), 1e-12, None)


def _own_pairs(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.float64]:
    """Neighbours as pairs, the dense network's cosine for a score: what stands in for pairs without scores."""
    theirs = theirs / _length(NUMPY, theirs)[:, None]
    return np.stack([(a * np.roll(a, -1, axis=0)).sum(axis=1) for a in (ours, theirs)], axis=1)


def _rank_correlation(found: Statistics) -> float:
    """Spearman's, times 100: the correlation of the ranks, equal values sharing the mean of theirs."""
    pairs = found[np.isfinite(found[:, 1:]).all(axis=1), 1:]
    if len(pairs) < FEWEST_PAIRS:
        return float("nan")
    a, b = (_ranks(column) for column in pairs.T)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return 100 * float(a @ b) / size if size else float("nan")


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _rank(name: str, values: NDArray[Any]) -> int:
    """What is said to be the embedding first, then vectors, then states of tokens."""
    said = any(word in name.lower() for word in ("sentence", "embed"))
    return 0 if said else 1 if values.ndim == 3 else 2


def _surely_vectors(name: str, values: NDArray[Any], facts: Facts) -> bool:
    if any(word in name.lower() for word in ("logit", "score", "prob", "class")):
        return False
    said = any(word in name.lower() for word in ("embed", "hidden", "pool", "feature"))
    if values.ndim == 3:
        tokens = any(
            a.dtype.kind in "iu" and a.ndim == 2 and a.shape[1] == values.shape[1]
            for a in facts.inputs.values()
        )
        return said or tokens
    lengths = np.linalg.norm(rows(values).astype(np.float64), axis=1)
    unit = len(values) > 1 and np.allclose(lengths, 1, atol=1e-3) and bool((values < 0).any())
    return said or unit
