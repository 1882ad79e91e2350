"""The pieces of a split model and the parts of its blocks, each opened when it is first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper

from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.segments import Segment, Splitter
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import Session, open_session
from lacoot_deploy.runtime.weights import SharedWeights
from lacoot_deploy.selection.variant import Values

Part = Literal["cut", "branch", "skip", "trailing", "clip"]
"""`cut`: what is left of a block that goes. `branch`, `skip`: the operands of the last merge. `trailing`: what follows
that merge. `clip`: the last operator alone."""


class Opener:
    """Opens sessions for parts of one model.

    The types of what a part reads are those of the arrays that it is given: no inference knows them all, and what a
    file says of them may be wrong. Weights are shared by all sessions.

    Args:
        splitter: The model's graph.
        model: The model.
        source: Its file, where it has external data.
        runtime: Where parts run.
    """

    def __init__(
        self, splitter: Splitter, model: onnx.ModelProto, source: Path | None, runtime: Runtime
    ) -> None:
        self.splitter = splitter
        self._source, self.runtime = source, runtime
        self.weights = SharedWeights(model, source)

    def segment(self, segment: Segment, feeds: Mapping[str, Any]) -> Session:
        """A session of a segment that will be run on such feeds."""
        return self.model(self.part_model(segment, feeds))

    def model(self, model: onnx.ModelProto) -> Session:
        """A session of a part of the model, or of what surgery makes of one."""
        return open_session(
            model,
            self.runtime,
            source=self._source,
            label="A part of the model",
            configure=partial(self.weights.configure, model),
        )

    def part_model(self, segment: Segment, feeds: Mapping[str, Any]) -> onnx.ModelProto:
        """A segment as a model with its weights in it (external ones stay where they are)."""
        return self.splitter.model(segment, {name: type_of(feeds[name]) for name in segment.inputs})


class Piece:
    """A segment that can be run."""

    def __init__(self, segment: Segment, opener: Opener) -> None:
        self.segment = segment
        self._opener = opener
        self._session: Session | None = None

    @property
    def provider(self) -> str | None:
        """What runs it; None before it was run."""
        return None if self._session is None else self._session.provider

    def forget(self) -> None:
        """Open it anew when it is next run."""
        self._session = None

    def run(self, values: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Values:
        """Run it on what `values` has of its inputs."""
        feeds = {name: values[name] for name in self.segment.inputs}
        if self._session is None:
            self._session = self._opener.segment(self.segment, feeds)
        return self._session.run(feeds, self.segment.outputs if outputs is None else outputs)


class Parts:
    """Parts of a model's blocks that stay when a block goes, or that a refit needs."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._pieces: dict[tuple[Part, str], Piece] = {}
        self._cuts: dict[tuple[str, Form], tuple[tuple[str, ...], Session]] = {}

    def forget(self) -> None:
        """Open all parts anew when they are next run."""
        self._pieces.clear()
        self._cuts.clear()

    def run(self, block: Block, part: Part, values: Mapping[str, Any]) -> Values:
        """Run a part of a block on what `values` has of its inputs."""
        key = (part, block.name)
        if key not in self._pieces:
            self._pieces[key] = Piece(self._extract(block, part), self._opener)
        return self._pieces[key].run(values)

    def run_cut(
        self, block: Block, form: Form, values: Mapping[str, Any], types: Mapping[str, Any]
    ) -> Values:
        """Run what surgery leaves of a block when it goes without a repair.

        Args:
            block: The block.
            form: How it goes.
            values: What it reads.
            types: Arrays of the types that the values it gives have.
        """
        key = (block.name, form)
        if key not in self._cuts:
            whole = self._opener.splitter.whole(block)
            model = self._opener.part_model(whole, values)
            # What nothing but the block itself reads is kept of no run: its output is of the type of its input.
            known = {block.output: values[block.input], **types} if block.input in values else types
            wanted = [output for output in model.graph.output if output.name in known]
            for output in wanted:
                output.type.CopyFrom(type_of(known[output.name]))
            del model.graph.output[:]
            model.graph.output.extend(wanted)
            cut = collapse_blocks(model, [Cut(replace(block, dtype=str(known[block.output].dtype)), form)])
            self._cuts[key] = (tuple(v.name for v in cut.graph.input), self._opener.model(cut))
        inputs, session = self._cuts[key]
        return session.run({name: values[name] for name in inputs})

    def _extract(self, block: Block, part: Part) -> Segment:
        splitter, unit, name = self._opener.splitter, block.units[-1], f"{part} {block.name}"
        whole = splitter.whole(block)
        if part == "branch":
            ends = [value for value in (unit.branch, unit.skip) if value in splitter.producer]
            made = {output for node in whole.nodes for output in node.output}
            return splitter.extract(whole.inputs, [end for end in ends if end in made], name=name)
        if part == "skip":
            return splitter.extract(whole.inputs, [unit.skip], name=name)
        start = unit.merge
        if part == "clip":
            start = splitter.nodes[splitter.producer[block.output]].input[0]
        return splitter.extract([start, *whole.inputs], [block.output], name=name)


def type_of(value: Any) -> onnx.TypeProto:
    """The ONNX type of what ONNX Runtime gives or takes, without a shape."""
    if isinstance(value, list):
        kind = type_of(value[0]) if value else helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        sequence: onnx.TypeProto = helper.make_sequence_type_proto(kind)
        return sequence
    array = np.asarray(value)
    text = array.dtype.kind in "USO"
    element = onnx.TensorProto.STRING if text else helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor: onnx.TypeProto = helper.make_tensor_type_proto(element, None)
    return tensor
