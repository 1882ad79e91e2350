"""Runs a network with any of its blocks removed, at the price of what lies behind the first change.

The model is split at its blocks once; each piece has one session. A variant (a set of removed blocks with their
repairs) is computed from its parent by running only the pieces whose inputs changed; repairs are refitted in order,
each on the activations of the already shortened network, against what the dense network has at that place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.blocks import Block, Form
from lacoot_deploy.graph.channels import channel_axis
from lacoot_deploy.graph.cuts import Cut, Refit, Repair
from lacoot_deploy.graph.folding import Folder, fold_refits
from lacoot_deploy.graph.segments import Segment, extract, split_at_blocks
from lacoot_deploy.graph.surgery import collapse_blocks
from lacoot_deploy.runtime.sessions import Session, open_session
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.maps import PER_CHANNEL, fit_repair

Values = dict[str, NDArray[Any]]
Progress = Callable[[int, int, str], None]


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


class Engine:
    """A model split at its blocks, with samples to fit repairs on and others to judge by."""

    def __init__(
        self,
        model: onnx.ModelProto,
        blocks: Sequence[Block],
        fit: Samples,
        judge: Samples,
        *,
        source: Path | None = None,
        provider: str = "auto",
        threads: int | None = None,
        batch_size: int = 64,
        memory_bytes: int = 1 << 30,
    ) -> None:
        """Split the model, open the sessions and run the dense network once.

        Args:
            model: The model.
            blocks: Disjoint collapsible blocks of the main graph.
            fit: Samples that repairs are fitted on.
            judge: Samples that removals are judged by.
            source: The model's file, where it has external data.
            provider: Execution provider.
            threads: CPU threads of ONNX Runtime.
            batch_size: Samples per run.
            memory_bytes: What the values of one variant may take; where the samples need more, fewer of them are
                used, spread evenly over those given.

        Raises:
            InputError: The blocks overlap or lie in subgraphs, or the model cannot be run.
        """
        inferred = onnx.shape_inference.infer_shapes(model)
        self.model, self.fit_samples, self.judge_samples = model, fit, judge
        self.batch_size = batch_size
        self.runs = 0
        self._open_args: dict[str, Any] = {"provider": provider, "threads": threads, "source": source}
        self.segments = split_at_blocks(inferred, blocks)
        self.sessions = [self._open(segment.model) for segment in self.segments]
        self.place = {s.block.name: i for i, s in enumerate(self.segments) if s.block is not None}
        self.blocks = {s.block.name: s.block for s in self.segments if s.block is not None}
        self.axes = {
            name: channel_axis(inferred, block.input, None if block.shape is None else len(block.shape))
            for name, block in self.blocks.items()
        }
        self.output_axes = {
            name: channel_axis(
                inferred, block.output, None if block.output_shape is None else len(block.output_shape)
            )
            for name, block in self.blocks.items()
        }
        self._pieces: dict[str, tuple[Segment, Session]] = {}
        self._inferred = inferred
        folder = Folder(model)
        self._folds = {name: folder.find(block) for name, block in self.blocks.items()}
        self.outputs = [output.name for output in model.graph.output]
        self._readers = self._count_readers()
        self._passed_on = [
            [name for name in segment.outputs if name in self._readers or name in self.outputs]
            for segment in self.segments
        ]
        self._names = [value.name for value in model.graph.input if value.name in fit.feeds]
        self.fit_batches = 1
        self._limit_samples(memory_bytes)
        self.fit_batches = -(-len(self.fit_samples) // batch_size)
        start = [*self.fit_samples.batches(batch_size), *self.judge_samples.batches(batch_size)]
        self.dense = Variant({}, self._forward([self._inputs(batch) for batch in start]))
        self.judge = Judge(self.gather(self.dense), self.judge_samples.labels)

    def _inputs(self, batch: Values) -> Values:
        return {name: batch[name] for name in self._names}

    def _limit_samples(self, memory_bytes: int) -> None:
        """Use no more samples than the memory holds the values of; at least a batch of each kind."""
        first = next(self.fit_samples.batches(self.batch_size))
        values = self._forward([self._inputs(first)])[0]
        size = sum(value.nbytes for value in values.values()) / len(next(iter(first.values())))
        share = memory_bytes / max(size * (len(self.fit_samples) + len(self.judge_samples)), 1)
        if share < 1:
            self.fit_samples = self._spread(self.fit_samples, share)
            self.judge_samples = self._spread(self.judge_samples, share)

    def _spread(self, samples: Samples, share: float) -> Samples:
        """A share of the samples, evenly spread: they may lie in the order of their classes."""
        count = max(int(len(samples) * share), min(len(samples), self.batch_size))
        return samples.take(np.linspace(0, len(samples) - 1, count).round().astype(np.int64))

    def remove(
        self, parent: Variant, names: Sequence[str], *, form: Form | None = None, repair: str
    ) -> Variant:
        """The parent with further blocks removed, its repairs behind the first of them refitted.

        Args:
            parent: A variant of this engine.
            names: Blocks to remove; removed ones may be named again to change their repair.
            form: The form; None for each block's best.
            repair: `none`, `affine`, `linear`, or what else `fit_repair` knows.
        """
        removed = dict(parent.removed)
        for name in names:
            removed[name] = Removal(form or self.blocks[name].forms[0], repair)
        first = min(self.place[name] for name in names)
        while (before := self._chained_before(first, removed)) is not None:
            first = before
        kept = {name: block for name, block in parent.kept.items() if name not in removed}
        values = self._forward(parent.values, removed, kept, first, parent)
        return Variant(removed, values, kept)

    def refit(self, variant: Variant, kind: str = "linear") -> Variant:
        """The same removals, the branches of the blocks that stay behind them refitted in order.

        Each branch F of a block s + F gets the least-squares map over channels T that brings s + T(F) closest to what
        the dense network has there; its last linear operator takes it in, so that it costs nothing.

        Args:
            variant: A variant of this engine.
            kind: A name in `FITS`; branches that cannot take a map across channels get one per channel.
        """
        if not variant.removed:
            return variant
        removed, kept = dict(variant.removed), dict[str, Kept]()
        first = min(self.place[name] for name in removed)
        values = self._forward(self.dense.values, removed, kept, first, self.dense, refit=kind)
        return Variant(removed, values, kept)

    def quality(self, variant: Variant) -> Quality:
        """How good the variant's outputs are on the judging samples."""
        return self.judge.judge(self.gather(variant))

    def gather(self, variant: Variant) -> Values:
        """The variant's outputs on the judging samples."""
        batches = variant.values[self.fit_batches :]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.outputs}

    def cuts(self, variant: Variant) -> list[Cut]:
        """The cuts that make the variant out of the model, in graph order."""
        order = sorted(variant.removed, key=self.place.__getitem__)
        return [Cut(self.blocks[n], variant.removed[n].form, variant.removed[n].repair) for n in order]

    def shares_map(self, variant: Variant, name: str) -> bool:
        """Whether a removed block leaves its map to the removed neighbour behind it."""
        return self._chained_after(self.place[name], variant.removed)

    def refits(self, variant: Variant) -> list[Refit]:
        """The maps folded into blocks that stay, in graph order."""
        order = sorted(variant.kept, key=self.place.__getitem__)
        return [Refit(self.blocks[name], variant.kept[name].repair) for name in order]

    def _forward(
        self,
        start: Sequence[Values],
        removed: dict[str, Removal] | None = None,
        kept: dict[str, Kept] | None = None,
        first: int = 0,
        parent: Variant | None = None,
        *,
        refit: str | None = None,
    ) -> tuple[Values, ...]:
        """Run the segments from `first` on; what is fitted on the way is written into `removed` and `kept`."""
        current = [dict(batch) for batch in start]
        removed, kept = removed if removed is not None else {}, kept if kept is not None else {}
        for i in range(first, len(self.segments)):
            segment = self.segments[i]
            block = segment.block
            removal = removed.get(block.name) if block is not None else None
            if block is not None and removal is not None:
                shared = self._chained_after(i, removed)
                removed[block.name] = self._stand_in(block, removal, current, shared)
            elif parent is None or any(
                batch[name] is not old[name]
                for batch, old in zip(current, parent.values, strict=True)
                for name in segment.inputs
            ):
                self.runs += 1
                if refit is not None and block is not None:
                    self._refit(i, block, refit, current, kept)
                session = kept[block.name].session if block and block.name in kept else self.sessions[i]
                for number, batch in enumerate(current):
                    feeds = {name: batch[name] for name in segment.inputs}
                    # Repairs are fitted on targets inside the dense network; elsewhere only what is read on is kept.
                    wanted = (
                        segment.outputs
                        if parent is None and number < self.fit_batches
                        else self._passed_on[i]
                    )
                    batch.update(session.run(feeds, wanted))
        return tuple(current)

    def _refit(self, i: int, block: Block, kind: str, batches: list[Values], kept: dict[str, Kept]) -> None:
        """Fit a map on a kept block's branch and open a session of the block with the map folded in."""
        place = self._folds[block.name]
        if place is None:
            return
        unit = block.units[-1]
        inputs, targets = [], []
        segment, session = self._piece(block, "branch")
        for batch, dense in zip(batches[: self.fit_batches], self.dense.values, strict=False):
            got = session.run({n: batch[n] for n in segment.inputs}, segment.outputs)
            skip = got[unit.skip] if unit.skip in got else batch[unit.skip]
            inputs.append(got[unit.branch])
            targets.append(dense[unit.merge].astype(np.float32) - skip.astype(np.float32))
        if not self._float(inputs[0]) or inputs[0].shape != targets[0].shape:
            return
        axis = place.axis % inputs[0].ndim
        repair = fit_repair(kind if place.matrix else PER_CHANNEL.get(kind, kind), inputs, targets, axis)
        if repair is None:
            return
        folded = onnx.ModelProto()
        folded.CopyFrom(self.segments[i].model)
        source: Path | None = self._open_args["source"]
        fold_refits(folded, [Refit(block, repair)], folder=None if source is None else source.parent)
        kept[block.name] = Kept(repair, self._open(folded))

    def _stand_in(self, block: Block, removal: Removal, batches: list[Values], shared: bool) -> Removal:
        """Compute a removed block's output from its input on every batch, fitting its repair first."""
        unit = block.units[-1]
        if removal.form is Form.BYPASS:
            base = [batch[block.input] for batch in batches]
            axis, target = self.axes[block.name], block.output
        elif len(block.units) > 1 or unit.merge_op != "Add":
            # Each unit loses its branch; what is left (a fused norm, say) is run as it stands, without a repair.
            segment, session = self._piece(block, "shortcut")
            for batch in batches:
                batch.update(session.run({n: batch[n] for n in segment.inputs}, segment.outputs))
            return Removal(removal.form, removal.repair_kind, None)
        else:
            base = self._skip(block, batches)
            axis, target = self.output_axes[block.name], unit.merge
        repair = None
        if not shared and removal.repair_kind != "none" and axis is not None and self._float(base[0]):
            dense = [batch[target] for batch in self.dense.values[: self.fit_batches]]
            repair = fit_repair(removal.repair_kind, base[: self.fit_batches], dense, axis)
        mapped = base if repair is None else [apply_repair(repair, value) for value in base]
        if removal.form is Form.BYPASS:
            if block.keep_relu:
                mapped = [np.maximum(value, 0) for value in mapped]
            elif repair is not None:
                mapped = self._clip(block, mapped, batches)
            for batch, value in zip(batches, mapped, strict=True):
                batch[block.output] = value
        elif unit.merge == block.output:
            for batch, value in zip(batches, mapped, strict=True):
                batch[block.output] = value
        else:
            segment, session = self._piece(block, "trailing")
            for batch, value in zip(batches, mapped, strict=True):
                feeds = {n: value if n == unit.merge else batch[n] for n in segment.inputs}
                batch.update(session.run(feeds, segment.outputs))
        return Removal(removal.form, removal.repair_kind, repair)

    def _skip(self, block: Block, batches: list[Values]) -> list[NDArray[Any]]:
        unit = block.units[-1]
        if unit.skip == block.input:
            return [batch[block.input] for batch in batches]
        segment, session = self._piece(block, "skip")
        return [
            session.run({n: batch[n] for n in segment.inputs}, [unit.skip])[unit.skip] for batch in batches
        ]

    def _piece(self, block: Block, what: str) -> tuple[Segment, Session]:
        """The part of a block that its shortcut form keeps: its skip path, its trailing ops, or all of it."""
        key = f"{what} {block.name}"
        if key not in self._pieces:
            unit = block.units[-1]
            whole = self.segments[self.place[block.name]]
            if what == "shortcut":
                cut = collapse_blocks(self._with_types(whole), [Cut(block, Form.SHORTCUT)])
                segment = extract(cut, [v.name for v in cut.graph.input], [block.output], name=key)
            elif what == "branch":
                made = {name for node in whole.model.graph.node for name in node.output}
                ends = [name for name in (unit.branch, unit.skip) if name in made]
                segment = extract(self._inferred, whole.inputs, ends, name=key)
            elif what == "skip":
                segment = extract(self._inferred, whole.inputs, [unit.skip], name=key)
            else:
                last = next(node for node in self.model.graph.node if block.output in node.output)
                start = last.input[0] if what == "clip" else unit.merge
                segment = extract(self._inferred, [start, *whole.inputs], [block.output], name=key)
            self._pieces[key] = (segment, self._open(segment.model))
        return self._pieces[key]

    def _with_types(self, segment: Segment) -> onnx.ModelProto:
        model = onnx.shape_inference.infer_shapes(segment.model)
        known = {v.name: v for v in (*self._inferred.graph.value_info, *self._inferred.graph.output)}
        assert segment.block is not None
        name = segment.block.output
        del model.graph.output[:]
        model.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
        return model

    def _clip(self, block: Block, values: list[NDArray[Any]], batches: list[Values]) -> list[NDArray[Any]]:
        """Clip a map's values as the block clipped its output, as surgery does."""
        last = next(node for node in self.model.graph.node if block.output in node.output)
        if last.op_type == "Relu":
            return [np.maximum(value, 0) for value in values]
        if last.op_type != "Clip":
            return values
        segment, session = self._piece(block, "clip")
        fed = (
            {n: v if n == last.input[0] else batch[n] for n in segment.inputs}
            for v, batch in zip(values, batches, strict=True)
        )
        return [session.run(feeds, segment.outputs)[block.output] for feeds in fed]

    def _chained_after(self, i: int, removed: Mapping[str, Removal]) -> bool:
        """Whether the next segment is a removed block that reads this one's output alone: they share its map."""
        block = self.segments[i].block
        assert block is not None
        follower = self._follower(block)
        return (
            follower is not None
            and follower.name in removed
            and removed[follower.name].form is Form.BYPASS
            and removed[block.name].form is Form.BYPASS
        )

    def _chained_before(self, i: int, removed: Mapping[str, Removal]) -> int | None:
        block = self.segments[i].block
        for name in removed:
            other = self.blocks[name]
            if (
                block is not None
                and other.output == block.input
                and self._chained_after(self.place[name], removed)
            ):
                return self.place[name]
        return None

    def _follower(self, block: Block) -> Block | None:
        readers = self._readers.get(block.output, set())
        if len(readers) != 1 or block.output in self.outputs:
            return None
        follower = self.segments[next(iter(readers))].block
        return follower if follower is not None and follower.input == block.output else None

    def _count_readers(self) -> dict[str, set[int]]:
        readers: dict[str, set[int]] = {}
        for i, segment in enumerate(self.segments):
            for name in segment.inputs:
                readers.setdefault(name, set()).add(i)
        return readers

    def _open(self, model: onnx.ModelProto) -> Session:
        return open_session(model, label="A part of the model", **self._open_args)

    @staticmethod
    def _float(value: NDArray[Any]) -> bool:
        return bool(np.issubdtype(value.dtype, np.floating))


def apply_repair(repair: Repair, value: NDArray[Any]) -> NDArray[Any]:
    """T(x) on an array, in its own dtype."""
    moved = np.moveaxis(value, repair.axis, -1)
    if repair.matrix is not None:
        out = moved @ repair.matrix.T.astype(value.dtype) + repair.shift.astype(value.dtype)
    else:
        if repair.scale is None:
            raise InputError("An affine repair needs a scale.")
        out = moved * repair.scale.astype(value.dtype) + repair.shift.astype(value.dtype)
    return np.ascontiguousarray(np.moveaxis(out, -1, repair.axis))
