"""Running sums over activations that come batch by batch: statistics, projections and paired measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from lacoot_deploy.transport import Directions


@dataclass(frozen=True)
class ActivationStatistics:
    """What one value looks like over all samples and positions.

    Attributes:
        mean: Mean of its entries.
        std: Standard deviation of its entries.
        minimum: Smallest entry.
        maximum: Largest entry.
        zeros: Share of entries that are exactly zero.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    zeros: float


class ValueStream:
    """Statistics of one value, and its projections onto the directions that all values of its size share."""

    def __init__(self, directions: Directions, chosen: NDArray[np.int64]) -> None:
        self.count = 0
        self.sum = self.squares = 0.0
        self.zeros = 0
        self.low, self.high = np.inf, -np.inf
        self.chosen = chosen
        self.directions = directions
        self.parts: list[torch.Tensor] = []

    def add(self, rows: NDArray[np.float32], start: int) -> None:
        """Take in the samples from number `start` on, [n, D]."""
        import torch

        self.count += rows.size
        self.sum += float(rows.sum(dtype=np.float64))
        self.squares += float(np.square(rows, dtype=np.float64).sum())
        self.zeros += int(rows.size - np.count_nonzero(rows))
        self.low, self.high = min(self.low, float(rows.min())), max(self.high, float(rows.max()))
        first, last = np.searchsorted(self.chosen, (start, start + len(rows)))
        if last > first:
            picked = rows if last - first == len(rows) else rows[self.chosen[first:last] - start]
            self.parts.append(self.directions.project(torch.from_numpy(picked)))

    def projected(self) -> torch.Tensor:
        """The projections [K, N] of the chosen samples."""
        import torch

        return torch.cat(self.parts, dim=1)

    def statistics(self) -> ActivationStatistics:
        """Statistics over everything taken in."""
        mean = self.sum / self.count
        variance = max(0.0, self.squares / self.count - mean * mean)
        return ActivationStatistics(
            mean, float(np.sqrt(variance)), self.low, self.high, self.zeros / self.count
        )


class PairStream:
    """Sums for the measures that compare each sample with its own image."""

    def __init__(self) -> None:
        self.change = self.size = self.cosines = 0.0
        self.samples = 0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Take in samples [n, D] and their images."""
        self.change += float(np.square(y - x, dtype=np.float64).sum())
        xx, yy = (np.square(a, dtype=np.float64).sum(axis=1) for a in (x, y))
        xy = np.einsum("nd,nd->n", x, y, dtype=np.float64)
        self.size += float(xx.sum())
        # A sample that is zero on both sides counts as unchanged, as in `transport.cosine_distance`.
        product = np.sqrt(xx) * np.sqrt(yy)
        cosine = np.where(product > 0, xy / np.where(product > 0, product, 1.0), (xx == 0) & (yy == 0))
        self.cosines += float(cosine.sum())
        self.samples += len(x)

    def paired(self) -> float:
        """sqrt(mean ||y - x||^2) / sqrt(mean ||x||^2), as `transport.paired_distance`."""
        if self.change == 0:
            return 0.0
        return float(np.sqrt(self.change / self.size)) if self.size else float("inf")

    def cosine(self) -> float:
        """1 - mean cosine, as `transport.cosine_distance`."""
        return 1.0 - self.cosines / self.samples
