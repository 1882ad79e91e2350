"""What a plan is made from: how far to go, and the samples with their roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.options import ANY_TASK, TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.numerals import counted
from lacoot_deploy.selection.judge import Quality

TINY = 1e-9
"""What rounding may add to a drop."""

FEWEST = 8
"""Samples that a search needs."""

VERBS = {"block": "be collapsed", "activation": "be made linear"}


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


class Verdict(Enum):
    """What a limit says of a network on the way."""

    WITHIN = "within"
    """A ceiling that is kept, or no limit at all: more may go."""

    EXCEEDED = "exceeded"
    """A ceiling that is broken: this went too far."""

    NOT_REACHED = "not reached"
    """A target that is not met yet."""

    REACHED = "reached"
    """A target that is met: no more need go."""

    @property
    def ends(self) -> bool:
        """Whether a search ends here."""
        return self in (Verdict.EXCEEDED, Verdict.REACHED)


class LimitRule:
    """One limit, asked the same way by the search, by the samples that confirm, and for activations.

    Args:
        limit: How far to go; None where the user named what goes.
        dense: Quality of the network that nothing was taken from.
        thing: What goes, in words.

    Attributes:
        verdict: The last one of `step`.
    """

    def __init__(self, limit: Limit | None, dense: Quality, *, thing: str = "block") -> None:
        self.limit, self.dense, self.thing = limit, dense, thing
        self.verdict = Verdict.WITHIN
        self._taken, self._speedup = 0, 0.0
        self._least: float | None = None

    def ceiling(self, quality: Quality, dense: Quality | None = None) -> Verdict:
        """Whether a network keeps a limit on its quality.

        Args:
            quality: The network's.
            dense: The dense network's on the same samples; None for those that choose.
        """
        dense, limit = dense or self.dense, self.limit
        if limit is None or (limit.max_drop is None and limit.max_drift is None):
            return Verdict.WITHIN
        lost = quality.drift if limit.max_drift is not None else dense.drop_to(quality)
        self._least = lost if self._least is None else min(self._least, lost)
        allowed = limit.max_drift if limit.max_drift is not None else limit.max_drop
        return Verdict.WITHIN if allowed is not None and lost <= allowed + TINY else Verdict.EXCEEDED

    def step(self, quality: Quality, speedup: Callable[[], float] | None = None) -> Verdict:
        """What the limit says after one more went.

        Args:
            quality: The network's, on the samples that choose.
            speedup: Measures how many times as fast it is.

        Raises:
            UsageError: The limit is a speed-up and none can be measured.
        """
        self._taken += 1
        limit = self.limit
        if limit is not None and limit.count is not None:
            self.verdict = Verdict.REACHED if self._taken >= limit.count else Verdict.NOT_REACHED
        elif limit is not None and limit.min_speedup is not None:
            if speedup is None:
                raise UsageError("--min-speedup needs a measurement of the speed-up.")
            found = speedup()
            self._speedup = max(self._speedup, found)
            self.verdict = Verdict.REACHED if found >= limit.min_speedup else Verdict.NOT_REACHED
        else:
            self.verdict = self.ceiling(quality)
        return self.verdict

    def require(self) -> None:
        """Refuse the end of a search that did not meet its target.

        Raises:
            NothingToCollapseError: It did not; the message names the best that was reached.
        """
        limit = self.limit
        if limit is None or (limit.count is None and limit.min_speedup is None):
            return
        if self.verdict is Verdict.REACHED:
            return
        if limit.count is not None:
            raise NothingToCollapseError(
                f"--count {limit.count} is not reached: only {counted(self._taken, self.thing)} can go."
            )
        best = (
            f"the most is {self._speedup:.3g} times" if self._taken else f"there is no {self.thing} to take"
        )
        raise NothingToCollapseError(
            f"--min-speedup {limit.min_speedup:g} is not reached: with {counted(self._taken, self.thing)} gone, "
            f"all that can go, {best} as fast."
        )

    def nothing(self) -> NothingToCollapseError:
        """The error of a ceiling that even the first step breaks; it names the least that was lost."""
        said = f"Nothing can {VERBS[self.thing]}: even one {self.thing} exceeds the limit on the confirming samples"
        if self.limit is None or self._least is None:
            return NothingToCollapseError(f"{said}.")
        drift = self.limit.max_drift is not None
        lost = f"a drift of {self._least:.3g}" if drift else f"a drop of {self._least:.3g} {self.dense.unit}"
        return NothingToCollapseError(f"{said}; the best that was reached is {lost}.")


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
