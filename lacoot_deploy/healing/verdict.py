"""Which state of a network is the best on samples that trained none of them, and whether it beats the start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from lacoot_deploy.tasks import Quality


class Scored(Protocol):
    """What records keep of a network's quality."""

    agreement: float
    drift: float


@dataclass(frozen=True)
class State:
    """A state of the network at a step.

    Attributes:
        step: Steps taken.
        kind: `start`, `weights` or `average`.
        quality: On the held-back samples.
    """

    step: int
    kind: str
    quality: Quality


def improves(state: Quality, start: Quality) -> bool:
    """Whether a state is better than the start: in agreement or in drift, and in neither of them worse.

    Agreement within what chance does to that many samples counts as equal where the drift falls, and so does the score
    against labels.
    """
    if not math.isfinite(state.drift) or state.drift > start.drift:
        return False
    slack = _slack(start, start.agreement)
    if _gain(state.agreement, start.agreement, start.higher) < -slack:
        return False
    if state.labelled is not None and start.labelled is not None:
        labelled = _gain(state.labelled, start.labelled, start.higher)
        if labelled < -_slack(start, start.labelled):
            return False
    return state.drift < start.drift or _gain(state.agreement, start.agreement, start.higher) > 0


def better(state: Quality, best: Quality) -> bool:
    """Whether a state is to be preferred: the smaller drift, unless agreement falls by more than chance."""
    gain = _gain(state.agreement, best.agreement, best.higher)
    slack = 0.5 * _slack(best, best.agreement)
    if gain > slack:
        return state.drift <= 1.05 * best.drift
    return gain >= -slack and state.drift < best.drift


def preferred(state: Scored, best: Scored, samples: int) -> bool:
    """Whether a healed candidate is better than the best so far: by the rule of `better`, from what records hold.

    Args:
        state: How it did on the samples held back.
        best: How the best so far did there.
        samples: How many they are.
    """
    share = min(max(best.agreement / 100.0, 0.0), 1.0)
    slack = 50.0 * math.sqrt(share * (1 - share) / max(samples, 1))
    gain = state.agreement - best.agreement
    if gain > slack:
        return state.drift <= 1.05 * best.drift
    return gain >= -slack and state.drift < best.drift


def _gain(new: float, old: float, higher: bool) -> float:
    return new - old if higher else old - new


def _slack(quality: Quality, value: float) -> float:
    """A standard error of a share in percent; nothing for scores of another kind."""
    if quality.unit != "points":
        return 0.0
    share = min(max(value / 100.0, 0.0), 1.0)
    return 100.0 * math.sqrt(
        max(share * (1 - share), 0.25 / max(quality.samples, 1)) / max(quality.samples, 1)
    )
