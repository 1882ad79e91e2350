"""Variants of a network: which blocks went, how, and what the network computes on the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.cuts import Repair
from lacoot_deploy.runtime.sessions import Session

Values = dict[str, NDArray[Any]]

EXACT = "exact"
"""The kind of repair of a block that goes without loss: what its branch adds is a known constant."""


@dataclass(frozen=True)
class Removal:
    """A removed block: its form, the kind of repair it asks for, and the map that was fitted for it."""

    form: Form
    repair_kind: str
    repair: Repair | None = None


@dataclass(frozen=True)
class Kept:
    """A block that stays with a map folded into its branch."""

    repair: Repair
    session: Session = field(repr=False)


@dataclass(frozen=True)
class Variant:
    """A network with some blocks removed, and its values on the samples.

    Attributes:
        removed: Removal by block name.
        values: Per batch, the values at the borders of the segments.
        kept: Refitted blocks by name.
    """

    removed: Mapping[str, Removal]
    values: tuple[Values, ...] = field(repr=False)
    kept: Mapping[str, Kept] = field(default_factory=dict)


def apply_repair(repair: Repair, value: NDArray[Any]) -> NDArray[Any]:
    """T(x) on an array, in its own dtype.

    Raises:
        InputError: The repair holds neither matrix nor scale.
    """
    if repair.matrix is not None and repair.axis == 1 and value.ndim > 2:
        rows = repair.matrix.astype(value.dtype) @ value.reshape(*value.shape[:2], -1)
        rows += repair.shift.astype(value.dtype)[:, None]
        return np.asarray(rows.reshape(value.shape))
    moved = np.moveaxis(value, repair.axis, -1)
    if repair.matrix is not None:
        out = moved @ repair.matrix.T.astype(value.dtype) + repair.shift.astype(value.dtype)
    else:
        if repair.scale is None:
            raise InputError("An affine repair needs a scale.")
        out = moved * repair.scale.astype(value.dtype) + repair.shift.astype(value.dtype)
    return np.ascontiguousarray(np.moveaxis(out, -1, repair.axis))
