"""Discovery: the residual blocks of any ONNX graph, each collapsible or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx

from lacoot_deploy.graph.discovery.assemble import Survey, blocks_of, survey_of, undecided
from lacoot_deploy.graph.model.blocks import Block, Shape
from lacoot_deploy.graph.model.index import index_model
from lacoot_deploy.graph.model.pauses import no_cycle_search
from lacoot_deploy.graph.model.tolerant import invalid_is_refused

__all__ = ["Survey", "find_blocks", "survey", "undecided", "unit_block"]


def find_blocks(
    model: onnx.ModelProto,
    *,
    shapes: Mapping[str, Shape] | None = None,
    granularity: Literal["block", "unit"] = "block",
    private_io: bool = False,
) -> tuple[Block, ...]:
    """The residual blocks of a model, main graph first, then bodies, each in graph order.

    What looks like a block and is not comes too, with `reason` set and no forms. Reads no weights.

    Args:
        model: The model; external data need not be loaded.
        shapes: Shapes measured in a probe run by value name, which supersede what is inferred (see
            `survey`).
        granularity: `block` groups the units that one module runs; `unit` gives every unit by itself.
        private_io: Whether inputs and outputs of the model that belong to a block alone may go with it; without, a
            block that has private outputs is refused.

    Returns:
        Blocks with unique names, the same on every call.

    Raises:
        InputError: The model is not valid in a way that leaves its blocks open.
    """
    with invalid_is_refused(model), no_cycle_search():
        return blocks_of(index_model(model), shapes=shapes, granularity=granularity, private_io=private_io)


def survey(
    model: onnx.ModelProto,
    *,
    granularity: Literal["block", "unit"] = "block",
    private_io: bool = False,
    cut_from: Survey | None = None,
) -> Survey:
    """Blocks, values that a probe run must settle, and costs of a model, all from one look through it.

    Args:
        model: The model; external data need not be loaded.
        granularity: As for `find_blocks`.
        private_io: As for `find_blocks`.
        cut_from: The survey of the model that this one was cut from, which tells its shapes.

    Raises:
        InputError: As for `find_blocks`.
    """
    with invalid_is_refused(model), no_cycle_search():
        index = index_model(model)
        if cut_from is not None and not cut_from.undecided:
            index.cut_from = cut_from.table
        return survey_of(index, granularity=granularity, private_io=private_io)


def unit_block(model: onnx.ModelProto, block: Block, unit: str) -> Block:
    """One unit of a block as a block of its own, so that it can be removed alone.

    Args:
        model: The model that the block was found in.
        block: A block of it.
        unit: Name of one of the block's units.

    Raises:
        UsageError: The block has no such unit.
    """
    from lacoot_deploy.errors import UsageError

    wanted = next((record for record in block.units if record.name == unit), None)
    if wanted is None:
        names = ", ".join(record.name for record in block.units)
        raise UsageError(f"Block {block.name} has no unit {unit}; it has {names}.")
    for single in find_blocks(model, granularity="unit"):
        if single.scope == block.scope and single.units and single.units[0].merge == wanted.merge:
            return single
    raise UsageError(
        f"Unit {unit} of block {block.name} is not in this model; find the blocks of this model anew."
    )
