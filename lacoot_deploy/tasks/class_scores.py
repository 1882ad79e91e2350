"""Outputs that score classes: which axis counts them, whether they are probabilities, and what a position costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.tasks.arrays import Operations

Kind = Literal["scores", "probabilities", "answers"]

TINY = 1e-12
"""The smallest probability that a logarithm is taken of."""


@dataclass(frozen=True)
class ClassScores:
    """How one output tells classes.

    Attributes:
        output: Name of the output.
        axis: The axis that counts classes; meaningless for answers.
        kind: `scores` (any numbers, log-probabilities among them), `probabilities`, or `answers`: the class itself.
        classes: Number of classes; 0 where an output of answers does not say.
    """

    output: str
    axis: int
    kind: Kind
    classes: int

    @classmethod
    def of(cls, output: str, values: NDArray[Any], axis: int) -> ClassScores:
        """What an output's values say: integers are answers, rows that add up to one are probabilities."""
        if values.dtype.kind in "iub":
            return cls(output, axis, "answers", 0)
        sums = values.sum(axis=axis, dtype=np.float64)
        probable = values.size > 0 and bool(np.all(values >= 0)) and bool(np.allclose(sums, 1, atol=1e-3))
        return cls(output, axis, "probabilities" if probable else "scores", values.shape[axis])

    def log(self, ops: Operations, values: Any) -> Any:
        """Log-probabilities of the classes; rows that are probabilities already do not go through softmax again."""
        values = ops.floating(values)
        if self.kind == "probabilities":
            return ops.log(ops.clip(values, TINY, None))
        return ops.log_softmax(values, self.axis)

    def answers(self, values: Any) -> Any:
        """The class that each position is given; the axis of the classes goes."""
        return values if self.kind == "answers" else values.argmax(self.axis)

    def costs(self, ops: Operations, values: Any, labels: Any, dense: Any) -> Any:
        """What each position costs, [n, ...] without the axis of the classes; infinite where a score is not finite.

        Cross-entropy with the labels where there are any (negative ones are to be masked by the caller), else the
        Kullback-Leibler divergence from the dense network's classes; for answers 1 where they differ and 0 elsewhere.

        Args:
            ops: Operations of the values' kind.
            values: The output.
            labels: Integers [n, ...], or shares of the classes [n, ..., classes] in the output's layout; None for none.
            dense: The dense network's output; used where there are no labels.
        """
        if self.kind == "answers":
            target = ops.like(dense if labels is None else labels, values)
            return ops.floating(values != target)
        log = self.log(ops, values)
        if labels is None:
            wanted = self.log(ops, dense)
            # Rounding may leave a divergence of zero a hair below it.
            costs = ops.clip((ops.exp(wanted) * (wanted - log)).sum(self.axis), 0.0, None)
        else:
            labels = ops.like(labels, values)
            if labels.ndim == log.ndim:
                costs = -(ops.floating(labels) * log).sum(self.axis)
            else:
                costs = -ops.pick(log, ops.clip(labels, 0, None), self.axis)
        return ops.where(ops.finite(values).all(self.axis), costs, np.inf)

    def hits(self, values: NDArray[Any], labels: NDArray[Any], k: int = 1) -> NDArray[np.bool_]:
        """Whether each position's label is among its k largest scores; ties count for the smaller class."""
        if self.kind == "answers" or k == 1:
            own = np.isfinite(values).all(axis=self.axis) if self.kind != "answers" else True
            return np.asarray((self.answers(values) == labels) & own)
        return self.ranks(values, labels) < k

    def ranks(self, values: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
        """How many classes score above each position's label, ties before it among them; all for no label."""
        scores = np.moveaxis(values, self.axis, -1)
        own = np.take_along_axis(scores, np.maximum(labels, 0)[..., None], axis=-1)
        before = np.arange(scores.shape[-1]) < labels[..., None]
        rank = (scores > own).sum(axis=-1) + ((scores == own) & before).sum(axis=-1)
        return np.asarray(np.where(~np.isnan(own[..., 0]) & (labels >= 0), rank, scores.shape[-1]))


def whole_numbers(values: NDArray[Any]) -> NDArray[np.int64] | None:
    """Labels as integers where they are whole numbers, however they are stored; None where one is not."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind != "f" or not np.isfinite(values).all() or np.any(values != np.round(values)):
        return None
    return values.astype(np.int64)


def odd_classes(labels: NDArray[np.int64], classes: int, ignore: int | None) -> str | None:
    """What is wrong with class numbers, as the end of a sentence; None where nothing is.

    Args:
        labels: Class numbers of any shape.
        classes: How many classes the output has; 0 where it does not say.
        ignore: The number that stands for no label; None for none.
    """
    real = labels if ignore is None else labels[labels != ignore]
    if real.size == 0:
        return "every label is left out" if labels.size else None
    below, above = real[real < 0], real[real >= classes] if classes else real[:0]
    if below.size:
        return f"labels hold {int(below.min())}, which is no class (they count from 0; {ignore} stands for no label)"
    if above.size:
        once = " (do they count from 1?)" if real.min() == 1 and above.max() == classes else ""
        return f"labels go up to {int(above.max())}, but the output has {classes} classes, 0 to {classes - 1}{once}"
    return None
