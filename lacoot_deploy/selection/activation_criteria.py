"""Criteria for activations: how near each is to a linear one; the lowest score goes first.

`entropy`, `gaussian` and `slope` are those of EASIER (2404.18949), TLC (2412.15077) and LayerCollapse (2311.17943),
taken from calibration data so that any ONNX file has them; `output` tries each activation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.graph.linear.activations import Activation
from lacoot_deploy.graph.linear.parameters import ActivationParameters
from lacoot_deploy.runtime.activation_statistics import ActivationMoments

Float64 = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def entropy(moments: ActivationMoments) -> float:
    """Mean over channels of the binary entropy of the sign, in bits, 0..1.

    Counts are those of all data and positions: the mean of the entropies of batches would be lower, since every batch
    by itself looks more decided than all of them together. Zeros count for neither side.
    """
    decided = moments.on + moments.off
    share = moments.on / np.maximum(decided, 1)
    inner = (share > 0) & (share < 1)
    p = np.where(inner, share, 0.5)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return float(np.where(inner, bits, 0.0).mean())


def piece_shares(
    mean: Float64, deviation: Float64, low: float | None, high: float | None
) -> tuple[Float64, Float64, Float64]:
    """Shares of a normal distribution below, between and above where an activation is cut, per channel.

    Args:
        mean: [C].
        deviation: [C]; a channel without any lies wholly on one side.
        low: Lower cut; None takes 0, where everything that is no clip has its bend.
        high: Upper cut; None for none.
    """

    def below(cut: float) -> Float64:
        spread = np.where(deviation > 0, deviation, 1.0)
        smooth = 0.5 * (1 + _erf((cut - mean) / (spread * math.sqrt(2))))
        return np.asarray(np.where(deviation > 0, smooth, (mean < cut).astype(np.float64)))

    off = below(0.0 if low is None else low)
    top = np.zeros_like(off) if high is None else 1 - below(high)
    return off, np.clip(1 - off - top, 0.0, 1.0), top


def normal_of(
    activation: Activation, moments: ActivationMoments, parameters: ActivationParameters
) -> tuple[Float64, Float64]:
    """Mean and deviation per channel of what goes in: of the batch normalisation right before, else as measured."""
    return parameters.normal(activation) or (moments.mean, np.sqrt(moments.variance))


def gaussian(activation: Activation, mean: Float64, deviation: Float64) -> float:
    """Mean over channels of the share that is not on the channel's likeliest linear piece."""
    shares = np.stack(piece_shares(mean, deviation, activation.low, activation.high))
    return float((1 - shares.max(axis=0)).mean())


def slope(activation: Activation, moments: ActivationMoments, parameters: ActivationParameters) -> float:
    """Largest distance of an own slope from 1; for an activation without, what the best affine fit leaves."""
    own = parameters.slope(activation)
    return moments.residual() if own is None else float(np.abs(own - 1).max())


def pieces(
    activation: Activation, mean: Float64, deviation: Float64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slope and intercept that put every channel on its likeliest linear piece (TLC's collapse).

    A channel that is mostly off becomes the constant where the activation is cut, 0 for most, its bias included;
    one that is mostly on the identity; one that is mostly clipped from above that bound.
    """
    off, inside, top = piece_shares(mean, deviation, activation.low, activation.high)
    likeliest = np.argmax(np.stack([inside, off, top]), axis=0)
    scale = (likeliest == 0).astype(np.float32)
    bounds = np.array([0.0, activation.low or 0.0, activation.high or 0.0], np.float32)
    return scale, bounds[likeliest]
