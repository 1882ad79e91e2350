"""Intervals for a score, and for the difference of two models that were scored on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


def paired_proportions_interval(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval for the share of hits of a minus that of b, on the same samples.

    Wald's interval with the two discordant counts raised by one (Bonett and Price, "Adjusted Wald confidence interval
    for a difference of binomial proportions based on paired data", 2012): its coverage stays near 95 % also where
    few or no samples are judged differently, where Wald's own collapses to a point.
    """
    n = len(a)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    middle = share_a - share_b
    half = Z95 * math.sqrt((share_a + share_b - middle * middle) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def mcnemar_p(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar test: how likely so uneven a split of the disagreements is if both were equally good."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, smaller = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(smaller, n).pvalue)


def paired_bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float], samples: int, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of sample indices, the samples drawn anew with replacement.

    Args:
        statistic: Computes the difference of the two models' scores on the given samples.
        samples: Number of samples.
        draws: Number of resamples.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, samples, samples)) for _ in range(draws)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def proportion_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of samples (Wilson's score interval); [0, 1] for no sample."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def mean_interval(values: NDArray[Any], *, span: float | None = None) -> tuple[float, float]:
    """95 % interval of a mean by Student's t; equal values leave as much open as `paired_mean_interval` says.

    Args:
        values: One per sample, [n].
        span: Distance of the largest and the smallest value that there can be, where known.
    """
    return _mean_interval(np.asarray(values, np.float64), span or 0.0)


def paired_mean_interval(
    a: NDArray[Any], b: NDArray[Any], *, span: float | None = None
) -> tuple[float, float]:
    """95 % interval for the mean of a less that of b, on the same samples.

    Student's t over the differences and two more pairs, one for each side, that differ as much as any pair did; where
    all differences are equal, as much as the scores themselves vary, or can. What these two stand for is what so few
    samples could not show: the idea of Bonett and Price's interval for proportions, carried over to means.

    Args:
        a: Scores of one network, [n].
        b: Scores of the other on the same samples, [n].
        span: Distance of the largest and the smallest score that there can be, where known.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return _mean_interval(
        a - b, span if span is not None else float(np.std(a)) or float(np.abs(a).max(initial=0))
    )


def _mean_interval(values: NDArray[np.float64], unseen: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        return -math.inf, math.inf
    middle = float(values.mean())
    deviations = values - middle
    # What rounding leaves of equal values is no spread.
    largest = float(np.abs(deviations).max())
    extra = unseen if largest <= 1e-12 * max(abs(middle), unseen) else largest
    variance = (float(np.square(deviations).sum()) + 2 * extra * extra) / (n + 1)
    half = float(stdtrit(n + 1, 0.975)) * math.sqrt(variance / (n + 2))
    return middle - half, middle + half


def bootstrap_interval(
    score: Callable[[NDArray[np.int64]], float],
    samples: int,
    *,
    span: float | None = None,
    draws: int = 400,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a score of sample indices; draws whose score is not finite are left out.

    Where all draws are equal, three samples of as many as there are may still be otherwise (the rule of three): so much
    of the span is left open on both sides.

    Args:
        score: Computes the score of the given samples.
        samples: Number of samples.
        span: Distance of the best and the worst score that there can be, where known.
        draws: Number of resamples.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    values = [score(rng.integers(0, samples, samples)) for _ in range(draws)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return -math.inf, math.inf
    low, high = (float(value) for value in np.percentile(finite, [2.5, 97.5]))
    unseen = 3 / (samples + 3) * (span or abs(low)) if high - low <= 1e-12 * abs(high) else 0.0
    return low - unseen, high + unseen


def paired_score_interval(
    a: Callable[[NDArray[np.int64]], float],
    b: Callable[[NDArray[np.int64]], float],
    samples: int,
    *,
    span: float | None = None,
    draws: int = 400,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval for the score of a less that of b, where the score is no mean over samples.

    A percentile bootstrap of the samples in pairs. Pairs that are all equal would leave no width, although further
    samples may differ: it is widened, in squares, by what two unseen pairs in n + 2 that have nothing to do with one
    another would add, judged by how much the score of a alone varies (or, where it does not, by its span).

    Args:
        a: Computes the score of one network on the samples of these indices.
        b: The same for the other network.
        samples: Number of samples.
        span: Distance of the best and the worst score that there can be, where known.
        draws: Number of resamples.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    chosen = [np.arange(samples), *(rng.integers(0, samples, samples) for _ in range(draws))]
    scores = np.array([(a(indices), b(indices)) for indices in chosen])
    value = float(scores[0, 0] - scores[0, 1])
    scores = scores[1:][np.isfinite(scores[1:]).all(axis=1)]
    if not len(scores) or not math.isfinite(value):
        return -math.inf, math.inf
    low, high = np.percentile(scores[:, 0] - scores[:, 1], [2.5, 97.5])
    alone = float(scores[:, 0].std())
    if alone == 0:
        alone = (span or abs(float(scores[0, 0]))) / math.sqrt(samples + 2)
    unseen = Z95 * alone * math.sqrt(4 / (samples + 2))
    return (
        value - math.hypot(max(value - float(low), 0.0), unseen),
        value + math.hypot(max(float(high) - value, 0.0), unseen),
    )
