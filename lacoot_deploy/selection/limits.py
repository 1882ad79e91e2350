"""What a plan is made from: how far to go, and the samples with their roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import UsageError


@dataclass(frozen=True)
class Limit:
    """How far to go; exactly one is given.

    Attributes:
        blocks: Remove exactly these blocks.
        count: Remove that many.
        max_distance: Remove every block whose distance is at most this.
        max_drop: Remove as many as cost at most that many points of accuracy (of agreement without labels).
        max_drift: Remove as many as change the outputs by at most this relative RMS.
        min_speedup: Remove as few as make the network that many times as fast.
        lossless: Remove every block whose branch is the same for every input, and no other.
    """

    blocks: tuple[str, ...] | None = None
    count: int | None = None
    max_distance: float | None = None
    max_drop: float | None = None
    max_drift: float | None = None
    min_speedup: float | None = None
    lossless: bool | None = None

    def __post_init__(self) -> None:
        """Hold the promise that exactly one limit is given."""
        if len(self.given()) != 1:
            raise UsageError(
                "Give exactly one of --blocks, --count, --max-distance, --max-drop, --max-drift, --min-speedup, "
                "--lossless."
            )

    def given(self) -> dict[str, Any]:
        """The limit as plain data."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if value is not None
        }


@dataclass(frozen=True)
class Evidence:
    """Samples with their roles: repairs are fitted on some, others choose, others again confirm."""

    fit: Samples
    choose: Samples
    confirm: Samples

    @classmethod
    def split(cls, samples: Samples, *, seed: int = 0, fit_limit: int = 1024) -> Evidence:
        """Half of the samples confirm; the other half fits repairs (at most `fit_limit` of them) and chooses.

        Raises:
            UsageError: There are fewer than eight samples.
        """
        n = len(samples)
        if n < 8:
            raise UsageError(f"{n} samples are too few to choose by; give at least 8.")
        order = np.random.default_rng(seed).permutation(n)
        fit = min(n // 4, fit_limit)
        parts = order[:fit], order[fit : n // 2], order[n // 2 :]
        return cls(*(samples.take(np.sort(part)) for part in parts))
