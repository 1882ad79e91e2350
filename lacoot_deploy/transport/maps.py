"""Maps that stand in for a removed block: Gaussian optimal transport and least squares, per channel or across.

All take moments of the block's input x and output y and give float64 arrays. Affine maps are T(x) = scale * x + shift,
both [C]; linear maps are T(x) = matrix @ x + shift, with matrix [C, C].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport.moments import ChannelMoments, JointMoments

Float64 = NDArray[np.float64]

# Standard deviations below this share of the tensor's size are rounding noise of float32 activations.
CONSTANT = 1e-6


def affine_map(x: ChannelMoments, y: ChannelMoments) -> tuple[Float64, Float64]:
    """Scale and shift [C] of the optimal transport between Gaussian channels.

    T(x) = mean_y + (sigma_y / sigma_x) (x - mean_x). A channel that is constant in x is sent to mean_y (scale 0).

    Args:
        x: Moments of what comes in, per channel.
        y: Moments of what it is to become.

    Raises:
        UsageError: The numbers of channels differ, or a side is empty.
    """
    _check(x, y)
    varies = ~_constant(x)
    scale = np.sqrt(np.divide(y.variance, x.variance, out=np.zeros(x.channels), where=varies))
    return scale, y.mean - scale * x.mean


def affine_least_squares(joint: JointMoments, *, ridge: float = 0.0) -> tuple[Float64, Float64]:
    """Scale and shift [C] that minimise mean (y - T(x))^2 in each channel.

    Args:
        joint: Moments of the pairs.
        ridge: Pull of the scale towards 1, as a share of the channel's variance, divided by the number of samples.

    Raises:
        UsageError: No pairs were seen, or the ridge is negative.
    """
    _check_ridge(ridge)
    x, y = joint.x, joint.y
    _check(x, y)
    strength = ridge / joint.samples * x.variance
    varies = ~_constant(x)
    scale = np.divide(
        joint.cross_variance + strength, x.variance + strength, out=np.zeros(x.channels), where=varies
    )
    return scale, y.mean - scale * x.mean


def linear_map(x: ChannelMoments, y: ChannelMoments, *, ridge: float = 1e-3) -> tuple[Float64, Float64]:
    """Matrix [C, C] and shift [C] of the optimal transport between Gaussians across channels.

    matrix = Sx^-1/2 (Sx^1/2 Sy Sx^1/2)^1/2 Sx^-1/2, symmetric and positive semidefinite.

    Args:
        x: Moments of the input, with covariance.
        y: Moments of the output, with covariance.
        ridge: Added to both covariances' diagonals as a share of x's mean variance, so that directions in which x
            does not vary are kept as they are instead of being blown up. At least C / samples times this share.

    Raises:
        UsageError: The numbers of channels differ, a side is empty, covariances are missing, or the ridge is
            negative.
    """
    _check(x, y)
    _check_ridge(ridge)
    strength = _strength(x, ridge)
    diagonal = strength * np.eye(x.channels)
    root, inverse_root = _roots(x.covariance + diagonal)
    middle, _ = _roots(root @ (y.covariance + diagonal) @ root)
    matrix = inverse_root @ middle @ inverse_root
    matrix = (matrix + matrix.T) / 2
    return matrix, y.mean - matrix @ x.mean


def linear_least_squares(
    joint: JointMoments, *, ridge: float = 1.0, prior: Float64 | None = None
) -> tuple[Float64, Float64]:
    """Matrix [C, C] and shift [C] that minimise mean ||y - T(x)||^2 plus a pull towards a prior map.

    matrix = argmin E||y - matrix x||^2 (centred) + strength ||matrix - prior||^2, where
    strength = ridge * (C / samples) * mean variance of x: many channels on few samples stay near the prior.

    Args:
        joint: Moments of the pairs, with covariance.
        ridge: Strength of the pull, without unit.
        prior: [C, C]; default the identity, which is what removal without repair does.

    Raises:
        UsageError: No pairs were seen, covariances are missing, the ridge is negative, or the prior does not fit.
    """
    _check_ridge(ridge)
    x, y = joint.x, joint.y
    _check(x, y)
    channels = x.channels
    prior = np.eye(channels) if prior is None else np.asarray(prior, dtype=np.float64)
    if prior.shape != (channels, channels):
        raise UsageError(f"The prior map must be [{channels}, {channels}], not {prior.shape}.")
    covariance = x.covariance
    regular = covariance + _strength(x, ridge) * np.eye(channels)
    residual = joint.cross_covariance - prior @ covariance
    # Symmetric pseudo-inverse: without ridge, directions in which x does not vary keep the prior.
    values, vectors = np.linalg.eigh(regular)
    kept = values > _cutoff(values)
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    matrix = prior + residual @ inverse
    return matrix, y.mean - matrix @ x.mean


def _check(x: ChannelMoments, y: ChannelMoments) -> None:
    if x.channels != y.channels:
        raise UsageError(
            f"A map needs as many channels in as out, but x has {x.channels} and y has {y.channels}."
        )
    if x.count == 0 or y.count == 0:
        raise UsageError("A map cannot be fitted before any values were seen.")


def _check_ridge(ridge: float) -> None:
    if not (ridge >= 0 and np.isfinite(ridge)):
        raise UsageError(f"The ridge must be a finite number of at least 0, not {ridge}.")


def _constant(x: ChannelMoments) -> NDArray[np.bool_]:
    size = x.mean**2 + x.variance.mean()
    return np.asarray(x.variance <= CONSTANT**2 * size)


def _strength(x: ChannelMoments, ridge: float) -> float:
    return float(ridge * x.channels / x.samples * x.variance.mean())


def _roots(symmetric: Float64) -> tuple[Float64, Float64]:
    """Square root and pseudo-inverse square root of a symmetric positive semidefinite matrix."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    kept = values > _cutoff(values)
    root = np.sqrt(np.where(kept, values, 0))
    inverse = np.divide(1, root, out=np.zeros_like(root), where=kept)
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T


def _cutoff(values: Float64) -> float:
    return float(values.max(initial=0) * len(values) * np.finfo(np.float64).eps)
