"""Makes activations linear: the identity, or a map per channel that was fitted to them, in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.linear.activations import Activation
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Repair


@dataclass(frozen=True)
class Linearisation:
    """One activation that becomes linear: y = slope * x + intercept per channel.

    Attributes:
        activation: The activation.
        slope: float32 [C]; None for the identity.
        intercept: float32 [C]; None for the identity.
    """

    activation: Activation
    slope: NDArray[np.float32] | None = None
    intercept: NDArray[np.float32] | None = None

    @property
    def fit(self) -> str:
        """`identity` or `affine`."""
        return "identity" if self.slope is None else "affine"


def linearise(
    model: onnx.ModelProto, items: Sequence[Linearisation], *, folder: Path | None = None
) -> onnx.ModelProto:
    """Put linear maps in the place of activations and give the new model; the one given is not touched.

    What is left of the model is carried over as `surgery.collapse_blocks` does it; nothing is merged yet.

    Args:
        model: The model.
        items: The activations and their maps.
        folder: Where the model's external data lies.

    Raises:
        InputError: An activation is not in the model, or a map does not fit it.
        UsageError: An activation is named twice.
    """
    names = [item.activation.name for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"The activation {twice} is named twice.")
    return collapse_blocks(model, [_cut(item) for item in items], folder=folder)


def _cut(item: Linearisation) -> Cut:
    """An activation is a block without units that goes by bypass, its map the repair."""
    activation = item.activation
    block = Block(
        name=activation.name,
        input=activation.input,
        output=activation.output,
        units=(),
        forms=(Form.BYPASS,),
        shape=activation.shape,
        output_shape=activation.shape,
        dtype=activation.dtype,
        nodes=activation.nodes,
        parameters=0,
        macs=None,
    )
    if item.slope is None or item.intercept is None:
        return Cut(block, Form.BYPASS)
    if activation.axis is None:
        raise InputError(
            f"Which axis of {activation.name} counts channels is not known, so no map per channel fits it; make it "
            f"the identity."
        )
    repair = Repair(axis=activation.axis, scale=item.slope, shift=item.intercept)
    return Cut(block, Form.BYPASS, repair, clip=False)
