from __future__ import annotations

import numpy as np
import pytest

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.transport import (
    ChannelMoments,
    JointMoments,
    affine_least_squares,
    affine_map,
    linear_least_squares,
    linear_map,
)


def activations(n: int = 60, channels: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels))
    values = np.einsum("dc,nchw->ndhw", mixing, rng.normal(size=(n, channels, 3, 4)))
    return (values + 100 * rng.normal(size=(1, channels, 1, 1))).astype(np.float32)


def rows(values: np.ndarray, axis: int = 1) -> np.ndarray:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)


def moments(values: np.ndarray, **options: object) -> ChannelMoments:
    result = ChannelMoments(values.shape[1], **options)  # type: ignore[arg-type]
    result.update(values)
    return result


def joint(x: np.ndarray, y: np.ndarray) -> JointMoments:
    result = JointMoments(x.shape[1], covariance=True)
    result.update(x, y)
    return result


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_moments_are_those_of_numpy_for_any_batch_size(batch: int) -> None:
    x = activations()
    single = ChannelMoments(5, covariance=True)
    for start in range(0, len(x), batch):
        single.update(x[start : start + batch])
    np.testing.assert_allclose(single.mean, rows(x).mean(1), rtol=1e-12)
    np.testing.assert_allclose(single.variance, rows(x).var(1), rtol=1e-10)
    np.testing.assert_allclose(single.covariance, np.cov(rows(x), bias=True), rtol=1e-9, atol=1e-9)
    assert (single.samples, single.count) == (60, 60 * 12)


