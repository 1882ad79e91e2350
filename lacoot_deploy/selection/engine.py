"""Runs a network with any of its blocks removed, at the price of what lies behind the first change.

The model is split at its blocks once; each piece has one session. A variant (a set of removed blocks with their
repairs) is computed from its parent by running only the pieces whose inputs changed; repairs are refitted in order,
each on the activations of the already shortened network, against what the dense network has at that place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.graph.surgery.folding import Folder, fold_refits
from lacoot_deploy.machine import describe_machine
from lacoot_deploy.runtime.batching import Batch, check_finite, find_batching, rows
from lacoot_deploy.runtime.feeds import model_inputs
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.maps import PER_CHANNEL, fit_repair
from lacoot_deploy.selection.network import Network
from lacoot_deploy.selection.variant import EXACT, Kept, Removal, Values, Variant, apply_repair


@dataclass
class Course:
    """One way through a network: what is removed and refitted, and whether maps are fitted on the way.

    Attributes:
        removed: The removals by block name; with `fitting`, their repairs are filled in.
        kept: The refitted blocks that stay; with `refit`, they are filled in.
        fitting: Whether the batches are those that repairs are fitted on.
        refit: The kind of map that is fitted on the branches of blocks that stay.
        anew: Whether every piece is run, whatever changed before it.
    """

    removed: dict[str, Removal] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    fitting: bool = False
    refit: str | None = None
    anew: bool = False


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
        runtime: Runtime = AUTO,
        batch_size: int = 64,
        memory_bytes: int | None = None,
    ) -> None:
        """Split the model, open the sessions and run the dense network once.

        Args:
            model: The model.
            blocks: Collapsible blocks of the main graph. They may lie in one another: where one goes, those inside it
                are gone.
            fit: Samples that repairs are fitted on; None where nothing is to be fitted.
            judge: Samples that removals are judged by.
            source: The model's file, where it has external data.
            runtime: Where the pieces run.
            batch_size: Samples per run, where the model runs with that many.
            memory_bytes: What the values of one variant may take; where the samples need more, fewer of them are
                used, spread evenly over those given. By default a sixteenth of the machine's memory; a search
                holds up to three variants and half as much again in passing.

        Raises:
            InputError: A block lies in a subgraph, the model cannot be run on the samples, or it gives for one of them
                what is no number.
        """
        self.model, self.judge_samples = model, judge
        self.fit_samples = judge.take(slice(0, 0)) if fit is None else fit
        self.runs = 0
        self.network = Network(model, blocks, source, runtime)
        self.blocks, self.place = self.network.blocks, self.network.place
        self._folder = None if source is None else source.parent
        self._names = [value.name for value in model.graph.input if value.name in judge.feeds]
        inputs = [info for info in model_inputs(model) if info.name in judge.feeds]
        self.batching, first = find_batching(
            lambda feeds: self._forward([self._inputs(feeds)], Course(fitting=True, anew=True))[0],
            inputs,
            judge,
            batch_size,
        )
        self.network.learn(dict(first))
        self.network.pace.choose(first)
        folder = Folder(model)
        self._folds = {name: folder.find(block) for name, block in self.blocks.items()}
        self._limit_samples(first, _default_memory() if memory_bytes is None else memory_bytes)
        parts = (list(self.batching.batches(part)) for part in (self.fit_samples, self.judge_samples))
        self._fit_batches, self._judge_batches = parts
        self.fit_batches = len(self._fit_batches)
        fitting, judging = (
            self._forward(
                [self._inputs(batch.feeds) for batch in batches], Course(fitting=not number, anew=True)
            )
            for number, batches in enumerate((self._fit_batches, self._judge_batches))
        )
        self.dense = Variant({}, (*fitting, *judging))
        runs = [
            (samples, list(zip(values, batches, strict=True)))
            for samples, values, batches in (
                (self.fit_samples, fitting, self._fit_batches),
                (self.judge_samples, judging, self._judge_batches),
            )
        ]
        self.judged = self.network.judged([run for _, part in runs for run in part])
        for samples, part in runs:
            for values, batch in part:
                for name, value in self._judged(values, batch).items():
                    check_finite(name, value, samples, batch.start)
        self.task: TaskOptions | None = None

    @cached_property
    def judge(self) -> Judge:
        """Judges by the task that is set before it is first asked, else by the one that the outputs speak for."""
        return Judge.of(self.gather(self.dense), self.judge_samples, self.task)

    def _inputs(self, batch: Values) -> Values:
        return {name: batch[name] for name in self._names}

    def _limit_samples(self, first: Mapping[str, Any], memory_bytes: int) -> None:
        """Use no more samples than the memory holds the values of; at least a batch of each kind."""
        held = sum(value.nbytes for value in first.values() if isinstance(value, np.ndarray))
        batch = (
            self.batching.size if self.batching.exact else min(self.batching.size, len(self.judge_samples))
        )
        size = held / batch
        share = memory_bytes / max(size * (len(self.fit_samples) + len(self.judge_samples)), 1)
        if share < 1:
            if len(self.fit_samples):
                self.fit_samples = self._spread(self.fit_samples, share)
            self.judge_samples = self._spread(self.judge_samples, share)

    def _spread(self, samples: Samples, share: float) -> Samples:
        """A share of the samples, evenly spread: they may lie in the order of their classes."""
        count = max(int(len(samples) * share), min(len(samples), self.batching.size))
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

        Raises:
            InputError: A block is part of one that is gone already.
        """
        course, first = self._asked(parent, names, form, repair)
        return self._both(parent, course, first)

    def remove_exactly(self, parent: Variant, cut: Cut) -> Variant:
        """The parent with a block removed by a cut that is known to change nothing."""
        name = cut.block.name
        course, first = self._asked(parent, [name], cut.form, EXACT)
        course.removed[name] = Removal(cut.form, EXACT, cut.repair)
        return self._both(parent, course, first)

    def _both(self, parent: Variant, course: Course, first: int) -> Variant:
        """A variant: what its course fits on the fitting samples is then applied to the judging ones."""
        course.fitting = True
        fitting = self._forward(parent.values[: self.fit_batches], course, first)
        course.fitting, course.refit = False, None
        judging = self._forward(parent.values[self.fit_batches :], course, first)
        return Variant(course.removed, (*fitting, *judging), course.kept)

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

        Raises:
            InputError: As for `remove`.
        """
        course, first = self._asked(parent, names, form, repair)
        last = max(self.place[name] for name in course.removed)
        course.fitting = True
        self._forward(parent.values[: self.fit_batches], course, first, last)
        course.fitting = False
        costs: list[NDArray[np.float64]] = []
        # A tie must not be lost to the order of a sum.
        allowed = np.inf if bound is None else bound * len(self.judge_samples) * (1 + 1e-9)
        total = 0.0
        for values, batch in zip(parent.values[self.fit_batches :], self._judge_batches, strict=True):
            (outputs,) = self._forward([values], course, first)
            costs.append(self.judge.costs(self._judged(outputs, batch), start=batch.start, labels=labels))
            total += float(costs[-1].sum())
            if total > allowed:
                return None
        return np.concatenate(costs)

    def _asked(
        self, parent: Variant, names: Sequence[str], form: Form | None, repair: str
    ) -> tuple[Course, int]:
        """The course asked for, and the first piece that changes."""
        removed, chains = dict(parent.removed), self.network.chains
        for name in names:
            for other in chains.overlapping(name) & removed.keys():
                if other not in chains.inside(name):
                    raise InputError(f"Block {name!r} went with {other!r}; it cannot go once more.")
                del removed[other]
            removed[name] = Removal(form or self.blocks[name].forms[0], repair)
        first = min(names, key=self.place.__getitem__)
        while (before := chains.before(first, removed)) is not None:
            first = before
        gone = removed.keys() | {inner for name in removed for inner in chains.inside(name)}
        return Course(removed, {n: k for n, k in parent.kept.items() if n not in gone}), self.place[first]

    def gone(self, variant: Variant) -> set[str]:
        """The blocks that cannot be removed from a variant: removed ones, and those that went with them."""
        chains = self.network.chains
        with_them = {
            other
            for name in variant.removed
            for other in chains.overlapping(name)
            if name not in chains.inside(other)
        }
        return variant.removed.keys() | with_them

    def suffices(self, name: str) -> bool:
        """Whether the fitting samples hold enough values for a map across the channels of a block's ends.

        Such a map has as many unknowns per channel as there are channels. From far fewer rows than that it says nothing
        that holds for other samples, and of a wide network it takes far longer to fit than all else.
        """
        axis = self.network.axes[name][0]
        rows = channels = 0
        for values, batch in zip(self.dense.values, self._fit_batches, strict=False):
            value = values[self.blocks[name].input]
            if axis is None or not isinstance(value, np.ndarray):
                return False
            channels = value.shape[axis]
            rows += real_rows(value, batch).size // max(channels, 1)
        return rows_suffice(rows, channels)

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
        first = min(self.place[name] for name in variant.removed)
        return self._both(self.dense, Course(dict(variant.removed), refit=kind), first)

    def quality(self, variant: Variant) -> Quality:
        """How good the variant's outputs are on the judging samples."""
        return self.judge.judge(self.gather(variant))

    def gather(self, variant: Variant) -> Values:
        """What the variant is judged by on the judging samples: its outputs that count samples, [N, ...] each."""
        batches = [
            self._judged(values, batch)
            for values, batch in zip(variant.values[self.fit_batches :], self._judge_batches, strict=True)
        ]
        return {name: np.concatenate([values[name] for values in batches]) for name in self.judged}

    def _judged(self, values: Values, batch: Batch) -> Values:
        return {name: rows(values[name], axis, batch.real) for name, axis in self.judged.items()}

    def cuts(self, variant: Variant) -> list[Cut]:
        """The cuts that make the variant out of the model, in graph order."""
        order = sorted(variant.removed, key=self.place.__getitem__)
        return [Cut(self.blocks[n], variant.removed[n].form, variant.removed[n].repair) for n in order]

    def shares_map(self, variant: Variant, name: str) -> bool:
        """Whether a removed block leaves its map to the removed neighbour behind it."""
        return self.network.chains.after(name, variant.removed)

    def refits(self, variant: Variant) -> list[Refit]:
        """The maps folded into blocks that stay, in graph order."""
        order = sorted(variant.kept, key=self.place.__getitem__)
        return [Refit(self.blocks[name], variant.kept[name].repair) for name in order]

    def _forward(
        self, start: Sequence[Values], course: Course, first: int = 0, last: int | None = None
    ) -> tuple[Values, ...]:
        """Run the pieces from `first` to `last` on batches of values; what did not change is not run again."""
        current = [dict(batch) for batch in start]
        network, removed = self.network, course.removed
        end = len(network.pieces) if last is None else last + 1
        for i in range(first, end if current else first):
            piece = network.pieces[i]
            owner = next((name for name in piece.segment.owners if name in removed), None)
            if owner is not None:
                if self.place[owner] == i:
                    self._stand_in(self.blocks[owner], current, course)
                continue
            if not course.anew and not any(
                batch[name] is not old[name]
                for batch, old in zip(current, start, strict=True)
                for name in piece.segment.inputs
            ):
                continue
            self.runs += len(current)
            stays = next((name for name in piece.segment.owners if network.chains.pieces[name] == {i}), None)
            if course.refit is not None and stays is not None:
                self._refit(i, self.blocks[stays], current, course)
            kept = course.kept.get(stays) if stays is not None else None
            # Repairs are fitted on targets inside the dense network; elsewhere only what is read on is kept.
            wanted = piece.segment.outputs if course.anew and course.fitting else network.passed_on[i]
            for batch in current:
                if kept is None:
                    batch.update(network.pace.run(i, batch, wanted))
                else:
                    feeds = {name: batch[name] for name in piece.segment.inputs}
                    batch.update(kept.session.run(feeds, wanted))
        return tuple(current)

    def _refit(self, i: int, block: Block, batches: list[Values], course: Course) -> None:
        """Fit a map on a kept block's branch and open a session of the block with the map folded in."""
        place, kind, unit = self._folds[block.name], course.refit, block.units[-1]
        made = {name for node in self.network.pieces[i].segment.nodes for name in node.output}
        if place is None or kind is None or unit.branch not in made:
            return
        inputs, targets = [], []
        for values, dense, batch in zip(batches, self.dense.values, self._fit_batches, strict=False):
            got = self.network.parts.run(block, "branch", values)
            skip = got[unit.skip] if unit.skip in got else values[unit.skip]
            inputs.append(real_rows(got[unit.branch], batch))
            targets.append(real_rows(dense[unit.merge].astype(np.float32) - skip.astype(np.float32), batch))
        if not _float(inputs[0]) or inputs[0].shape != targets[0].shape:
            return
        axis = place.axis % inputs[0].ndim
        channels = inputs[0].shape[axis]
        across = place.matrix and rows_suffice(sum(value.size for value in inputs) // channels, channels)
        repair = fit_repair(kind if across else PER_CHANNEL.get(kind, kind), inputs, targets, axis)
        if repair is None:
            return
        folded = self.network.piece_model(i, batches[0])
        fold_refits(folded, [Refit(block, repair)], folder=self._folder)
        course.kept[block.name] = Kept(repair, self.network.open(folded))

    def _stand_in(self, block: Block, batches: list[Values], course: Course) -> None:
        """Compute a removed block's outputs from its inputs on every batch, fitting its repair first if asked to."""
        unit, removal, parts = block.units[-1], course.removed[block.name], self.network.parts
        whole = len(block.units) > 1 or unit.merge_op != "Add"
        if removal.form is Form.SHORTCUT and whole:
            # Each unit loses its branch; what is left (a fused norm, say) is run as it stands, without a repair.
            for values in batches:
                values.update(parts.run_cut(block, Form.SHORTCUT, values, self._typed(block, values)))
            course.removed[block.name] = Removal(removal.form, removal.repair_kind, None)
            return
        bypass = removal.form is Form.BYPASS
        base = [values[block.input] for values in batches] if bypass else self._skip(block, batches)
        axis, target = (
            (self.network.axes[block.name][0], block.output)
            if bypass
            else (self.network.axes[block.name][1], unit.merge)
        )
        repair = None if course.fitting and removal.repair_kind != EXACT else removal.repair
        shared = self.network.chains.after(block.name, course.removed)
        fits = not shared and removal.repair_kind not in ("none", EXACT) and _float(base[0])
        if course.fitting and fits and axis is not None:
            dense = self.dense.values[: self.fit_batches]
            pairs = list(zip(base, dense, self._fit_batches, strict=True))
            repair = fit_repair(
                removal.repair_kind,
                [real_rows(value, batch) for value, _, batch in pairs],
                [real_rows(values[target], batch) for _, values, batch in pairs],
                axis,
            )
        mapped = base if repair is None else [apply_repair(repair, value) for value in base]
        course.removed[block.name] = Removal(removal.form, removal.repair_kind, repair)
        if bypass:
            if block.keep_relu:
                mapped = [np.maximum(value, 0) for value in mapped]
            elif repair is not None:
                mapped = self._clip(block, mapped, batches)
            for values, value in zip(batches, mapped, strict=True):
                sides = self.network.side_outputs(block, value, values, self._typed(block, values))
                values.update(sides | {block.output: value})
        elif unit.merge == block.output:
            for values, value in zip(batches, mapped, strict=True):
                values[block.output] = value
        else:
            for values, value in zip(batches, mapped, strict=True):
                values.update(parts.run(block, "trailing", values | {unit.merge: value}))

    def _typed(self, block: Block, values: Values) -> Values:
        """Arrays of the types that what a block gives has: those of the dense network."""
        return self.dense.values[0] if self.dense.values else values

    def _skip(self, block: Block, batches: list[Values]) -> list[NDArray[Any]]:
        unit = block.units[-1]
        if unit.skip not in self._made(block):
            return [values[unit.skip] for values in batches]
        return [self.network.parts.run(block, "skip", values)[unit.skip] for values in batches]

    def _made(self, block: Block) -> set[str]:
        """The values that a block computes."""
        pieces = (self.network.pieces[i] for i in self.network.chains.pieces[block.name])
        return {name for piece in pieces for node in piece.segment.nodes for name in node.output}

    def _clip(self, block: Block, values: list[NDArray[Any]], batches: list[Values]) -> list[NDArray[Any]]:
        """Clip a map's values as the block clipped its output, as surgery does."""
        last = self.network.splitter.nodes[self.network.splitter.producer[block.output]]
        if last.op_type == "Relu":
            return [np.maximum(value, 0) for value in values]
        if last.op_type != "Clip":
            return values
        return [
            self.network.parts.run(block, "clip", around | {last.input[0]: value})[block.output]
            for value, around in zip(values, batches, strict=True)
        ]


def real_rows(value: NDArray[Any], batch: Batch) -> NDArray[Any]:
    """A value without what belongs to samples that only fill up a batch."""
    if batch.real == batch.size or not value.ndim or len(value) % batch.size:
        return value
    return value[: len(value) // batch.size * batch.real]


def rows_suffice(rows: int, channels: int) -> bool:
    """Whether a map across channels is worth fitting on so many rows of them; of few channels it costs nothing."""
    return channels <= FEW_CHANNELS or rows >= LEAST_ROWS * channels


FEW_CHANNELS = 128
LEAST_ROWS = 0.5
"""Rows per channel below which a map across channels is not fitted."""


def _float(value: NDArray[Any]) -> bool:
    return bool(np.issubdtype(value.dtype, np.floating))


def _default_memory() -> int:
    """A share of what the machine has, not of what is free now, so that a run can be repeated."""
    machine = describe_machine()
    known = [size for size in (machine.memory_bytes, machine.memory_limit_bytes) if size is not None]
    return max(min(known) // 16, 1 << 30) if known else 1 << 30
