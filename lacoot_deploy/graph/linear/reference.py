"""Convolutions in plain double precision: what an inexact merge changes is measured with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.graph.linear.algebra import Geometry

Floats = NDArray[Any]
Layer = tuple[Floats, Floats | None, Geometry]

MEASURED_SIZE = 64
"""Positions along an axis of the random input that a merge is measured on, at most."""

MEASURED_ENTRIES = 1 << 16
"""Entries of all random inputs together, about: a small input is drawn several times."""

MOST_SAMPLES = 32

DEFAULT_SIZE = 16
"""Positions along an axis whose size is not known."""


def convolve(x: NDArray[np.float64], weight: Floats, bias: Floats | None, geometry: Geometry) -> Floats:
    """The convolution of one sample [C, ...] with weights [O, C / groups, ...], in double precision."""
    axes = tuple(range(1, x.ndim))
    padded = np.pad(x, [(0, 0), *zip(geometry.begin, geometry.end, strict=True)])
    spans = tuple(geometry.reach(axis) + 1 for axis in range(len(axes)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    picked = windows[
        (
            slice(None),
            *(slice(None, None, step) for step in geometry.strides),
            *(slice(None, None, step) for step in geometry.dilations),
        )
    ]
    groups, outputs = geometry.groups, weight.shape[0]
    positions = picked.shape[1 : 1 + len(axes)]
    taps = np.moveaxis(picked, range(1, 1 + len(axes)), range(-len(axes), 0))
    columns = taps.reshape(groups, -1, int(np.prod(positions)))
    rows = weight.astype(np.float64).reshape(groups, outputs // groups, -1)
    result = (rows @ columns).reshape(outputs, *positions)
    if bias is not None:
        result = result + bias.astype(np.float64).reshape(-1, *([1] * len(axes)))
    return result


def relative_change(
    before: Sequence[Layer],
    after: Sequence[Layer],
    *,
    channels: int,
    sizes: Sequence[int | None],
    seed: int = 0,
) -> float:
    """The largest difference of two chains of convolutions on random inputs, over the largest entry of the first.

    Args:
        before: Weights, bias and geometry of each layer of the one chain.
        after: Likewise of the other.
        channels: Channels of the input.
        sizes: Spatial sizes of the input; larger ones are cut to `MEASURED_SIZE`, unknown ones are `DEFAULT_SIZE`.
        seed: Seed of the input.
    """
    least = [sum(layer[2].reach(axis) for layer in before) + 1 for axis in range(len(sizes))]
    shape = [
        max(DEFAULT_SIZE, low) if size is None else min(size, max(MEASURED_SIZE, low))
        for size, low in zip(sizes, least, strict=True)
    ]
    random = np.random.default_rng(seed)
    entries = channels * int(np.prod(shape))
    size = change = 0.0
    # A small input has few entries at its border, and any of them may happen to change little.
    for _ in range(max(1, min(MOST_SAMPLES, MEASURED_ENTRIES // entries))):
        x = random.standard_normal((channels, *shape))
        results = []
        for chain in (before, after):
            value = x
            for layer in chain:
                value = convolve(value, *layer)
            results.append(value)
        size = max(size, float(np.abs(results[0]).max()))
        change = max(change, float(np.abs(results[0] - results[1]).max()))
    return change / size if size else change
