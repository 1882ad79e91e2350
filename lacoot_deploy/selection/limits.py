"""What a plan is made from: how far to go, and the samples with their roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import UsageError
from lacoot_deploy.selection.judge import Quality


@dataclass(frozen=True)
class Limit:
    """How far to go; exactly one is given.

    Attributes:
        blocks: Remove exactly these blocks.
        count: Remove that many.
        max_distance: Remove every block whose distance is at most this.
        max_drop: Remove as many as cost at most that much of the task's score, in its unit: points of accuracy, say
            (without labels, of agreement with the dense network).
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

    def keeps(self, dense: Quality, after: Quality) -> bool:
        """Whether a network is within the limit, as far as the limit is one on quality."""
        if self.max_drop is not None:
            return dense.drop_to(after) <= self.max_drop + 1e-9
        if self.max_drift is not None:
            return after.drift <= self.max_drift
        return True


def stop_rule(limit: Limit, dense: Quality) -> Callable[[Quality, Callable[[], float] | None], bool]:
    """Whether to end a search after a step, from the network's quality then and a measurement of its speed-up.

    Args:
        limit: How far to go.
        dense: Quality of the network that nothing was taken from.

    Raises:
        UsageError: When the rule is asked: the limit is a speed-up and none was measured.
    """
    taken = 0

    def stop(quality: Quality, speedup: Callable[[], float] | None) -> bool:
        nonlocal taken
        taken += 1
        if limit.count is not None:
            return taken >= limit.count
        if limit.max_drop is not None:
            return dense.drop_to(quality) > limit.max_drop
        if limit.max_drift is not None:
            return quality.drift > limit.max_drift
        if limit.min_speedup is not None:
            if speedup is None:
                raise UsageError("--min-speedup needs a measurement of the speed-up.")
            return speedup() >= limit.min_speedup
        return False

    return stop


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
