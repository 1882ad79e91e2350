"""Splits that every command agrees on, so that what judges a model is never what made it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
VAL_FRACTION = 0.1
SPLIT_SEED = 20240613


def holdout(labels: NDArray[np.int64], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (kept, held out) of a stratified split, always the same for the same labels.

    Args:
        labels: int64 [N].
        fraction: Share of every class to hold out, in 0..1; a class with two samples or more gives at least one.

    Returns:
        Two sorted int64 index arrays that together are 0..N-1.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * fraction)
        if fraction > 0 and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held.append(generator.permutation(members)[:count])
    out = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    mask = np.ones(len(labels), bool)
    mask[out] = False
    return np.flatnonzero(mask), out
