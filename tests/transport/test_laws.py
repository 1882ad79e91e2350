"""Laws of the distance that hold for any input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lacoot_deploy.transport import SlicedOptions, cosine_distance, max_sliced_wasserstein, paired_distance

cases = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10_000))
orders = st.sampled_from([1.0, 1.5, 2.0, 4.0])
estimators = st.sampled_from(["sampled", "ascent"])


def pair(case: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    n, features, seed = case
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return x, torch.randn(n, features, generator=generator, dtype=torch.float64) * 2 + 0.5


def distance(x: torch.Tensor, y: torch.Tensor, p: float, estimator: str) -> float:
    return float(
        max_sliced_wasserstein(
            x, y, SlicedOptions(p=p, estimator=estimator), generator=torch.Generator().manual_seed(7)
        )
    )


@settings(max_examples=40, deadline=None)
@given(cases, orders, estimators)
def test_symmetric_and_not_negative(case: tuple[int, int, int], p: float, estimator: str) -> None:
    x, y = pair(case)
    value = distance(x, y, p, estimator)
    assert value >= 0
    assert value == pytest.approx(distance(y, x, p, estimator), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(cases, orders, estimators, st.floats(-50, 50).filter(lambda f: abs(f) > 1e-3))
def test_scales_with_its_arguments(
    case: tuple[int, int, int], p: float, estimator: str, factor: float
) -> None:
    x, y = pair(case)
    scaled = distance(factor * x, factor * y, p, estimator)
    assert scaled == pytest.approx(abs(factor) * distance(x, y, p, estimator), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(cases, orders, estimators, st.floats(-100, 100))
def test_does_not_see_a_common_translation(
    case: tuple[int, int, int], p: float, estimator: str, by: float
) -> None:
    x, y = pair(case)
    assert distance(x + by, y + by, p, estimator) == pytest.approx(distance(x, y, p, estimator), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(cases, orders, estimators)
def test_does_not_see_the_order_of_the_samples(case: tuple[int, int, int], p: float, estimator: str) -> None:
    x, y = pair(case)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    assert distance(x, shuffled, p, estimator) == pytest.approx(distance(x, y, p, estimator), rel=1e-6)
    own = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))]
    assert distance(x, own, p, estimator) == pytest.approx(0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases, orders)
def test_ascent_lies_between_sampled_and_the_paired_bound(case: tuple[int, int, int], p: float) -> None:
    x, y = pair(case)
    ascent = distance(x, y, p, "ascent")
    assert ascent >= distance(x, y, p, "sampled") * (1 - 1e-9)
    # Any pairing of the samples bounds the transport cost, and no projection is longer than its vector.
    assert ascent <= float((x - y).norm(dim=1).pow(p).mean().pow(1 / p)) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(cases, st.floats(0.01, 100))
def test_paired_measures_have_no_unit(case: tuple[int, int, int], factor: float) -> None:
    x, y = pair(case)
    for measure in (paired_distance, cosine_distance):
        assert float(measure(factor * x, factor * y)) == pytest.approx(
            float(measure(x, y)), rel=1e-9, abs=1e-12
        )
    assert float(paired_distance(x, factor * x)) == pytest.approx(abs(factor - 1), rel=1e-9, abs=1e-12)
    assert float(cosine_distance(x, factor * x)) == pytest.approx(0, abs=1e-12)
