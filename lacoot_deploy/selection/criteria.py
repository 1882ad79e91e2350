"""Criteria: functions from measurements to a score per block; the block with the lowest score goes first.

A recorded criterion reads a distance that was measured on the dense network. A trial criterion removes the block in a
trial, its repair fitted, and scores what comes out. A new one is an
entry in `CRITERIA` and its meaning in `names.BLOCK_CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import DistanceRecord
from lacoot_deploy.selection.judge import Quality
from lacoot_deploy.selection.names import block_criterion

Distances = Mapping[str, Mapping[str, DistanceRecord]]


@dataclass(frozen=True)
class Criterion:
    """One way to score blocks.

    Attributes:
        name: Its name on the command line.
        distance: The recorded distance that it reads; None for a trial criterion or the random control.
        trial: Score from the outcome of a trial removal; None for the others.
        labels: Whether it needs labels.
        per_latency: Whether the score is per millisecond that the block takes.
        costs: `loss` or `output` where the blocks' order is that of the mean of such costs over samples (see
            `Judge.costs`), so that a trial can end as soon as it is sure to lose; None else.
    """

    name: str
    distance: str | None = None
    trial: Callable[[Quality], float] | None = None
    labels: bool = False
    per_latency: bool = False
    costs: Literal["loss", "output"] | None = None

    def score(self, before: Quality, after: Quality, milliseconds: float | None = None) -> float:
        """Score of a trial removal.

        Args:
            before: The network before the removal.
            after: The network after it.
            milliseconds: What the block takes; needed where `per_latency`.

        Raises:
            UsageError: The criterion does not try removals, or labels or latencies are missing.
        """
        if self.trial is None:
            raise UsageError(f"The criterion {self.name!r} does not try removals.")
        if not self.per_latency:
            return self.trial(after)
        if milliseconds is None:
            raise UsageError(f"The criterion {self.name!r} needs the latency of every block.")
        harm, size = self.trial(after) - self.trial(before), max(milliseconds, 1e-6)
        # A removal that does good is the better the more time it saves, one that does harm the worse the less.
        return harm / size if harm > 0 else harm * size


def _output(quality: Quality) -> float:
    return quality.divergence


def _loss(quality: Quality) -> float:
    if quality.loss is None:
        raise UsageError("The criterion 'loss' needs labelled data; use 'output' without labels.")
    return quality.loss


def _best_known(quality: Quality) -> float:
    return _output(quality) if quality.loss is None else quality.loss


CRITERIA: dict[str, Criterion] = {
    c.name: c
    for c in (
        *(Criterion(name, distance=name) for name in ("mswd", "mswd-ascent", "paired", "cosine")),
        Criterion("output", trial=_output, costs="output"),
        Criterion("loss", trial=_loss, labels=True, costs="loss"),
        Criterion("latency", trial=_best_known, per_latency=True),
        Criterion("random"),
    )
}
"""What each means is told in `names.BLOCK_CRITERIA`."""


def get_criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        UsageError: There is none.
    """
    return CRITERIA[block_criterion(name)]


def recorded_scores(
    criterion: Criterion, names: list[str], distances: Distances, *, seed: int = 0
) -> dict[str, float]:
    """Scores by block name from recorded distances, or random ones for the control.

    A block without that distance (a strided one, say, whose input and output cannot be compared) gets no score and is
    not removed.

    Raises:
        InputError: No block has such a distance recorded.
        UsageError: The criterion needs trial removals.
    """
    if criterion.trial is not None:
        raise UsageError(f"The criterion {criterion.name!r} needs data: give --data.")
    if criterion.distance is None:
        order = np.random.default_rng(seed).permutation(len(names))
        return {name: float(rank) for name, rank in zip(names, order, strict=True)}
    recorded = [name for name in names if criterion.distance in distances.get(name, {})]
    if not recorded:
        raise InputError(
            f"No {criterion.distance!r} distance is recorded in the model: give --data, or run "
            f"'lacoot-deploy measure' first."
        )
    return {name: distances[name][criterion.distance].value for name in recorded}
