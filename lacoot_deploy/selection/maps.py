"""Fits the transport map that stands in for a removed block; a new kind of repair is a few lines here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.surgery.cuts import Repair
from lacoot_deploy.transport import (
    JointMoments,
    affine_least_squares,
    affine_map,
    linear_least_squares,
    linear_map,
)

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


FITS: dict[str, tuple[str, Callable[[JointMoments], Pair]]] = {
    "affine": ("affine", lambda joint: affine_map(joint.x, joint.y)),
    "affine-ls": ("affine", lambda joint: affine_least_squares(joint, ridge=1.0)),
    "linear": ("linear", linear_least_squares),
    "linear-ot": ("linear", lambda joint: linear_map(joint.x, joint.y)),
}
"""Kind of map and how it is fitted, by the name of the repair."""

PER_CHANNEL = {"linear": "affine-ls", "linear-ot": "affine"}
"""What stands for a map across channels where only one per channel fits."""


def fit_repair(
    kind: str, inputs: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], axis: int
) -> Repair | None:
    """Fit the map from what the shortened network has to what the dense one had.

    Args:
        kind: A name in `FITS`.
        inputs: Batches [N, ...] of the shortened network.
        targets: Batches of the dense network at the place that the map's output takes.
        axis: Channel axis.

    Returns:
        The map; None where the shapes of input and target differ in more than the values.

    Raises:
        UsageError: There is no such kind.
    """
    if kind not in FITS:
        raise UsageError(f"There is no repair {kind!r}; choose one of none, {', '.join(FITS)}.")
    if inputs[0].shape[1:] != targets[0].shape[1:]:
        return None
    form, fit = FITS[kind]
    joint = JointMoments(inputs[0].shape[axis], axis=axis, covariance=form == "linear")
    for x, y in zip(inputs, targets, strict=True):
        joint.update(x, y)
    first, shift = fit(joint)
    small = shift.astype(np.float32)
    if form == "affine":
        return Repair(axis=axis, shift=small, scale=first.astype(np.float32))
    return Repair(axis=axis, shift=small, matrix=first.astype(np.float32))
