from __future__ import annotations

import numpy as np
import pytest

from lacoot_deploy.intervals import mcnemar_p, paired_bootstrap_interval, paired_proportions_interval


def hits(both: int, only_a: int, only_b: int, none: int):
    a = np.array([True] * (both + only_a) + [False] * (only_b + none))
    b = np.array([True] * both + [False] * only_a + [True] * only_b + [False] * none)
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 9), (30, 30), (40, 0)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    stats = pytest.importorskip("scipy.stats")
    want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_p(*hits(50, only_a, only_b, 5)) == pytest.approx(want)


def test_mcnemar_stands_many_samples():
    assert mcnemar_p(*hits(0, 30_000, 31_000, 0)) == pytest.approx(5.2e-5, rel=0.05)


@pytest.mark.parametrize(
    ("n", "p_only_a", "p_only_b"), [(200, 0.02, 0.01), (1000, 0.005, 0.005), (360, 0.08, 0.03)]
)
def test_the_interval_covers_the_true_drop_in_about_95_of_100_cases(n, p_only_a, p_only_b):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        draw = rng.random(n)
        a = draw < 0.6 + p_only_a
        b = (draw < 0.6) | (draw > 1 - p_only_b)
        low, high = paired_proportions_interval(a, b)
        covered += low <= p_only_a - p_only_b <= high
    assert covered >= 935


def test_equal_predictions_leave_an_interval_as_wide_as_the_sample_is_small():
    same = np.ones(1000, dtype=bool)
    low, high = paired_proportions_interval(same, same)
    assert low == pytest.approx(-high)
    assert 0.001 < high < 0.004


def test_the_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(1).standard_normal(400)
    low, high = paired_bootstrap_interval(lambda i: float(values[i].mean()), len(values))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)
