"""The few array operations that costs are written in, once for NumPy and once for PyTorch.

A cost is one formula. Written in these operations it gives float64 for the search and a differentiable tensor for
training and healing, and both are the same number.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Operations(Protocol):
    """What a formula may do with arrays of either kind; axes are counted as in NumPy."""

    def floating(self, values: Any) -> Any:
        """The values as floating-point numbers: float64 in NumPy; in PyTorch their own type, at least float32."""

    def log_softmax(self, values: Any, axis: int) -> Any:
        """Logarithms of the softmax along an axis."""

    def log(self, values: Any) -> Any:
        """Natural logarithms."""

    def exp(self, values: Any) -> Any:
        """Powers of e."""

    def sqrt(self, values: Any) -> Any:
        """Square roots."""

    def softplus(self, values: Any) -> Any:
        """Logarithms of 1 + exp(values), without overflow."""

    def clip(self, values: Any, low: float | None, high: float | None) -> Any:
        """The values, none below `low` or above `high`."""

    def where(self, condition: Any, values: Any, other: float) -> Any:
        """The values where the condition holds, a number elsewhere."""

    def pick(self, values: Any, indices: Any, axis: int) -> Any:
        """The entry at one index along an axis, for each place of the other axes; that axis goes."""

    def like(self, values: Any, reference: Any) -> Any:
        """An array or tensor of indices, labels or weights as this kind of array, where the reference is."""

    def finite(self, values: Any) -> Any:
        """Which values are neither NaN nor infinite."""

    def move(self, values: Any, source: int, target: int) -> Any:
        """The values with one axis at another place."""

    def join(self, parts: Sequence[Any], axis: int) -> Any:
        """The parts one behind the other along an axis."""

    def largest(self, values: Any, axis: int) -> Any:
        """The largest entry along an axis."""

    def smaller(self, values: Any, others: Any) -> Any:
        """The smaller one of each two entries."""


class _Numpy:
    def floating(self, values: Any) -> Any:
        return np.asarray(values).astype(np.float64)

    def log_softmax(self, values: Any, axis: int) -> Any:
        with np.errstate(invalid="ignore"):
            values = values - values.max(axis=axis, keepdims=True)
            return values - np.log(np.exp(values).sum(axis=axis, keepdims=True))

    log, exp, sqrt = staticmethod(np.log), staticmethod(np.exp), staticmethod(np.sqrt)

    def softplus(self, values: Any) -> Any:
        return np.logaddexp(0.0, values)

    def clip(self, values: Any, low: float | None, high: float | None) -> Any:
        return np.clip(values, low, high)

    def where(self, condition: Any, values: Any, other: float) -> Any:
        return np.where(condition, values, other)

    def pick(self, values: Any, indices: Any, axis: int) -> Any:
        if values.ndim == 2 and axis == 1:
            return values[np.arange(len(values)), indices]
        return np.take_along_axis(values, np.expand_dims(indices, axis), axis).squeeze(axis)

    def like(self, values: Any, reference: Any) -> Any:
        return np.asarray(values)

    def finite(self, values: Any) -> Any:
        return np.isfinite(values)

    def move(self, values: Any, source: int, target: int) -> Any:
        return np.moveaxis(values, source, target)

    def join(self, parts: Sequence[Any], axis: int) -> Any:
        return np.concatenate(parts, axis=axis)

    def largest(self, values: Any, axis: int) -> Any:
        return values.max(axis=axis)

    def smaller(self, values: Any, others: Any) -> Any:
        return np.minimum(values, others)


class _Torch:
    def __init__(self) -> None:
        import torch

        self.torch = torch

    def floating(self, values: Any) -> Any:
        wide = values.dtype in (self.torch.float32, self.torch.float64)
        return values if wide else values.to(self.torch.float32)

    def log_softmax(self, values: Any, axis: int) -> Any:
        return self.torch.log_softmax(values, axis)

    def log(self, values: Any) -> Any:
        return self.torch.log(values)

    def exp(self, values: Any) -> Any:
        return self.torch.exp(values)

    def sqrt(self, values: Any) -> Any:
        # The gradient of a root at zero is infinite, and equal values are what training is for.
        return self.torch.sqrt(values + (values <= 0).to(values.dtype) * 1e-30)

    def softplus(self, values: Any) -> Any:
        return self.torch.logaddexp(values, self.torch.zeros_like(values))

    def clip(self, values: Any, low: float | None, high: float | None) -> Any:
        return values.clamp(low, high)

    def where(self, condition: Any, values: Any, other: float) -> Any:
        return self.torch.where(condition, values, self.torch.full_like(values, other))

    def pick(self, values: Any, indices: Any, axis: int) -> Any:
        return values.gather(axis, indices.unsqueeze(axis)).squeeze(axis)

    def like(self, values: Any, reference: Any) -> Any:
        return self.torch.as_tensor(values, device=reference.device)

    def finite(self, values: Any) -> Any:
        return self.torch.isfinite(values)

    def move(self, values: Any, source: int, target: int) -> Any:
        return values.movedim(source, target)

    def join(self, parts: Sequence[Any], axis: int) -> Any:
        return self.torch.cat(list(parts), axis)

    def largest(self, values: Any, axis: int) -> Any:
        return values.amax(axis)

    def smaller(self, values: Any, others: Any) -> Any:
        return values.minimum(others)


NUMPY: Operations = _Numpy()


@functools.lru_cache(maxsize=1)
def torch_operations() -> Operations:
    """The operations on PyTorch tensors; importing PyTorch only now."""
    return _Torch()


def rows(values: Any) -> Any:
    """One row per sample: [n, everything else]."""
    return values.reshape(len(values), -1)
