"""How far one output of a model is from the same output of another, over batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

WORST = 5
LOCATED = 10


class NonFinite(BaseModel):
    """Entries of an output that are NaN or infinite.

    Attributes:
        count: How many.
        samples: The first samples that have any, by index.
        first: Position of the first one: sample index, then the index inside the sample.
    """

    count: int
    samples: list[int]
    first: list[int]


class WorstSample(BaseModel):
    """A sample with a large difference: its index and its relative RMS (share of unequal entries where not numeric)."""

    index: int
    difference: float


class OutputDrift(BaseModel):
    """Differences between B and A in one output; entries that are not finite in either are counted apart.

    Attributes:
        max_abs: Largest absolute difference; None where the output is no numbers.
        rel_rms: RMS of the difference over RMS of A's output; None likewise, or where A is all zero and B is not.
        cosine: Mean over samples of the cosine similarity (1: same direction); None likewise.
        unequal: Share of entries that are not exactly equal.
        worst: The samples that differ most.
        nonfinite_a: NaN and infinity in A; None where there are none.
        nonfinite_b: NaN and infinity in B; None where there are none.
        new_nonfinite: Entries that are finite in A and not in B.
    """

    max_abs: float | None
    rel_rms: float | None
    cosine: float | None
    unequal: float
    worst: list[WorstSample] = Field(default_factory=list)
    nonfinite_a: NonFinite | None = None
    nonfinite_b: NonFinite | None = None
    new_nonfinite: int = 0


class DriftStream:
    """Sums over batches of one output of A and B."""

    def __init__(self) -> None:
        self.numeric = True
        self.max_abs = 0.0
        self.difference = self.reference = 0.0
        self.unequal = self.entries = 0
        self.cosines: list[NDArray[np.float64]] = []
        self.per_sample: list[NDArray[np.float64]] = []
        self.per_reference: list[NDArray[np.float64]] = []
        self.nonfinite: dict[str, NonFinite | None] = {"a": None, "b": None}
        self.new_nonfinite = 0

    def add(self, a: NDArray[Any], b: NDArray[Any], start: int) -> None:
        """Take in a batch [n, ...] of both, whose first sample has the index `start`."""
        n = len(a)
        rows_a, rows_b = a.reshape(n, -1), b.reshape(n, -1)
        self.entries += rows_a.size
        if a.dtype.kind not in "fiub" or b.dtype.kind not in "fiub":
            self.numeric = False
            unequal = rows_a != rows_b
            self.unequal += int(unequal.sum())
            self.per_sample.append(unequal.mean(axis=1) if unequal.shape[1] else np.zeros(n))
            return
        x, y = rows_a.astype(np.float64), rows_b.astype(np.float64)
        finite_x, finite_y = np.isfinite(x), np.isfinite(y)
        self._locate("a", finite_x, a.shape, start)
        self._locate("b", finite_y, b.shape, start)
        self.new_nonfinite += int((finite_x & ~finite_y).sum())
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        self.unequal += int(same.size - same.sum())
        both = finite_x & finite_y
        x, y = np.where(both, x, 0.0), np.where(both, y, 0.0)
        change = np.square(y - x)
        if change.size:
            self.max_abs = max(self.max_abs, float(np.abs(y - x).max()))
        squares_x, squares_y = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
        self.difference += float(change.sum())
        self.reference += float(squares_x.sum())
        product = np.sqrt(squares_x) * np.sqrt(squares_y)
        both_zero = (squares_x == 0) & (squares_y == 0)
        self.cosines.append(
            np.where(product > 0, (x * y).sum(axis=1) / np.where(product > 0, product, 1.0), both_zero)
        )
        self.per_sample.append(change.sum(axis=1))
        self.per_reference.append(squares_x)

    def result(self) -> OutputDrift:
        """What the batches add up to."""
        per_sample = np.concatenate(self.per_sample) if self.per_sample else np.zeros(0)
        drift = OutputDrift(
            max_abs=None,
            rel_rms=None,
            cosine=None,
            unequal=self.unequal / self.entries if self.entries else 0.0,
            nonfinite_a=self.nonfinite["a"],
            nonfinite_b=self.nonfinite["b"],
            new_nonfinite=self.new_nonfinite,
        )
        if not self.numeric:
            drift.worst = _worst(per_sample)
            return drift
        reference = np.concatenate(self.per_reference) if self.per_reference else np.zeros(0)
        # Relative to the sample's own size, or to a share of the mean size so that an empty sample does not win.
        base = np.maximum(reference, reference.mean() * 1e-3) if len(reference) else reference
        relative = np.sqrt(np.divide(per_sample, base, out=np.zeros_like(per_sample), where=base > 0))
        drift.worst = _worst(relative if self.reference > 0 else per_sample)
        if self.reference > 0:
            drift.rel_rms = float(np.sqrt(self.difference / self.reference))
        elif self.difference == 0:
            drift.rel_rms = 0.0
        drift.max_abs = self.max_abs
        drift.cosine = float(np.concatenate(self.cosines).mean()) if self.cosines else 1.0
        return drift

    def _locate(self, which: str, finite: NDArray[np.bool_], shape: tuple[int, ...], start: int) -> None:
        if finite.all():
            return
        found = np.argwhere(~finite)
        samples = [start + int(i) for i in np.unique(found[:, 0])]
        before = self.nonfinite[which]
        if before is None:
            sample, position = int(found[0, 0]), int(found[0, 1])
            inside = [int(i) for i in np.unravel_index(position, shape[1:])] if len(shape) > 1 else []
            self.nonfinite[which] = NonFinite(
                count=len(found), samples=samples[:LOCATED], first=[start + sample, *inside]
            )
        else:
            before.count += len(found)
            before.samples = (before.samples + samples)[:LOCATED]


def _worst(per_sample: NDArray[np.float64]) -> list[WorstSample]:
    order = np.argsort(-per_sample, kind="stable")[:WORST]
    return [WorstSample(index=int(i), difference=float(per_sample[i])) for i in order if per_sample[i] > 0]
