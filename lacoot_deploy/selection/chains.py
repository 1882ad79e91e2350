"""Removed neighbours: a block whose only reader is a removed block leaves its map to that one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.segments import Segment
from lacoot_deploy.selection.variant import Removal


class Chains:
    """Which segment reads what, and which removed blocks follow one another with nothing in between."""

    def __init__(self, segments: Sequence[Segment], outputs: Sequence[str]) -> None:
        """Note every segment's inputs.

        Args:
            segments: The network's segments in graph order.
            outputs: Names of the network's outputs.
        """
        self._segments, self._outputs = segments, outputs
        self._place = {s.block.name: i for i, s in enumerate(segments) if s.block is not None}
        self.readers: dict[str, set[int]] = {}
        for i, segment in enumerate(segments):
            for name in segment.inputs:
                self.readers.setdefault(name, set()).add(i)

    def after(self, i: int, removed: Mapping[str, Removal]) -> bool:
        """Whether a removed block reads segment i's output alone, so that they share that one's map."""
        block = self._segments[i].block
        assert block is not None
        follower = self._follower(block)
        return (
            follower is not None
            and follower.name in removed
            and removed[follower.name].form is Form.BYPASS
            and removed[block.name].form is Form.BYPASS
        )

    def before(self, i: int, removed: Mapping[str, Removal]) -> int | None:
        """The segment of the removed block that leaves its map to segment i; None where there is none."""
        block = self._segments[i].block
        for place in (self._place[name] for name in removed):
            other = self._segments[place].block
            adjacent = block is not None and other is not None and other.output == block.input
            if adjacent and self.after(place, removed):
                return place
        return None

    def _follower(self, block: Block) -> Block | None:
        readers = self.readers.get(block.output, set())
        if len(readers) != 1 or block.output in self._outputs:
            return None
        follower = self._segments[next(iter(readers))].block
        return follower if follower is not None and follower.input == block.output else None
