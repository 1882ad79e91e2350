"""What surgery is asked to do: a block, the form in which it goes, and the map put in its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.graph.model.blocks import Block, Form


@dataclass(frozen=True)
class Repair:
    """A transport map over channels: T(x) = scale * x + shift, or matrix @ x + shift.

    Attributes:
        axis: Channel axis of the value, counted from 0.
        shift: float32 [C].
        scale: float32 [C]; None for a linear map.
        matrix: float32 [C, C], output channel first; None for an affine map.
    """

    axis: int
    shift: NDArray[np.float32]
    scale: NDArray[np.float32] | None = None
    matrix: NDArray[np.float32] | None = None

    @property
    def kind(self) -> str:
        """`affine` or `linear`."""
        return "affine" if self.matrix is None else "linear"


@dataclass(frozen=True)
class Cut:
    """One block to delete.

    With form `bypass` the repair is applied to the block's input (before a kept `Relu`); with form `shortcut` to the
    skip operand s, before the trailing op.

    Attributes:
        block: The block.
        form: How it goes.
        repair: The map put in its place.
        clip: Whether what the map gives is clipped as the block's output was.
    """

    block: Block
    form: Form
    repair: Repair | None = None
    clip: bool = True


@dataclass(frozen=True)
class Refit:
    """A block that stays, and the map over channels folded into the last linear operator of its branch."""

    block: Block
    repair: Repair
