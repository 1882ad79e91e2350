"""How good a shortened network's outputs are: against labels where there are any, and against the dense network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Quality:
    """What a network's outputs are worth on one set of samples.

    Attributes:
        samples: Number of samples judged.
        drift: Relative RMS difference of the outputs from the dense network's.
        divergence: Mean Kullback-Leibler divergence from the dense network's class probabilities, in nats;
            None where the outputs are no class scores.
        agreement: Percent of samples on which the predicted class is the dense network's; None likewise.
        loss: Mean cross-entropy with the labels, in nats; None without labels.
        accuracy: Percent of samples predicted right; None without labels.
    """

    samples: int
    drift: float
    divergence: float | None
    agreement: float | None
    loss: float | None
    accuracy: float | None

    @property
    def score(self) -> float | None:
        """What `--max-drop` limits: accuracy where there are labels, else agreement with the dense network."""
        return self.accuracy if self.accuracy is not None else self.agreement

    @property
    def score_name(self) -> str:
        """`accuracy` or `agreement`."""
        return "accuracy" if self.accuracy is not None else "agreement"

    def record(self) -> dict[str, Any]:
        """As plain data for evidence in a plan; what was not measured is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Judge:
    """Judges outputs against those of the dense network on the same samples."""

    def __init__(self, dense: Outputs, labels: NDArray[np.int64] | None = None) -> None:
        """Keep the dense network's outputs.

        Args:
            dense: Outputs by name; the first axis counts samples.
            labels: int64 [N], or None.

        Raises:
            InputError: The outputs hold no floating-point array, or labels do not fit them.
        """
        self.dense = {name: a for name, a in dense.items() if np.issubdtype(np.asarray(a).dtype, np.floating)}
        if not self.dense:
            raise InputError("The model has no floating-point output to judge a removal by.")
        self.labels = labels
        self._sizes = {
            name: float(np.mean(np.square(a, dtype=np.float64))) or 1.0 for name, a in self.dense.items()
        }
        self.logits_name = next(
            (
                name
                for name, a in self.dense.items()
                if a.ndim == 2 and a.shape[1] > 1 and (labels is not None or not _unit_rows(a))
            ),
            None,
        )
        if labels is not None:
            if self.logits_name is None:
                raise InputError(
                    "The data has labels, but the model has no output of shape [samples, classes]."
                )
            classes = self.dense[self.logits_name].shape[1]
            if len(labels) and (labels.min() < 0 or labels.max() >= classes):
                raise InputError(f"The labels go up to {labels.max()}, but the model has {classes} classes.")
        if self.logits_name is not None:
            logits = self.dense[self.logits_name]
            # Rows that are probabilities already must not go through softmax again.
            self.probabilities = bool(
                np.all(logits >= 0) and np.allclose(logits.sum(axis=1, dtype=np.float64), 1, atol=1e-3)
            )
            self.log_dense = self._log(logits)

    def judge(self, outputs: Outputs) -> Quality:
        """The quality of a network's outputs on the same samples, in the same order."""
        drift = relative_rms(
            [np.asarray(outputs[name]) for name in self.dense], [self.dense[name] for name in self.dense]
        )
        samples = len(next(iter(self.dense.values())))
        if self.logits_name is None:
            return Quality(samples, drift, None, None, None, None)
        logits = np.asarray(outputs[self.logits_name])
        log = self._log(logits)
        divergence = float(np.mean(np.sum(np.exp(self.log_dense) * (self.log_dense - log), axis=1)))
        predicted = logits.argmax(axis=1)
        agreement = 100 * float(np.mean(predicted == self.dense[self.logits_name].argmax(axis=1)))
        loss = accuracy = None
        if self.labels is not None:
            loss = float(-np.mean(log[np.arange(len(log)), self.labels]))
            accuracy = 100 * float(np.mean(predicted == self.labels))
        if not np.isfinite(logits).all():
            divergence, loss = float("inf"), None if loss is None else float("inf")
        return Quality(samples, drift, divergence, agreement, loss, accuracy)

    def costs(self, outputs: Outputs, *, start: int = 0, labels: bool = True) -> NDArray[np.float64]:
        """What each sample costs, never negative, float64 [n].

        Cross-entropy with the labels where there are any, else the divergence from the dense network's classes,
        else the squared difference from its outputs, each over the mean square of that output.

        Args:
            outputs: Outputs of n samples.
            start: Which of the samples the first of them is.
            labels: False for the divergence also where there are labels.
        """
        count = len(np.asarray(next(iter(outputs[name] for name in self.dense))))
        part = slice(start, start + count)
        if self.logits_name is not None:
            logits = np.asarray(outputs[self.logits_name])
            log, dense_log = self._log(logits), self.log_dense[part]
            if self.labels is not None and labels:
                costs = -log[np.arange(len(log)), self.labels[part]]
            else:
                # Rounding may leave a divergence of zero a hair below it.
                costs = np.maximum(np.sum(np.exp(dense_log) * (dense_log - log), axis=1), 0)
            return np.where(np.isfinite(logits).all(axis=1), costs, np.inf)
        total = np.zeros(count)
        for name, dense in self.dense.items():
            error = (np.asarray(outputs[name]).astype(np.float64) - dense[part].astype(np.float64)) ** 2
            total += error.reshape(count, -1).mean(axis=1) / self._sizes[name]
        return total

    def correct(self, outputs: Outputs) -> NDArray[np.bool_] | None:
        """Which samples are predicted right (or, without labels, as the dense network does); None for no classes."""
        if self.logits_name is None:
            return None
        predicted = np.asarray(outputs[self.logits_name]).argmax(axis=1)
        target = self.labels if self.labels is not None else self.dense[self.logits_name].argmax(axis=1)
        return np.asarray(predicted == target)

    def drop(self, outputs: Outputs) -> dict[str, Any]:
        """Drop in points with its paired 95 % interval (normal approximation of the mean paired difference).

        As plain data for evidence in a plan; empty where the outputs are no class scores.
        """
        before, after = self.correct(self.dense), self.correct(outputs)
        if before is None or after is None:
            return {}
        difference = 100 * (before.astype(np.float64) - after.astype(np.float64))
        mean, n = float(difference.mean()), len(difference)
        half = 1.96 * float(difference.std()) / max(n - 1, 1) ** 0.5
        return {"drop_points": mean, "ci95": [mean - half, mean + half]}

    def _log(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        values = logits.astype(np.float64)
        if self.probabilities:
            return np.asarray(np.log(np.clip(values, 1e-12, None)))
        values = values - values.max(axis=1, keepdims=True)
        return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def _unit_rows(values: NDArray[Any]) -> bool:
    """Whether every row has length one: an embedding, of whose entries none is a class. One-hot rows are classes."""
    lengths = np.linalg.norm(values.astype(np.float64), axis=1)
    return bool(len(values) > 1 and np.allclose(lengths, 1, atol=1e-3) and (values < 0).any())


def relative_rms(values: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> float:
    """Root mean square of the difference over that of the reference, all arrays together; 0 for 0 over 0."""
    difference = sum(
        float(np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2))
        for a, b in zip(values, reference, strict=True)
    )
    size = sum(float(np.sum(b.astype(np.float64) ** 2)) for b in reference)
    if difference == 0:
        return 0.0
    return float("inf") if size == 0 or not np.isfinite(difference) else float(np.sqrt(difference / size))
