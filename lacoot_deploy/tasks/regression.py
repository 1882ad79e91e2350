"""Numbers as answers: R2, squared and absolute error; also what stands in for a network of unknown purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import Operations, rows
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit

SUMS = 4
"""Columns of statistics per column of an output: squared and absolute error, the truth's mean and mean square."""

MAX_COLUMNS = 64
"""Outputs with more entries than this are taken as one column: their entries are one quantity at many places."""


@dataclass(frozen=True)
class Regression(Task):
    """Every output is numbers to be met.

    Attributes:
        names: Outputs.
        targets: Names of the labels, one for each output; empty where there are none.
        sizes: Mean square of each output of the dense network, by which its errors are divided so that
            outputs of different size weigh alike.
        entries: Entries of one sample of each output.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "regression"
    summary: ClassVar[str] = "numbers: R2, mean squared and absolute error"
    wants: ClassVar[str] = "outputs of numbers and labels of the same shape"

    names: tuple[str, ...]
    targets: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()
    entries: tuple[int, ...] = ()
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """All floating-point outputs; with labels those that labels of their shape belong to."""
        floats = {n: v for n, v in facts.outputs.items() if v.dtype.kind == "f" and v.ndim and v.size}
        if not floats:
            return Unfit("no output holds floating-point numbers")
        pairs: Mapping[str, str | None] = dict.fromkeys(floats)
        if facts.labels:
            found = _pairs(floats, facts.labels)
            if isinstance(found, Unfit):
                return found
            pairs = found
        sizes = tuple(float(np.mean(np.square(floats[n], dtype=np.float64))) or 1.0 for n in pairs)
        entries = tuple(int(floats[n][0].size) for n in pairs)
        targets = tuple(label for label in pairs.values() if label is not None)
        return cls(tuple(pairs), targets, sizes, entries)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of numbers."""
        return self.names

    @property
    def measures(self) -> tuple[Measure, ...]:
        """R2 (100 is perfect, 0 is guessing the mean), squared and absolute error; means over columns."""
        return (
            Measure("R2", "points", total=self._r2, span=100.0),
            Measure(
                "MSE", "mean squared error", lambda s: self._error(s, 0), lambda s: self._each(s, 0), False
            ),
            Measure(
                "MAE", "mean absolute error", lambda s: self._error(s, 1), lambda s: self._each(s, 1), False
            ),
        )

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """Each output's targets as float64 [n, entries].

        Raises:
            InputError: The labels are no finite numbers, or not of the output's shape.
        """
        found = {}
        for name, target, entries in zip(self.names, self.targets, self.entries, strict=False):
            if target not in labels:
                return Truth()
            values = labels[target]
            if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
                raise InputError(
                    f"The labels {target!r} of the output {name!r} hold NaN, infinity or no numbers."
                )
            if values.reshape(len(values), -1).shape[1] != entries:
                raise InputError(
                    f"The labels {target!r} have shape {list(values.shape)}, not that of {name!r}."
                )
            found[name] = rows(values).astype(np.float64)
        return Truth(found)

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """Mean squared error of each output over the mean square of the dense network's, added up over outputs."""
        total: Any = 0.0
        for name, size in zip(self.names, self.sizes, strict=True):
            values = rows(ops.floating(outputs[name]))
            target = truth.labels.get(name)
            if target is None:
                assert dense is not None
                target = rows(dense[name])
            error = values - ops.floating(ops.like(target, values))
            total = total + (error**2).mean(1) / size
        return total

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Per column the squared and absolute error of each sample, the truth and its square, means: [n, 4 columns]."""
        parts = []
        for name in self.names:
            values = _columns(outputs[name])
            target = truth.labels.get(name)
            if target is None:
                assert dense is not None
                target = dense[name]
            target = _columns(target)
            error = values - target
            sums = (np.square(error), np.abs(error), target, np.square(target))
            parts.append(np.stack([part.mean(axis=2) for part in sums], axis=2).reshape(len(values), -1))
        return np.concatenate(parts, axis=1)

    def settings(self) -> dict[str, Any]:
        """The labels of each output."""
        return {"labels": dict(zip(self.names, self.targets, strict=False))} if self.targets else {}

    def _r2(self, found: Statistics) -> float:
        scores = []
        for column in range(0, found.shape[1], SUMS):
            error, _, mean, square = found[:, column : column + SUMS].mean(axis=0)
            spread = square - mean * mean
            scores.append(1 - error / spread if spread > 0 else float(error == 0))
        return 100 * float(np.mean(scores))

    def _error(self, found: Statistics, column: int) -> float:
        return float(np.mean(self._each(found, column)))

    def _each(self, found: Statistics, column: int) -> NDArray[np.float64]:
        return np.asarray(found[:, column::SUMS].mean(axis=1))


def _columns(values: Any) -> NDArray[np.float64]:
    """Values as [n, columns, entries of a column]."""
    flat: NDArray[np.float64] = rows(np.asarray(values)).astype(np.float64)
    return flat[:, :, None] if flat.shape[1] <= MAX_COLUMNS else flat[:, None, :]


def _pairs(outputs: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]]) -> dict[str, str] | Unfit:
    """The label of each output that has one: by name, else the only one of its shape."""
    pairs: dict[str, str] = {}
    for label, values in labels.items():
        if values.dtype.kind not in "fiub":
            return Unfit(f"the labels {label!r} are no numbers", near=True)
        if not np.isfinite(values).all():
            return Unfit(f"the labels {label!r} hold NaN or infinity", near=True)
        size = values[0].size if values.ndim > 1 else 1
        fitting = [name for name, a in outputs.items() if a[0].size == size and name not in pairs]
        certain = len(fitting) == 1 or label == "labels"
        output = label if label in fitting else fitting[0] if fitting and certain else None
        if output is None:
            shapes = ", ".join(f"{name} is {list(a.shape)}" for name, a in outputs.items())
            return Unfit(
                f"the labels {label!r} of shape {list(values.shape)} belong to no output ({shapes})",
                near=True,
            )
        pairs[output] = label
    return pairs
