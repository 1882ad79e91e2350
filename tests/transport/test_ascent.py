from __future__ import annotations

import math

import pytest
import torch

from lacoot_deploy.transport import SlicedOptions, max_sliced_wasserstein


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("features", [3, 40])
def test_closed_form_of_shifted_and_scaled_gaussians(features: int) -> None:
    """Along theta the cost is (theta . shift)^2 + (sigma_y(theta) - sigma_x(theta))^2 for Gaussians."""
    spread = torch.ones(features)
    spread[1] = 2.5
    for shift, expected in ((0.0, 1.5), (3.0, 3.0)):
        x = seeded(5_000, features)
        y = seeded(5_000, features, seed=1) * spread
        y[:, 0] += shift
        value = float(max_sliced_wasserstein(x, y, SlicedOptions(estimator="ascent")))
        assert value == pytest.approx(expected, rel=0.05)


def test_finds_the_best_direction_of_the_plane() -> None:
    x, y = seeded(200, 2), seeded(200, 2, seed=1) * torch.tensor([0.3, 1.7]) + torch.tensor([0.2, 0.4])
    angles = torch.linspace(0, math.pi, 2001)
    grid = max_sliced_wasserstein(x, y, directions=torch.stack((angles.cos(), angles.sin())))
    value = max_sliced_wasserstein(x, y, SlicedOptions(estimator="ascent"))
    assert float(value) == pytest.approx(float(grid), rel=1e-4)


def test_finds_a_shift_of_one_feature_among_many() -> None:
    """FACTS: by 5 sigma in 16384 features; 50 random directions read about 0.1, the floor."""
    x = seeded(128, 16384)
    y = x.clone()
    y[:, 3] += 5
    assert float(max_sliced_wasserstein(x, y, SlicedOptions(estimator="ascent"))) == pytest.approx(
        5, rel=1e-3
    )
    assert float(max_sliced_wasserstein(x, y)) < 0.5


@pytest.mark.parametrize("shape", [(6, 50), (60, 7)])
def test_gradient_leads_upwards_at_least_as_steeply_as_along_the_fixed_direction(
    shape: tuple[int, int],
) -> None:
    """The best direction may sit where two matchings tie, so after a step another one can gain more."""
    x, y = seeded(*shape).double().requires_grad_(), seeded(*shape, seed=1).double() * 1.5
    value = max_sliced_wasserstein(x, y, SlicedOptions(estimator="ascent", steps=300))
    (gradient,) = torch.autograd.grad(value, x)
    step = 1e-4
    moved = max_sliced_wasserstein(
        x.detach() + step * gradient, y, SlicedOptions(estimator="ascent", steps=300)
    )
    assert float(moved) - float(value.detach()) > 0.9 * step * float(gradient.square().sum())


def test_half_precision_and_a_large_common_mean_keep_their_digits() -> None:
    x, y = seeded(32, 5000), seeded(32, 5000, seed=1)
    exact = float(max_sliced_wasserstein(x.double(), y.double(), SlicedOptions(estimator="ascent")))
    moved = float(max_sliced_wasserstein(x + 1000, y + 1000, SlicedOptions(estimator="ascent")))
    assert moved == pytest.approx(exact, rel=1e-2)
    half = float(max_sliced_wasserstein(x.bfloat16(), y.bfloat16(), SlicedOptions(estimator="ascent")))
    assert half == pytest.approx(exact, rel=1e-2)
