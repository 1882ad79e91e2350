"""Which piece reads what, which blocks lie in one another, and which removed ones follow with nothing in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.segments import Segment
from lacoot_deploy.selection.variant import Removal


class Chains:
    """How the blocks of a split network lie to one another.

    Args:
        blocks: The blocks by name.
        segments: The network's segments in the order in which they run.
        outputs: Names of the network's outputs.

    Attributes:
        readers: The segments that read each value.
        pieces: The segments that each block is made of.
    """

    def __init__(
        self, blocks: Mapping[str, Block], segments: Sequence[Segment], outputs: Sequence[str]
    ) -> None:
        self._blocks, self._outputs = blocks, outputs
        self.readers: dict[str, set[int]] = {}
        self.pieces: dict[str, set[int]] = {name: set() for name in blocks}
        for i, segment in enumerate(segments):
            for name in segment.inputs:
                self.readers.setdefault(name, set()).add(i)
            for name in segment.owners:
                self.pieces[name].add(i)

    def after(self, name: str, removed: Mapping[str, Removal]) -> bool:
        """Whether a removed block alone reads a removed block's output, so that they share that one's map."""
        block = self._blocks[name]
        readers = self.readers.get(block.output, set())
        if block.output in self._outputs or not readers or removed[name].form is not Form.BYPASS:
            return False
        return any(
            self._blocks[other].input == block.output
            and removal.form is Form.BYPASS
            and readers <= self.pieces[other]
            for other, removal in removed.items()
        )

    def before(self, name: str, removed: Mapping[str, Removal]) -> str | None:
        """The removed block that leaves its map to this removed one; None where there is none."""
        start = self._blocks[name].input
        for other in removed:
            if self._blocks[other].output == start and self.after(other, removed):
                return other
        return None

    def overlapping(self, name: str) -> set[str]:
        """The other blocks that have a piece in common with a block."""
        own = self.pieces[name]
        return {other for other, pieces in self.pieces.items() if other != name and own & pieces}

    def inside(self, name: str) -> set[str]:
        """The other blocks that go when a block goes."""
        own = self.pieces[name]
        return {other for other in self.overlapping(name) if self.pieces[other] <= own}