@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 4), 1), ((6, 7, 4), 2), ((6, 3, 3, 4), -1), ((6, 4, 2, 2), 1)]
)
def test_moments_along_any_channel_axis(shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    y = x**2
    pairs = JointMoments(4, axis=axis, covariance=True)
    pairs.update(x, y)
    flat_x, flat_y = rows(x, axis), rows(y, axis)
    full = np.cov(np.concatenate((flat_x, flat_y)), bias=True)
    np.testing.assert_allclose(pairs.x.covariance, full[:4, :4], atol=1e-12)
    np.testing.assert_allclose(pairs.y.covariance, full[4:, 4:], atol=1e-12)
    np.testing.assert_allclose(pairs.cross_covariance, full[4:, :4], atol=1e-12)
    diagonal = JointMoments(4, axis=axis)
    diagonal.update(x, y)
    np.testing.assert_allclose(diagonal.cross_variance, np.diagonal(full[4:, :4]), atol=1e-12)


def test_moments_leave_their_input_alone() -> None:
    x = activations().astype(np.float64)
    before = x.copy()
    moments(x)
    np.testing.assert_array_equal(x, before)


def test_moments_refuse_values_that_are_not_finite_and_wrong_shapes() -> None:
    x = activations()
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        moments(x)
    with pytest.raises(UsageError, match="5 channels"):
        ChannelMoments(5).update(np.zeros((2, 4)))
    with pytest.raises(UsageError, match="No values"):
        _ = ChannelMoments(5).variance


def test_affine_map_gives_the_output_its_mean_and_spread() -> None:
    x, y = activations(seed=0), activations(seed=1)
    scale, shift = affine_map(moments(x), moments(y))
    mapped = rows(x) * scale[:, None] + shift[:, None]
    np.testing.assert_allclose(mapped.mean(1), rows(y).mean(1), rtol=1e-9)
    np.testing.assert_allclose(mapped.std(1), rows(y).std(1), rtol=1e-9)


def test_affine_map_sends_a_constant_channel_to_the_mean_of_the_output() -> None:
    x, y = activations(seed=0), activations(seed=1)
    x[:, 2] = 7.0
    scale, shift = affine_map(moments(x), moments(y))
    assert scale[2] == 0
    assert shift[2] == pytest.approx(rows(y).mean(1)[2])
    assert np.isfinite(scale).all()


def test_affine_least_squares_is_polyfit_per_channel() -> None:
    x = activations()
    y = 0.7 * x + np.random.default_rng(2).normal(size=x.shape)
    scale, shift = affine_least_squares(joint(x, y))
    for c in range(5):
        slope, intercept = np.polyfit(rows(x)[c], rows(y)[c], 1)
        assert scale[c] == pytest.approx(slope, rel=1e-7)
        assert shift[c] == pytest.approx(intercept, rel=1e-5)


def test_linear_map_transports_one_gaussian_to_the_other() -> None:
    x, y = activations(seed=0), activations(seed=1)
    matrix, shift = linear_map(moments(x, covariance=True), moments(y, covariance=True), ridge=0)
    mapped = matrix @ rows(x) + shift[:, None]
    np.testing.assert_allclose(mapped.mean(1), rows(y).mean(1), rtol=1e-7)
    np.testing.assert_allclose(np.cov(mapped), np.cov(rows(y)), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_linear_map_agrees_with_pot() -> None:
    gaussian = pytest.importorskip("ot.gaussian")
    x, y = activations(seed=0).astype(np.float64), activations(seed=1).astype(np.float64)
    matrix, shift = linear_map(moments(x, covariance=True), moments(y, covariance=True), ridge=0)
    theirs, offset = gaussian.bures_wasserstein_mapping(
        rows(x).mean(1), rows(y).mean(1), np.cov(rows(x), bias=True), np.cov(rows(y), bias=True)
    )
    np.testing.assert_allclose(matrix, theirs, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(shift, np.ravel(offset), rtol=1e-5)


def test_linear_map_is_the_identity_between_equal_moments_even_without_full_rank() -> None:
    x = activations()
    x[:, 1] = x[:, 0]
    x[:, 3] = 2.0
    m = moments(x, covariance=True)
    matrix, shift = linear_map(m, m)
    np.testing.assert_allclose(matrix, np.eye(5), atol=1e-6)
    np.testing.assert_allclose(shift, 0, atol=1e-3)


def test_linear_least_squares_is_lstsq_without_ridge_and_the_prior_with_a_huge_one() -> None:
    x = activations()
    y = np.einsum("dc,nchw->ndhw", np.random.default_rng(3).normal(size=(5, 5)), x) + x**2 * 1e-3
    pairs = joint(x, y)
    matrix, shift = linear_least_squares(pairs, ridge=0)
    augmented = np.concatenate((rows(x), np.ones((1, rows(x).shape[1]))))
    solution = np.linalg.lstsq(augmented.T, rows(y).T, rcond=None)[0].T
    np.testing.assert_allclose(matrix, solution[:, :5], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(shift, solution[:, 5], rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(linear_least_squares(pairs, ridge=1e12)[0], np.eye(5), atol=1e-6)
    prior = np.diag([2.0, 2, 2, 2, 2])
    np.testing.assert_allclose(linear_least_squares(pairs, ridge=1e12, prior=prior)[0], prior, atol=1e-6)


def test_linear_least_squares_with_ridge_minimises_the_stated_objective() -> None:
    x = activations()
    y = activations(seed=4) + x
    pairs = joint(x, y)
    matrix, _ = linear_least_squares(pairs, ridge=3.0)
    cx = rows(x) - rows(x).mean(1, keepdims=True)
    cy = rows(y) - rows(y).mean(1, keepdims=True)
    strength = 3.0 * 5 / 60 * cx.var(1).mean()

    def objective(m: np.ndarray) -> float:
        return float(((cy - m @ cx) ** 2).sum(0).mean() + strength * ((m - np.eye(5)) ** 2).sum())

    rng = np.random.default_rng(0)
    best = objective(matrix)
    assert all(objective(matrix + 1e-3 * rng.normal(size=(5, 5))) > best for _ in range(20))


def test_maps_refuse_what_does_not_fit() -> None:
    x = moments(activations())
    with pytest.raises(UsageError, match="x has 5 and y has 4"):
        affine_map(x, moments(activations(channels=4)))
    with pytest.raises(UsageError, match="covariance=True"):
        linear_map(x, x)
    with pytest.raises(UsageError, match="ridge"):
        linear_map(x, x, ridge=-1)
    with pytest.raises(UsageError, match="before any values"):
        affine_map(ChannelMoments(5), x)
