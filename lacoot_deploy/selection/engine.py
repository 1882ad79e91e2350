"""Runs a network with any of its blocks removed, at the price of what lies behind the first change.

The model is split at its blocks once; each piece has one session. A variant (a set of removed blocks with their
repairs) is computed from its parent by running only the pieces whose inputs changed; repairs are refitted in order,
each on the activations of the already shortened network, against what the dense network has at that place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.segments import split_at_blocks
from lacoot_deploy.graph.surgery.channels import channel_axis
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.graph.surgery.folding import Folder, fold_refits
from lacoot_deploy.machine import describe_machine
from lacoot_deploy.runtime.sessions import Session, open_session
from lacoot_deploy.selection.chains import Chains
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.maps import PER_CHANNEL, fit_repair
from lacoot_deploy.selection.pieces import Pieces
from lacoot_deploy.selection.variant import EXACT, Kept, Removal, Values, Variant, apply_repair


class Engine:
    """A model split at its blocks, with samples to fit repairs on and others to judge by."""

    def __init__(
        self,
        model: onnx.ModelProto,
        blocks: Sequence[Block],
        fit: Samples | None,
        judge: Samples,
        *,
        source: Path | None = None,
        provider: str = "auto",
        threads: int | None = None,
        batch_size: int = 64,
        memory_bytes: int | None = None,
    ) -> None:
        """Split the model, open the sessions and run the dense network once.

        Args:
            model: The model.
            blocks: Disjoint collapsible blocks of the main graph.
            fit: Samples that repairs are fitted on; None where nothing is to be fitted.
            judge: Samples that removals are judged by.
            source: The model's file, where it has external data.
            provider: Execution provider.
            threads: CPU threads of ONNX Runtime.
            batch_size: Samples per run.
            memory_bytes: What the values of one variant may take; where the samples need more, fewer of them are
                used, spread evenly over those given. By default a sixteenth of the machine's memory; a search
                holds up to three variants and half as much again in passing.

        Raises:
            InputError: The blocks overlap or lie in subgraphs, or the model cannot be run.
        """
        inferred = onnx.shape_inference.infer_shapes(model)
        self.model, self.judge_samples = model, judge
        self.fit_samples = judge.take(slice(0, 0)) if fit is None else fit
        self.batch_size = batch_size
        self.runs = 0
        # Every piece has a pool of threads; those of one that has run must not go on spinning while the next one runs.
        self._open_args: dict[str, Any] = {
            "provider": provider,
            "threads": threads,
            "source": source,
            "session_config": {"session.intra_op.allow_spinning": "0"},
        }
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
        parts = {s.block.name: s for s in self.segments if s.block is not None}
        self._pieces = Pieces(inferred, parts, self._open)
        folder = Folder(model)
        self._folds = {name: folder.find(block) for name, block in self.blocks.items()}
        self.outputs = [output.name for output in model.graph.output]
        self._chains = Chains(self.segments, self.outputs)
        self._passed_on = [
            [name for name in segment.outputs if name in self._chains.readers or name in self.outputs]
            for segment in self.segments
        ]
        self._names = [value.name for value in model.graph.input if value.name in judge.feeds]
        self._limit_samples(_default_memory() if memory_bytes is None else memory_bytes)
        self.fit_batches = -(-len(self.fit_samples) // batch_size)
        fitting, judging = (
            self._forward([self._inputs(batch) for batch in part.batches(batch_size)], fitting=number == 0)
            for number, part in enumerate((self.fit_samples, self.judge_samples))
        )
        self.dense = Variant({}, (*fitting, *judging))
        self.judge = Judge.of(self.gather(self.dense), self.judge_samples)

    def _inputs(self, batch: Values) -> Values:
        return {name: batch[name] for name in self._names}

    def _limit_samples(self, memory_bytes: int) -> None:
        """Use no more samples than the memory holds the values of; at least a batch of each kind."""
        first = next(self.judge_samples.batches(self.batch_size))
        values = self._forward([self._inputs(first)], fitting=True)[0]
        size = sum(value.nbytes for value in values.values()) / len(next(iter(first.values())))
        share = memory_bytes / max(size * (len(self.fit_samples) + len(self.judge_samples)), 1)
        if share < 1:
            if len(self.fit_samples):
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
        removed, kept, first = self._asked(parent, names, form, repair)
        fitting = self._forward(parent.values[: self.fit_batches], removed, kept, first, fitting=True)
        judging = self._forward(parent.values[self.fit_batches :], removed, kept, first)
        return Variant(removed, (*fitting, *judging), kept)

    def remove_exactly(self, parent: Variant, cut: Cut) -> Variant:
        """The parent with a block removed by a cut that is known to change nothing."""
        name = cut.block.name
        removed, kept, first = self._asked(parent, [name], cut.form, EXACT)
        removed[name] = Removal(cut.form, EXACT, cut.repair)
        fitting = self._forward(parent.values[: self.fit_batches], removed, kept, first, fitting=True)
        judging = self._forward(parent.values[self.fit_batches :], removed, kept, first)
        return Variant(removed, (*fitting, *judging), kept)

    def trial(
        self,
        parent: Variant,
        names: Sequence[str],
        *,
        form: Form | None = None,
        repair: str,
        labels: bool = True,
        bound: float | None = None,
    ) -> NDArray[np.float64] | None:
        """What each judging sample costs with further blocks removed; the network itself is not kept.

        Samples for the repairs are run no further than to the last removed block.

        Args:
            parent: A variant of this engine.
            names: Blocks to remove.
            form: The form; None for each block's best.
            repair: As for `remove`.
            labels: Whether labels, where there are any, decide what a sample costs; see `Judge.costs`.
            bound: Give up as soon as the mean cost is sure to be greater (costs are never negative).

        Returns:
            float64 [N]; None where the bound was passed.
        """
        removed, kept, first = self._asked(parent, names, form, repair)
        last = max(self.place[name] for name in removed)
        self._forward(parent.values[: self.fit_batches], removed, kept, first, last, fitting=True)
        costs: list[NDArray[np.float64]] = []
        # A tie must not be lost to the order of a sum.
        allowed = np.inf if bound is None else bound * len(self.judge_samples) * (1 + 1e-9)
        total, done = 0.0, 0
        for batch in parent.values[self.fit_batches :]:
            (outputs,) = self._forward([batch], removed, kept, first)
            costs.append(self.judge.costs(outputs, start=done, labels=labels))
            done += len(costs[-1])
            total += float(costs[-1].sum())
            if total > allowed:
                return None
        return np.concatenate(costs)

    def _asked(
        self, parent: Variant, names: Sequence[str], form: Form | None, repair: str
    ) -> tuple[dict[str, Removal], dict[str, Kept], int]:
        """The removals asked for, the refitted blocks that stay, and the first segment that changes."""
        removed = dict(parent.removed)
        for name in names:
            removed[name] = Removal(form or self.blocks[name].forms[0], repair)
        first = min(self.place[name] for name in names)
        while (before := self._chains.before(first, removed)) is not None:
            first = before
        return removed, {n: k for n, k in parent.kept.items() if n not in removed}, first

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
        dense = self.dense.values
        fitting = self._forward(dense[: self.fit_batches], removed, kept, first, fitting=True, refit=kind)
        judging = self._forward(dense[self.fit_batches :], removed, kept, first)
        return Variant(removed, (*fitting, *judging), kept)

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
        return self._chains.after(self.place[name], variant.removed)

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
        last: int | None = None,
        *,
        fitting: bool = False,
        refit: str | None = None,
    ) -> tuple[Values, ...]:
        """Run the segments from `first` to `last` on batches of values; what did not change is not run again.

        With `fitting` the batches are those that repairs and refits are fitted on, and what is fitted on the way is
        written into `removed` and `kept`; without it, what stands there is applied.
        """
        current = [dict(batch) for batch in start]
        anew = removed is None
        removed, kept = removed if removed is not None else {}, kept if kept is not None else {}
        end = len(self.segments) if last is None else last + 1
        for i in range(first, end if current else first):
            segment = self.segments[i]
            block = segment.block
            removal = removed.get(block.name) if block is not None else None
            if block is not None and removal is not None:
                removed[block.name] = self._stand_in(
                    block, removal, current, fitting=fitting, shared=self._chains.after(i, removed)
                )
            elif anew or any(
                batch[name] is not old[name]
                for batch, old in zip(current, start, strict=True)
                for name in segment.inputs
            ):
                self.runs += len(current)
                if refit is not None and block is not None:
                    self._refit(i, block, refit, current, kept)
                session = kept[block.name].session if block and block.name in kept else self.sessions[i]
                # Repairs are fitted on targets inside the dense network; elsewhere only what is read on is kept.
                wanted = segment.outputs if anew and fitting else self._passed_on[i]
                for batch in current:
                    batch.update(session.run({name: batch[name] for name in segment.inputs}, wanted))
        return tuple(current)

    def _refit(self, i: int, block: Block, kind: str, batches: list[Values], kept: dict[str, Kept]) -> None:
        """Fit a map on a kept block's branch and open a session of the block with the map folded in."""
        place = self._folds[block.name]
        if place is None:
            return
        unit = block.units[-1]
        inputs, targets = [], []
        segment, session = self._pieces.get(block, "branch")
        for batch, dense in zip(batches, self.dense.values, strict=False):
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

    def _stand_in(
        self, block: Block, removal: Removal, batches: list[Values], *, fitting: bool, shared: bool
    ) -> Removal:
        """Compute a removed block's output from its input on every batch, fitting its repair first if asked to."""
        unit = block.units[-1]
        if removal.form is Form.BYPASS:
            base = [batch[block.input] for batch in batches]
            axis, target = self.axes[block.name], block.output
        elif len(block.units) > 1 or unit.merge_op != "Add":
            # Each unit loses its branch; what is left (a fused norm, say) is run as it stands, without a repair.
            segment, session = self._pieces.get(block, "shortcut")
            for batch in batches:
                batch.update(session.run({n: batch[n] for n in segment.inputs}, segment.outputs))
            return Removal(removal.form, removal.repair_kind, None)
        else:
            base = self._skip(block, batches)
            axis, target = self.output_axes[block.name], unit.merge
        repair = None if fitting and removal.repair_kind != EXACT else removal.repair
        fits = not shared and removal.repair_kind not in ("none", EXACT) and self._float(base[0])
        if fitting and fits and axis is not None:
            dense = [batch[target] for batch in self.dense.values[: self.fit_batches]]
            repair = fit_repair(removal.repair_kind, base, dense, axis)
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
            segment, session = self._pieces.get(block, "trailing")
            for batch, value in zip(batches, mapped, strict=True):
                feeds = {n: value if n == unit.merge else batch[n] for n in segment.inputs}
                batch.update(session.run(feeds, segment.outputs))
        return Removal(removal.form, removal.repair_kind, repair)

    def _skip(self, block: Block, batches: list[Values]) -> list[NDArray[Any]]:
        unit = block.units[-1]
        if unit.skip == block.input:
            return [batch[block.input] for batch in batches]
        segment, session = self._pieces.get(block, "skip")
        return [
            session.run({n: batch[n] for n in segment.inputs}, [unit.skip])[unit.skip] for batch in batches
        ]

    def _clip(self, block: Block, values: list[NDArray[Any]], batches: list[Values]) -> list[NDArray[Any]]:
        """Clip a map's values as the block clipped its output, as surgery does."""
        last = next(node for node in self.model.graph.node if block.output in node.output)
        if last.op_type == "Relu":
            return [np.maximum(value, 0) for value in values]
        if last.op_type != "Clip":
            return values
        segment, session = self._pieces.get(block, "clip")
        fed = (
            {n: v if n == last.input[0] else batch[n] for n in segment.inputs}
            for v, batch in zip(values, batches, strict=True)
        )
        return [session.run(feeds, segment.outputs)[block.output] for feeds in fed]

    def _open(self, model: onnx.ModelProto) -> Session:
        return open_session(model, label="A part of the model", **self._open_args)

    @staticmethod
    def _float(value: NDArray[Any]) -> bool:
        return bool(np.issubdtype(value.dtype, np.floating))


def _default_memory() -> int:
    """A share of what the machine has, not of what is free now, so that a run can be repeated."""
    machine = describe_machine()
    known = [size for size in (machine.memory_bytes, machine.memory_limit_bytes) if size is not None]
    return max(min(known) // 16, 1 << 30) if known else 1 << 30
