"""Fits the transport map that stands in for a removed block; a new kind of repair is a few lines here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.cuts import Repair

if TYPE_CHECKING:
    from lacoot_deploy.transport import JointMoments

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


# The transport room brings torch, which a collapse without data does not need: it is imported when a map is fitted.


def _affine(joint: JointMoments) -> Pair:
    from lacoot_deploy.transport import affine_map

    return affine_map(joint.x, joint.y)


def _affine_ls(joint: JointMoments) -> Pair:
    from lacoot_deploy.transport import affine_least_squares

    return affine_least_squares(joint, ridge=1.0)


def _linear(joint: JointMoments) -> Pair:
    from lacoot_deploy.transport import linear_least_squares

    return linear_least_squares(joint)


def _linear_ot(joint: JointMoments) -> Pair:
    from lacoot_deploy.transport import linear_map

    return linear_map(joint.x, joint.y)


FITS: dict[str, tuple[str, Callable[[JointMoments], Pair]]] = {
    "affine": ("affine", _affine),
    "affine-ls": ("affine", _affine_ls),
    "linear": ("linear", _linear),
    "linear-ot": ("linear", _linear_ot),
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
    from lacoot_deploy.transport import JointMoments

    form, fit = FITS[kind]
    joint = JointMoments(inputs[0].shape[axis], axis=axis, covariance=form == "linear")
    for x, y in zip(inputs, targets, strict=True):
        joint.update(x, y)
    first, shift = fit(joint)
    small = shift.astype(np.float32)
    if form == "affine":
        return Repair(axis=axis, shift=small, scale=first.astype(np.float32))
    return Repair(axis=axis, shift=small, matrix=first.astype(np.float32))
