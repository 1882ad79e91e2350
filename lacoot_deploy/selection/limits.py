"""What a plan is made from: how far to go, and the samples with their roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.options import ANY_TASK, TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import UsageError
from lacoot_deploy.selection.judge import Quality

FEWEST = 8
"""Samples that a search needs."""


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
    """Samples with their roles: repairs are fitted on some, others choose, others again confirm.

    Attributes:
        fit: Repairs are fitted on these.
        choose: These choose.
        confirm: These confirm.
        task: What the network is for, as far as the user says.
    """

    fit: Samples
    choose: Samples
    confirm: Samples
    task: TaskOptions = ANY_TASK

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return bool(self.choose.label_arrays)

    @classmethod
    def split(
        cls,
        samples: Samples,
        *,
        seed: int = 0,
        fit_limit: int = 1024,
        task: TaskOptions | None = None,
    ) -> Evidence:
        """Half of the samples confirm; the other half fits repairs (at most `fit_limit` of them) and chooses.

        Samples of one group, a pair say, stay together.

        Args:
            samples: All samples.
            seed: Seed of the split.
            fit_limit: At most that many are fitted on.
            task: What the user says about what the network is for.

        Raises:
            UsageError: There are fewer than eight samples.
        """
        n = len(samples)
        if n < FEWEST:
            where, part = samples.description or "The data", "]" in samples.description
            more = " or read another part with --split" if part else ""
            raise UsageError(
                f"{where} holds {n} samples, too few to choose by: give at least {FEWEST}{more}."
            )
        order = np.random.default_rng(seed).permutation(n)
        fit = min(n // 4, fit_limit)
        cuts = fit, n // 2
        if samples.groups is not None:
            order, cuts = _together(order, samples.groups, cuts)
        parts = order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]
        fitting, choosing, confirming = (samples.take(np.sort(part)) for part in parts)
        return cls(fitting, choosing, confirming, task or ANY_TASK)


def _together(
    order: NDArray[np.int64], groups: NDArray[Any], cuts: tuple[int, int]
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """The order with each group's members behind its first, and the cuts moved to where a group ends."""
    _, first, group = np.unique(groups[order], return_index=True, return_inverse=True)
    place = np.argsort(first[group], kind="stable")
    starts = np.flatnonzero(np.diff(first[group][place], prepend=-1))
    ends = np.append(starts[1:], len(order))
    early, late = (int(ends[np.searchsorted(ends, cut)]) for cut in cuts)
    return order[place], (early, late)
