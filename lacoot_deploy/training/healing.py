"""From cuts in the ONNX graph to the same network in PyTorch, ready to be fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from lacoot_deploy.errors import UsageError, VerificationError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.training.checkpoint import Checkpoint
from lacoot_deploy.training.cuts import CutSetting
from lacoot_deploy.training.export import check_against
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.refits import refitted_weights

HEALING: dict[str, Any] = {
    "epochs": 3,
    "schedule": "cosine",
    "milestones": (),
    "warmup": 0.0,
    "penalty": 0.0,
    "penalty_blocks": (),
    "distill": 0.5,
}
"""What a short fine-tuning sets differently from the training before it."""

RATE = 0.5
"""Its peak learning rate, as a share of that training's. On a ResNet-20 with seven of nine blocks gone half gave 78.5 %
after three epochs, a tenth 75.3 %."""

EQUAL = 1e-5
"""Largest difference from the collapsed ONNX file before the first step, relative to the largest output."""


def healing_settings(
    recorded: Checkpoint, cuts: Sequence[CutSetting], refits: Sequence[Refit], teacher: str
) -> dict[str, Any]:
    """The settings of a healing run: those of the run before, shorter and with a teacher."""
    recipe = recorded.recipe
    refitted = [refit.block.name for refit in refits if refit.block.name not in recipe.refits]
    decided = {
        "lr": recipe.lr * RATE,
        "cuts": (*recipe.cuts, *cuts),
        "refits": (*recipe.refits, *refitted),
        "weights": None,
        "teacher": teacher,
    }
    return recipe.model_dump(mode="json") | HEALING | decided


def cut_settings(cuts: Sequence[Cut], model: onnx.ModelProto) -> list[CutSetting]:
    """What each cut leaves of its block, as the recipe of a PyTorch network says it.

    Args:
        cuts: What goes and how.
        model: The dense model that they were made for.

    Raises:
        UsageError: A block ends in something that has no counterpart here.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    settings = []
    for cut in cuts:
        block, repair = cut.block, cut.repair
        low, high = _clipping(cut, producers, constants)
        shape = block.shape if cut.form is Form.BYPASS else block.output_shape
        settings.append(
            CutSetting(
                block=block.name,
                form="bypass" if cut.form is Form.BYPASS else "shortcut",
                repair="none" if repair is None else "affine" if repair.matrix is None else "linear",
                axis=1 if repair is None else repair.axis,
                rank=len(shape or (0, 0)),
                channels=0 if repair is None else len(repair.shift),
                low=low,
                high=high,
            )
        )
    return settings


def healing_weights(
    recipe: Recipe,
    recorded: Checkpoint,
    cuts: Sequence[Cut],
    refits: Sequence[Refit],
    collapsed: onnx.ModelProto,
    example: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The state of the cut network: the dense network's weights, and the repairs as the plan has them.

    Args:
        recipe: The healing run's.
        recorded: The dense run.
        cuts: What goes and how.
        refits: Blocks that stay, and the maps folded into them.
        collapsed: The ONNX model that the network must equal.
        example: Real inputs.

    Raises:
        VerificationError: It does not equal it.
    """
    header = recorded.header
    sizes: dict[str, Any] = {"classes": len(header.classes), "channels": header.channels}
    model = build_model(recipe, **sizes).eval()
    own = model.state_dict()
    state = {name: value for name, value in recorded.weights.items() if name in own}
    dense = build_model(recorded.recipe, **sizes)
    for refit in refits:
        state |= refitted_weights(dense, recorded.weights, refit)
    for cut in cuts:
        if cut.repair is None:
            continue
        values = {
            "weight": cut.repair.scale if cut.repair.matrix is None else cut.repair.matrix,
            "bias": cut.repair.shift,
        }
        for key, value in values.items():
            name = f"{cut.block.name}.repair.{key}"
            state[name] = torch.from_numpy(np.array(value, np.float32)).reshape(own[name].shape)
    model.load_state_dict(state)
    try:
        check_against(model, collapsed, example, tolerance=EQUAL)
    except VerificationError as error:
        raise VerificationError(
            f"The plan cannot be carried over to PyTorch: {str(error).removesuffix('; nothing was written.')}."
        ) from None
    return state


def _clipping(
    cut: Cut, producers: dict[str, Any], constants: dict[str, Any]
) -> tuple[float | None, float | None]:
    """The bounds that surgery leaves or puts behind a cut."""
    block = cut.block
    if cut.form is Form.BYPASS:
        if block.keep_relu:
            return 0.0, None
        if cut.repair is None:
            return None, None
        return _bounds(producers[block.output], constants) or (None, None)
    if len(block.units) > 1:
        raise UsageError(
            f"Block {block.name} holds several units, which a PyTorch module cannot lose as shortcuts; make the plan "
            f"with --form bypass."
        )
    return _trailing_bounds(block, producers, constants)


def _trailing_bounds(
    block: Block, producers: dict[str, Any], constants: dict[str, Any]
) -> tuple[float | None, float | None]:
    trailing = block.units[-1].trailing
    if not trailing:
        return None, None
    bounds = _bounds(producers[trailing[0]], constants) if len(trailing) == 1 else None
    if bounds is None:
        kinds = ", ".join(producers[name].op_type for name in trailing)
        raise UsageError(
            f"Block {block.name} ends in {kinds}, which stays when its branch goes and has no counterpart here; make "
            f"the plan with --form bypass."
        )
    return bounds


def _bounds(node: onnx.NodeProto, constants: dict[str, Any]) -> tuple[float | None, float | None] | None:
    if node.op_type == "Relu":
        return 0.0, None
    if node.op_type != "Clip":
        return None
    low, high = (
        float(numpy_helper.to_array(constants[name])) if name in constants else None
        for name in (*node.input[1:3], "", "")[:2]
    )
    return low, high
