"""Statistics of paired latency: speed-up with an interval, noise floor, verdict. Numbers in, numbers out.

The data are log-ratios, one per pair, grouped in rounds: `log(latency of A / latency of B)`. Pairs of one round share
the sessions they were timed on, so they vary together; rounds are independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["faster", "slower", "no detectable difference"]
Rounds = Sequence[NDArray[np.float64]]

P99_SAMPLES = 1000
"""Samples from which on a 99th percentile is worth telling."""

_Z = 1.959963984540054
# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """A ratio of latencies with its 95 % interval; 1 is no difference."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencySummary:
    """Latency of one model over all its samples, in seconds.

    Attributes:
        samples: Number of samples.
        p50: Median.
        p90: 90th percentile.
        p99: 99th percentile; None below `P99_SAMPLES` samples.
        iqr: Distance of the quartiles.
        minimum: Fastest run.
    """

    samples: int
    p50: float
    p90: float
    p99: float | None
    iqr: float
    minimum: float


def summarise(seconds: NDArray[np.float64]) -> LatencySummary:
    """Percentiles of latencies in seconds; at least one."""
    p25, p50, p75, p90 = (float(q) for q in np.percentile(seconds, [25, 50, 75, 90]))
    p99 = float(np.percentile(seconds, 99)) if len(seconds) >= P99_SAMPLES else None
    return LatencySummary(len(seconds), p50, p90, p99, p75 - p25, float(seconds.min()))


def standard_error(rounds: Sequence[float]) -> float | None:
    """Standard error of a figure that was measured once in each round; None for a single round."""
    if len(rounds) < 2:
        return None
    return float(np.std(rounds, ddof=1) / math.sqrt(len(rounds)))


def ratio_interval(rounds: Rounds, *, draws: int = 1000, seed: int = 0) -> Ratio:
    """Exp of the median log-ratio, with a 95 % interval from a bootstrap of rounds and, within them, pairs.

    A percentile interval of few rounds is too narrow: it is widened about the estimate by Student's t over the normal
    quantile and by sqrt(R / (R - 1)), as an interval for a mean of R values would be. With a single round only the
    pairs vary, and what a fresh session would change stays unknown.

    Args:
        rounds: The log-ratios of each round; at least one pair in each.
        draws: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    estimate = float(np.median(np.concatenate(rounds)))
    count = len(rounds)
    medians = _resampled_medians(rounds, draws, np.random.default_rng(seed))
    low, high = np.percentile(medians, [2.5, 97.5])
    factor = widening(count)
    return Ratio(
        value=math.exp(estimate),
        low=math.exp(estimate - factor * max(0.0, estimate - float(low))),
        high=math.exp(estimate + factor * max(0.0, float(high) - estimate)),
    )


def _resampled_medians(rounds: Rounds, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of pairs drawn from rounds drawn with replacement, by counting how often each pair is drawn."""
    count = len(rounds)
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    weights = np.concatenate(
        [
            rng.multinomial(times[:, r] * len(pairs), np.full(len(pairs), 1 / len(pairs)))
            for r, pairs in enumerate(rounds)
        ],
        axis=1,
    )
    values = np.concatenate(rounds)
    order = np.argsort(values)
    cumulated = np.cumsum(weights[:, order], axis=1)
    totals = cumulated[:, -1:]
    below = (2 * cumulated < totals).sum(axis=1)
    above = (2 * cumulated <= totals).sum(axis=1)
    return np.asarray((values[order][below] + values[order][above]) / 2)


def widening(rounds: int) -> float:
    """How much wider than a bootstrap's the interval of that many rounds must be; 1 for a single round."""
    if rounds < 2:
        return 1.0
    t = _T[rounds - 2] if rounds - 2 < len(_T) else _Z
    return t / _Z * math.sqrt(rounds / (rounds - 1))


def noise_floor(self_ratio: Ratio) -> float:
    """The largest difference, as a share, that A against itself could show in this run: 0.01 is 1 %."""
    return math.exp(max(abs(math.log(self_ratio.low)), abs(math.log(self_ratio.high)))) - 1


def verdict(ratio: Ratio, floor: float) -> Verdict:
    """Faster or slower only where the interval excludes 1 and the difference is above the noise floor."""
    beyond = abs(math.log(ratio.value)) > math.log1p(floor)
    if ratio.low > 1 and beyond:
        return "faster"
    if ratio.high < 1 and beyond:
        return "slower"
    return "no detectable difference"


def smallest_detectable(ratio: Ratio, floor: float) -> float:
    """The smallest difference, as a share, that this run could have told from none."""
    half = max(math.log(ratio.high / ratio.value), math.log(ratio.value / ratio.low))
    return max(floor, math.exp(half) - 1)
