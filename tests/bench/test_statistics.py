from __future__ import annotations

import math

import numpy as np
import pytest

from lacoot_deploy.bench.statistics import (
    Ratio,
    _resampled_medians,
    noise_floor,
    ratio_interval,
    smallest_detectable,
    standard_error,
    summarise,
    verdict,
    widening,
)
from lacoot_deploy.numerals import significant


def timings(rng, *, ratio: float, rounds: int, pairs: int, between: float, within: float):
    """Log-ratios of a true ratio: every round has its own offset, every pair heavy-tailed noise."""
    return [
        math.log(ratio) + between * rng.standard_normal() + within * rng.standard_t(3, pairs)
        for _ in range(rounds)
    ]


@pytest.mark.parametrize(
    ("rounds", "pairs", "between", "within"),
    [(10, 40, 0.01, 0.02), (10, 40, 0.0, 0.05), (5, 20, 0.02, 0.02), (10, 8, 0.03, 0.01)],
)
def test_the_interval_covers_the_truth_in_at_least_93_of_100_runs(rounds, pairs, between, within):
    rng = np.random.default_rng(rounds + pairs)
    runs, covered = 300, 0
    for run in range(runs):
        data = timings(rng, ratio=1.3, rounds=rounds, pairs=pairs, between=between, within=within)
        ratio = ratio_interval(data, draws=200, seed=run)
        covered += ratio.low <= 1.3 <= ratio.high
    assert covered >= 0.93 * runs


def test_rounds_that_disagree_widen_the_interval_however_many_pairs_they_have():
    rng = np.random.default_rng(0)
    data = timings(rng, ratio=1.0, rounds=8, pairs=400, between=0.03, within=0.001)
    mixed = [np.concatenate(data)[i::8] for i in range(8)]
    apart, together = ratio_interval(data), ratio_interval(mixed)
    assert apart.high - apart.low > 2 * (together.high - together.low)


def test_the_estimate_is_the_exponential_of_the_median_log_ratio_and_the_seed_repeats():
    data = [np.log([1.0, 2.0, 2.0]), np.log([2.0, 8.0])]
    ratio = ratio_interval(data, seed=4)
    assert ratio.value == pytest.approx(2.0)
    assert ratio == ratio_interval(data, seed=4)
    assert ratio.low <= ratio.value <= ratio.high


def test_medians_of_resamples_are_those_of_drawing_one_by_one():
    rng = np.random.default_rng(0)
    rounds = [rng.standard_normal(n) for n in (3, 6, 9)]
    fast = _resampled_medians(rounds, 4000, np.random.default_rng(1))
    plain = []
    for _ in range(4000):
        chosen = [rounds[i] for i in rng.integers(0, 3, 3)]
        plain.append(
            np.median(np.concatenate([pairs[rng.integers(0, len(pairs), len(pairs))] for pairs in chosen]))
        )
    quantiles = [5, 25, 50, 75, 95]
    np.testing.assert_allclose(np.percentile(fast, quantiles), np.percentile(plain, quantiles), atol=0.06)


def test_outliers_do_not_move_the_estimate():
    data = [np.log(np.full(20, 1.5)) for _ in range(5)]
    data[2][:9] = math.log(50)
    assert ratio_interval(data).value == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("ratio", "floor", "want"),
    [
        (Ratio(1.10, 1.05, 1.15), 0.02, "faster"),
        (Ratio(0.90, 0.85, 0.95), 0.02, "slower"),
        (Ratio(1.10, 0.99, 1.20), 0.02, "no detectable difference"),
        (Ratio(1.010, 1.005, 1.015), 0.02, "no detectable difference"),
        (Ratio(0.990, 0.985, 0.995), 0.02, "no detectable difference"),
    ],
)
def test_a_verdict_needs_an_interval_without_1_and_more_than_the_noise(ratio, floor, want):
    assert verdict(ratio, floor) == want


def test_the_noise_floor_is_the_far_end_of_the_self_interval():
    assert noise_floor(Ratio(1.0, 0.98, 1.01)) == pytest.approx(1 / 0.98 - 1)
    assert noise_floor(Ratio(1.0, 0.995, 1.03)) == pytest.approx(0.03)
    assert smallest_detectable(Ratio(2.0, 1.9, 2.1), 0.01) == pytest.approx(2 / 1.9 - 1)
    assert smallest_detectable(Ratio(2.0, 1.9, 2.1), 0.2) == 0.2


def test_few_rounds_widen_by_students_t():
    stats = pytest.importorskip("scipy.stats")
    for rounds in (2, 5, 10, 31):
        want = stats.t.ppf(0.975, rounds - 1) / stats.norm.ppf(0.975) * math.sqrt(rounds / (rounds - 1))
        assert widening(rounds) == pytest.approx(want, rel=1e-3)
    assert widening(1) == 1.0


def test_p99_needs_a_thousand_samples():
    values = np.arange(1, 1000) / 1e3
    assert summarise(values).p99 is None
    full = summarise(np.arange(1, 1002) / 1e3)
    assert (full.p50, full.p90, full.p99) == pytest.approx((0.501, 0.901, 0.991))
    assert full.iqr == pytest.approx(0.5)


def test_the_standard_error_needs_two_rounds():
    assert standard_error([1.0]) is None
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert standard_error([2.0] * 7) == 0


def test_no_more_digits_than_asked_for():
    assert significant(0.0476281, uncertainty=1e-7) == "0.0476"
    assert significant(20712.4) == "20700"
    assert significant(0.0476281, uncertainty=0.012) == "0.048"


@pytest.mark.parametrize(
    ("value", "uncertainty", "want"),
    [
        (1.41421, 0.0123, "1.414"),
        (12.3456, 0.5, "12.35"),
        (0.000123456, 0.0, "0.000123456"),
        (1234.5, 40.0, "1234"),
    ],
)
def test_no_more_digits_than_the_uncertainty_leaves(value, uncertainty, want):
    assert significant(value, 6, uncertainty=uncertainty) == want
