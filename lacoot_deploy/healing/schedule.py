"""The learning rate over time, a rate for every tensor, and a running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

RISE = 0.3
"""Share of the course in which the rate rises."""

START, END = 1 / 25, 1 / 1e4
"""The rate at the beginning and at the end, as shares of the peak."""

UNEVEN = 100.0
"""Weights whose root mean squares lie further apart than this get rates in proportion to them."""

SHARE = 0.003
"""That proportion, at the usual peak rate."""

USUAL = 3e-3

FLOOR = 1e-2
"""No tensor's rate is under this share of the median one: shifts begin at zero and have to grow."""


def one_cycle(done: float) -> float:
    """The learning rate as a share of its peak: up and down along cosines.

    Args:
        done: How much of the course is over, 0..1.
    """
    if done < RISE:
        return START + (1 - START) * 0.5 * (1 - math.cos(math.pi * done / RISE))
    return END + (1 - END) * 0.5 * (1 + math.cos(math.pi * min((done - RISE) / (1 - RISE), 1.0)))


def rates(weights: Mapping[str, nn.Parameter], peak: float) -> dict[str, float]:
    """The peak rate of every tensor.

    One rate for all, unless their sizes are uneven, as where a batch norm was folded into depthwise convolutions: then
    each moves by the same share of its own root mean square.

    Args:
        weights: The tensors by name.
        peak: The rate for even ones.
    """
    sizes = {name: float(w.detach().square().mean().sqrt()) for name, w in weights.items()}
    kernels = [sizes[name] for name, w in weights.items() if w.ndim > 1 and sizes[name] > 0]
    if not kernels or max(kernels) <= UNEVEN * min(kernels):
        return dict.fromkeys(weights, peak)
    share = SHARE * peak / USUAL
    least = FLOOR * sorted(kernels)[len(kernels) // 2]
    return {name: share * max(size, least) for name, size in sizes.items()}


class Average:
    """A running average of weights: a good state at any time, also in the middle of the course.

    Attributes:
        values: The average, in the order of the weights.
    """

    def __init__(self, weights: Iterable[nn.Parameter], *, span: float) -> None:
        """Begin with the weights as they are.

        Args:
            weights: The weights.
            span: Over how many steps it reaches.
        """
        self._weights = list(weights)
        self.values = [w.detach().clone() for w in self._weights]
        self._span, self._steps = max(span, 1.0), 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        share = max(1.0 / self._span, 1.0 / (self._steps + 1))
        torch._foreach_lerp_(self.values, [w.detach() for w in self._weights], share)


class Clip:
    """Holds gradients of single steps back: none is longer than a few times what is usual."""

    def __init__(self, times: float = 3.0) -> None:
        """Begin without a notion of what is usual."""
        self._times, self._usual = times, 0.0

    def __call__(self, weights: Iterable[nn.Parameter]) -> float:
        """Shorten the gradients where they are too long; how long they were."""
        found = [w.grad for w in weights if w.grad is not None]
        length = float(torch.stack(torch._foreach_norm(found)).norm())
        if not math.isfinite(length):
            return length
        most = self._times * self._usual
        if self._usual and length > most:
            torch._foreach_mul_(found, most / length)
        seen = min(length, most) if self._usual else length
        self._usual = 0.9 * self._usual + 0.1 * seen if self._usual else seen
        return length


def snapshot(weights: Iterable[Tensor]) -> list[Tensor]:
    """Copies of weights on the host."""
    return [w.detach().to("cpu", copy=True) for w in weights]
