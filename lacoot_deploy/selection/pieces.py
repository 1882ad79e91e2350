"""The parts of a block that stay when it goes, or that a refit needs: models of their own, made when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import onnx

from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.segments import Segment, extract
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.runtime.sessions import Session

Part = Literal["shortcut", "branch", "skip", "trailing", "clip"]
"""`shortcut`: what is left without the branches. `branch`, `skip`: the operands of the last merge. `trailing`: what
follows that merge. `clip`: the last operator alone."""


class Pieces:
    """Parts of a model's blocks with a session each.

    Args:
        inferred: The model with its shapes.
        segments: The segment of each block, by the block's name.
        open_session: Opens a session for a part.
    """

    def __init__(
        self,
        inferred: onnx.ModelProto,
        segments: Mapping[str, Segment],
        open_session: Callable[[onnx.ModelProto], Session],
    ) -> None:
        self._inferred, self._segments, self._open = inferred, segments, open_session
        self._made: dict[tuple[str, str], tuple[Segment, Session]] = {}

    def get(self, block: Block, part: Part) -> tuple[Segment, Session]:
        """A part of a block and its session."""
        key = (part, block.name)
        if key not in self._made:
            segment = self._extract(block, part)
            self._made[key] = (segment, self._open(segment.model))
        return self._made[key]

    def _extract(self, block: Block, part: Part) -> Segment:
        whole, unit, name = self._segments[block.name], block.units[-1], f"{part} {block.name}"
        if part == "shortcut":
            cut = collapse_blocks(self._with_types(whole, block), [Cut(block, Form.SHORTCUT)])
            return extract(cut, [value.name for value in cut.graph.input], [block.output], name=name)
        if part == "branch":
            made = {output for node in whole.model.graph.node for output in node.output}
            ends = [value for value in (unit.branch, unit.skip) if value in made]
            return extract(self._inferred, whole.inputs, ends, name=name)
        if part == "skip":
            return extract(self._inferred, whole.inputs, [unit.skip], name=name)
        start = unit.merge
        if part == "clip":
            start = next(n for n in self._inferred.graph.node if block.output in n.output).input[0]
        return extract(self._inferred, [start, *whole.inputs], [block.output], name=name)

    def _with_types(self, segment: Segment, block: Block) -> onnx.ModelProto:
        model = onnx.shape_inference.infer_shapes(segment.model)
        known = {v.name: v for v in (*self._inferred.graph.value_info, *self._inferred.graph.output)}
        del model.graph.output[:]
        model.graph.output.append(known.get(block.output, onnx.ValueInfoProto(name=block.output)))
        return model
