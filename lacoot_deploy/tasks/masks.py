"""Which positions of a sequence are real: found among the inputs, applied to means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.tasks.arrays import Operations


def find_mask(inputs: Mapping[str, NDArray[Any]], positions: int) -> str | None:
    """The input that says which positions count: one of 0 and 1 with `mask` in its name, at least as long.

    Args:
        inputs: By name.
        positions: Positions of the output.
    """
    for name, values in inputs.items():
        fits = values.ndim == 2 and values.shape[1] >= positions
        if "mask" in name.lower() and fits and np.isin(values, (0, 1)).all():
            return name
    return None


def mask_of(inputs: Mapping[str, NDArray[Any]], name: str | None) -> NDArray[np.int64] | None:
    """That input's values as whole numbers; None where there is none."""
    return None if name is None or name not in inputs else inputs[name].astype(np.int64)


def masked_mean(ops: Operations, values: Any, counts: Any) -> Any:
    """The mean of [n, ...] over what counts of each sample, [n]; 0 where nothing does.

    Args:
        ops: Operations of the values' kind.
        values: Numbers [n, ...].
        counts: Of the same shape, true where a value counts; None where all do.
    """
    flat = values.reshape(len(values), -1)
    if counts is None:
        return flat.mean(1)
    counts = counts.reshape(len(values), -1)
    return ops.where(counts, flat, 0.0).sum(1) / ops.clip(ops.floating(counts).sum(1), 1.0, None)
