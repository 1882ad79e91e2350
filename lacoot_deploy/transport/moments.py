"""Means, variances and covariances of channels, accumulated in float64 batch by batch in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError, UsageError

Array = NDArray[Any]
Float64 = NDArray[np.float64]

CHUNK_VALUES = 1 << 21


class JointMoments:
    """Moments of pairs (x, y): what maps from a block's input to its output are fitted on.

    Batches are merged by their centred moments (Chan, Golub and LeVeque 1983), so neither the batch size nor a
    large mean changes the result beyond rounding in float64.

    Attributes:
        channels: C; x and y have equally many.
        samples: Samples seen (entries of the first axis).
        count: Values seen per channel (samples times positions).
        mean_x: [C].
        mean_y: [C].
    """

    def __init__(self, channels: int, *, axis: int = 1, covariance: bool = False) -> None:
        """Start empty.

        Args:
            channels: C.
            axis: The channel axis of the tensors to come, counted from 0 (negative: from the end).
            covariance: Whether to keep covariances across channels, [C, C] each, beside the per-channel moments.
        """
        if channels < 1:
            raise UsageError(f"Moments need at least one channel, not {channels}.")
        self.channels, self.axis, self.has_covariance = channels, axis, covariance
        self.samples, self.count = 0, 0
        self.mean_x, self.mean_y = np.zeros(channels), np.zeros(channels)
        shape = (channels, channels) if covariance else (channels,)
        self._xx, self._yy, self._yx = np.zeros(shape), np.zeros(shape), np.zeros(shape)

    def update(self, x: Array, y: Array) -> None:
        """Add a batch of pairs: arrays [N, ...] of one shape with C entries along the channel axis.

        Raises:
            UsageError: The shapes differ or do not fit the channels.
            InputError: A value is not finite.
        """
        if x.shape != y.shape:
            raise UsageError(f"Moments of pairs need equal shapes, but x is {x.shape} and y is {y.shape}.")
        for part_x, part_y in zip(
            _channel_rows(x, self.axis, self.channels),
            _channel_rows(y, self.axis, self.channels),
            strict=True,
        ):
            self._merge(part_x, part_y)
        self.samples += x.shape[0]

    def _merge(self, x: Float64, y: Float64) -> None:
        count = x.shape[1]
        mean_x, mean_y = x.mean(1), y.mean(1)
        x -= mean_x[:, None]
        y -= mean_y[:, None]
        dx, dy = mean_x - self.mean_x, mean_y - self.mean_y
        total = self.count + count
        weight = self.count * count / total
        for held, left, right, d_left, d_right in (
            (self._xx, x, x, dx, dx),
            (self._yy, y, y, dy, dy),
            (self._yx, y, x, dy, dx),
        ):
            if self.has_covariance:
                held += left @ right.T + weight * np.outer(d_left, d_right)
            else:
                held += np.einsum("cn,cn->c", left, right) + weight * d_left * d_right
        self.mean_x += dx * (count / total)
        self.mean_y += dy * (count / total)
        self.count = total

    @property
    def x(self) -> ChannelMoments:
        """The moments of x alone."""
        return self._single(self.mean_x, self._xx)

    @property
    def y(self) -> ChannelMoments:
        """The moments of y alone."""
        return self._single(self.mean_y, self._yy)

    @property
    def cross_variance(self) -> Float64:
        """Covariance of y and x in each channel, [C]."""
        return _diagonal(_divided(self._yx, self.count), self.has_covariance)

    @property
    def cross_covariance(self) -> Float64:
        """Covariance E[(y - mean_y)(x - mean_x)^T], [C, C].

        Raises:
            UsageError: Covariances were not asked for.
        """
        _need_covariance(self.has_covariance)
        return _divided(self._yx, self.count)

    def _single(self, mean: Float64, second: Float64) -> ChannelMoments:
        single = ChannelMoments(self.channels, axis=self.axis, covariance=self.has_covariance)
        single.samples, single.count = self.samples, self.count
        single.mean, single._second = mean.copy(), second.copy()
        return single


class ChannelMoments:
    """Moments of one tensor's channels.

    Attributes:
        channels: C.
        samples: Samples seen (entries of the first axis).
        count: Values seen per channel (samples times positions).
        mean: [C].
    """

    def __init__(self, channels: int, *, axis: int = 1, covariance: bool = False) -> None:
        """Start empty; arguments as for `JointMoments`."""
        if channels < 1:
            raise UsageError(f"Moments need at least one channel, not {channels}.")
        self.channels, self.axis, self.has_covariance = channels, axis, covariance
        self.samples, self.count = 0, 0
        self.mean = np.zeros(channels)
        self._second = np.zeros((channels, channels) if covariance else (channels,))

    def update(self, values: Array) -> None:
        """Add a batch: an array [N, ...] with C entries along the channel axis.

        Raises:
            UsageError: The shape does not fit the channels.
            InputError: A value is not finite.
        """
        for part in _channel_rows(values, self.axis, self.channels):
            count = part.shape[1]
            mean = part.mean(1)
            part -= mean[:, None]
            delta = mean - self.mean
            total = self.count + count
            weight = self.count * count / total
            if self.has_covariance:
                self._second += part @ part.T + weight * np.outer(delta, delta)
            else:
                self._second += np.einsum("cn,cn->c", part, part) + weight * delta * delta
            self.mean += delta * (count / total)
            self.count = total
        self.samples += values.shape[0]

    @property
    def variance(self) -> Float64:
        """Variance of each channel (divided by the count), [C]."""
        return _diagonal(_divided(self._second, self.count), self.has_covariance)

    @property
    def covariance(self) -> Float64:
        """Covariance across channels, [C, C].

        Raises:
            UsageError: Covariances were not asked for.
        """
        _need_covariance(self.has_covariance)
        return _divided(self._second, self.count)


def _channel_rows(values: Array, axis: int, channels: int) -> Iterator[Float64]:
    """Parts of the batch as fresh float64 matrices [C, positions], each of bounded size."""
    if values.ndim < 1 or not -values.ndim <= axis < values.ndim or values.shape[axis] != channels:
        raise UsageError(
            f"Moments of {channels} channels along axis {axis} got an array of shape {values.shape}."
        )
    if values.size == 0:
        return
    axis %= values.ndim
    step = max(1, CHUNK_VALUES // (values.size // values.shape[0])) if axis else values.shape[0]
    for start in range(0, values.shape[0], step):
        part = np.moveaxis(values[start : start + step], axis, 0)
        rows = np.array(part, dtype=np.float64, order="C").reshape(channels, -1)
        if not np.isfinite(rows).all():
            raise InputError(
                "The activations hold values that are not finite, so no map can be fitted on them; check the model "
                "and the calibration data."
            )
        yield rows


def _divided(second: Float64, count: int) -> Float64:
    if count == 0:
        raise UsageError("No values were seen yet, so there are no moments.")
    return second / count


def _diagonal(second: Float64, has_covariance: bool) -> Float64:
    return np.diagonal(second).copy() if has_covariance else second


def _need_covariance(has_covariance: bool) -> None:
    if not has_covariance:
        raise UsageError("Covariances across channels were not kept; ask for them with covariance=True.")
