"""A model split at its blocks, run piece by piece on samples: what an engine computes its variants with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lacoot_deploy.graph.model.blocks import Block, Form, Shape
from lacoot_deploy.graph.model.segments import Splitter
from lacoot_deploy.graph.surgery.channels import channel_axis
from lacoot_deploy.graph.surgery.norms import FUSED_MERGES, NORM_OUTPUT
from lacoot_deploy.runtime.batching import Batch, sample_axes
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.runtime.sessions import Session
from lacoot_deploy.selection.chains import Chains
from lacoot_deploy.selection.pace import Pace
from lacoot_deploy.selection.pieces import Opener, Parts, Piece
from lacoot_deploy.selection.variant import Values


class Network:
    """The pieces of a model, in the order in which they run.

    Args:
        model: The model; its nodes may stand in any order, and what it notes of inner values is not trusted.
        blocks: Collapsible blocks of the main graph; they may lie in one another.
        source: The model's file, where it has external data.
        runtime: Where the pieces run.

    Attributes:
        blocks: The blocks by name; their shapes are those that the network really has once it has run.
        pieces: The pieces.
        place: The piece that computes each block's output, by the block's name.
        chains: How the blocks lie to one another.
        parts: What stays of a block when it goes.
        pace: Runs pieces with the number of threads that suits the machine.
        outputs: Names of the model's outputs.
        weights: Its external weights, for further sessions of it.

    Raises:
        InputError: A block lies in a subgraph.
    """

    def __init__(
        self, model: onnx.ModelProto, blocks: Sequence[Block], source: Path | None, runtime: Runtime = AUTO
    ) -> None:
        self.model = model
        splitter = Splitter(model, keep=[block.output for block in blocks])
        self.splitter = splitter
        self._opener = Opener(splitter, model, source, runtime)
        self.weights = self._opener.weights
        segments = splitter.split(blocks)
        self.pieces = [Piece(segment, self._opener) for segment in segments]
        made = {name: i for i, segment in enumerate(segments) for name in segment.outputs}
        self.place = {b.name: made[b.output] for b in sorted(blocks, key=lambda b: made[b.output])}
        by_name = {block.name: block for block in blocks}
        self.blocks = {name: by_name[name] for name in self.place}
        self.outputs = list(dict.fromkeys(output.name for output in model.graph.output))
        self.chains = Chains(self.blocks, segments, self.outputs)
        self.parts = Parts(self._opener)
        self.pace = Pace(self.pieces, self.parts, self._opener)
        read = self.chains.readers.keys() | set(self.outputs) | {block.input for block in blocks}
        read |= {unit.skip for block in blocks for unit in block.units[-1:]}
        self.passed_on = [[name for name in segment.outputs if name in read] for segment in segments]
        self.axes: dict[str, tuple[int | None, int | None]] = {}

    def learn(self, values: Values) -> None:
        """Take the shapes and types of the blocks' ends from one run of the whole network."""
        for name, block in self.blocks.items():
            start, end = values[block.input], values[block.output]
            self.blocks[name] = replace(
                block,
                shape=true_shape(block.shape, start),
                output_shape=true_shape(block.output_shape, end),
                dtype=start.dtype.name if isinstance(start, np.ndarray) else block.dtype,
            )
            self.axes[name] = self._axis(block.input, start), self._axis(block.output, end)

    def _axis(self, name: str, value: Any) -> int | None:
        if not isinstance(value, np.ndarray):
            return None
        return channel_axis(self.model, name, value.ndim)

    def fused(self, block: Block) -> onnx.NodeProto | None:
        """The node that ends a block where it is a merge and a norm in one."""
        node = self.splitter.nodes[self.splitter.producer[block.output]]
        return node if node.op_type in FUSED_MERGES else None

    def side_outputs(self, block: Block, mapped: Any, values: Values, types: Values) -> Values:
        """What a fused merge gives beside the block's output when the block is bypassed."""
        node = self.fused(block)
        if node is None or len(self.pieces[self.place[block.name]].segment.outputs) < 2:
            return {}
        # The norm is that of what stands for the sum; the sum itself is the skip, as surgery has it.
        fed = values if block.output == node.output[NORM_OUTPUT] else values | {block.input: mapped}
        found = self.parts.run_cut(block, Form.BYPASS, fed, types)
        return {name: value for name, value in found.items() if name != block.output}

    def open(self, model: onnx.ModelProto) -> Session:
        """A session of a model made out of a piece."""
        return self._opener.model(model)

    def piece_model(self, i: int, values: Values) -> onnx.ModelProto:
        """A piece as a model with its weights."""
        return self._opener.part_model(self.pieces[i].segment, values)

    def judged(self, runs: Sequence[tuple[Values, Batch]]) -> dict[str, int]:
        """The values that the network is judged by, and where each counts samples.

        Those are its outputs that count samples. Where none of floating point does, as in a detector that gives rows
        of what it found, they are the values nearest to its end that do.
        """
        sizes = [batch.size for _, batch in runs]
        found = self._counted(self.outputs, [values for values, _ in runs], sizes)
        if any(runs[0][0][name].dtype.kind == "f" for name in found):
            return found
        for piece in reversed(self.pieces):
            inner = [name for name in piece.segment.inputs if name in self.splitter.producer]
            inner_axes = self._counted(inner, [values for values, _ in runs], sizes)
            floats = {n: axis for n, axis in inner_axes.items() if runs[0][0][n].dtype.kind == "f"}
            if floats:
                return found | floats
        return found

    def _counted(
        self, names: Sequence[str], values: Sequence[Values], sizes: Sequence[int]
    ) -> dict[str, int]:
        known = [{n: batch[n] for n in names if n in batch} for batch in values]
        return sample_axes(list(zip(known, sizes, strict=True)))


def true_shape(noted: Shape | None, value: Any) -> Shape | None:
    """What a file notes of a value's shape, corrected by the value itself; the first axis is left as it was noted."""
    if not isinstance(value, np.ndarray):
        return noted
    if noted is None or len(noted) != value.ndim:
        return (None, *value.shape[1:])
    return tuple(
        size if axis and isinstance(dim, int) and dim != size else dim
        for axis, (dim, size) in enumerate(zip(noted, value.shape, strict=True))
    )
