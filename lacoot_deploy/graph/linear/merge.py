"""The merging pass: linear operators in a row become one, where that is exact and pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import onnx

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.linear.operators import Connected, Convolution, Identity, Operator, read_operator
from lacoot_deploy.graph.linear.pairs import Fusion, fuse
from lacoot_deploy.graph.linear.parts import pair_model
from lacoot_deploy.graph.linear.records import Code, MergeRecord, Refusal, Work, reason
from lacoot_deploy.graph.linear.transit import Way, way_to_features
from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.graph.model.tolerant import invalid_is_refused
from lacoot_deploy.graph.model.walk import describe, has_bodies
from lacoot_deploy.graph.surgery.carry import FREE_INITIALIZERS_SINCE_IR

Mode = Literal["always", "cheaper", "never"]
MODES = ("always", "cheaper", "never")

SLOPE_TOLERANCE = 0.05
"""How far from 1 a slope may be to be dropped where inexact merges are allowed (LayerCollapse's threshold)."""

Pays = Callable[[MergeRecord, onnx.ModelProto], bool]
"""Decides whether a merge pays, from its record and a model of the two operators alone."""


@dataclass(frozen=True)
class MergeResult:
    """What merging made of a model.

    Attributes:
        model: The merged model; with nothing merged it equals the one given.
        merges: Every merge, in the order in which it was done.
        refused: Linear operators in a row that stay two, with the reason, in graph order.
    """

    model: onnx.ModelProto
    merges: list[MergeRecord] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def merge_linear(
    model: onnx.ModelProto,
    mode: Mode = "cheaper",
    *,
    allow_inexact: bool = False,
    pays: Pays | None = None,
    folder: Path | None = None,
) -> MergeResult:
    """Merge linear operators of the main graph that follow one another, until nothing is left to merge.

    Convolutions into convolutions, fully connected layers into fully connected layers, 1x1 convolutions through
    averages and flattening into fully connected layers, batch normalisation and arithmetic with one constant per
    channel into either, before or behind. Nodes that give what they read (Identity, Dropout, slopes of 1) go. The
    public signature never changes, and a value that anything else reads stays.

    A map per channel that goes into its neighbour always pays. Two operators with weights may be dearer as one (two 3x3
    convolutions of C channels hold 18 C^2 weights, as one 5x5 25 C^2): see `mode`.

    Args:
        model: The model; it is not touched, and its external data need not be loaded.
        mode: `cheaper` merges two operators with weights where multiply-adds and parameters together become fewer,
            `always` wherever it is possible, `never` nothing at all.
        allow_inexact: Merge also where the result differs by more than rounding (at padded borders, slopes within
            `SLOPE_TOLERANCE` of 1); the record of such a merge carries the error that was measured.
        pays: Decides about two operators with weights in place of the count, with `cheaper`.
        folder: Where the model's external data lies, if it has any.

    Raises:
        InputError: The model is not valid.
        UsageError: There is no such mode.
    """
    if mode not in MODES:
        raise UsageError(f"There is no merge mode {mode!r}; use one of {', '.join(MODES)}.")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if mode == "never":
        return MergeResult(result)
    if model.ir_version < FREE_INITIALIZERS_SINCE_IR:
        text = "Before IR version 4 every weight is an input that a caller may override; convert the model first."
        return MergeResult(result, refused=[Refusal("", "", "", reason(Code.OLD_MODEL, text))])
    with invalid_is_refused(model):
        merger = _Merger(Editor(result, folder), mode, allow_inexact, pays)
        merger.run()
        merger.editor.finish()
    return MergeResult(result, merger.merges, merger.refused)


@dataclass(frozen=True)
class _Candidate:
    """Two operators with weights that may become one."""

    record: MergeRecord
    fusion: Fusion
    first: Operator
    second: Operator

    @property
    def saving(self) -> int:
        before, after = self.fusion.before, self.fusion.after
        return 0 if before is None or after is None else before.total - after.total

    @property
    def size(self) -> int:
        return 0 if self.fusion.after is None else self.fusion.after.parameters

    def nodes(self) -> set[int]:
        return {id(node) for operator in (self.first, self.second) for node in operator.nodes}


class _Merger:
    """Merges in one editor; see `merge_linear`."""

    def __init__(self, editor: Editor, mode: Mode, allow_inexact: bool, pays: Pays | None) -> None:
        self.editor = editor
        self.merges: list[MergeRecord] = []
        self.refused: list[Refusal] = []
        self._mode, self._allow_inexact, self._pays = mode, allow_inexact, pays
        self._tolerance = SLOPE_TOLERANCE if allow_inexact else 0.0
        self._decided: dict[tuple[str, Work, Work], bool] = {}
        self._overflows: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Fold what costs nothing, then merge the pairs that save most, and look again until nothing changes."""
        changed = True
        while changed:
            self.refused, waiting, parts = [], list[_Candidate](), set[int]()
            changed = False
            for node in list(self.editor.nodes):
                while self.editor.alive(node) and id(node) not in parts and self._look(node, waiting, parts):
                    changed = True
            if not changed:
                changed = self._merge_largest(waiting)

    def _look(self, node: onnx.NodeProto, waiting: list[_Candidate], parts: set[int]) -> bool:
        """Whether the operator that a node begins could be folded; a dearer merge is noted for later."""
        first = read_operator(self.editor, node, slope_tolerance=self._tolerance)
        if first is None:
            return False
        parts.update(id(part) for part in first.nodes[1:])
        if isinstance(first, Identity):
            return self._drop(first)
        found = self._reader(first)
        if found is None:
            return False
        second, way = found
        fusion = fuse(self.editor, first, second, way)
        if fusion is None:
            return False
        if isinstance(fusion, Reason):
            self._refuse(first, second, fusion)
            return False
        if fusion.inexact is not None and not self._allow_inexact:
            self._refuse(first, second, fusion.inexact)
            return False
        candidate = _Candidate(_record(first, second, fusion), fusion, first, second)
        if fusion.before is not None:
            waiting.append(candidate)
            return False
        return self._do(candidate)

    def _reader(self, first: Operator) -> tuple[Operator, Way | None] | None:
        """The linear operator that alone reads another one's result, with what stands between them."""
        value = first.output
        sole = self.editor.sole_reader(value)
        if sole is None:
            self._note_other_readers(first)
            return None
        second = read_operator(self.editor, sole)
        if second is not None and not isinstance(second, Identity):
            return (second, None) if second.input == value else None
        if isinstance(first, Connected):
            return None
        way = way_to_features(self.editor, value)
        last = None if way is None else self.editor.sole_reader(way.value)
        second = None if last is None else read_operator(self.editor, last)
        if way is None or not isinstance(second, Connected) or second.input != way.value:
            return None
        return second, way

    def _note_other_readers(self, first: Operator) -> None:
        """Say so where a merge fails on other readers alone; for operators with weights only, the rest is legion."""
        if not isinstance(first, (Connected, Convolution)):
            return
        value, readers = first.output, self.editor.readers(first.output)
        for node in readers:
            second = read_operator(self.editor, node)
            if second is None or isinstance(second, Identity) or second.input != value:
                continue
            if value in self.editor.outputs:
                why = reason(Code.GRAPH_OUTPUT, f"{value} is an output of the model.", value)
            else:
                count = len(readers)
                why = reason(Code.OTHER_READERS, f"{count} nodes read {value}.", value)
            self._refuse(first, second, why)
            return

    def _refuse(self, first: Operator, second: Operator, why: Reason) -> None:
        self.refused.append(Refusal(describe(first.nodes[0]), describe(second.nodes[0]), first.output, why))

    def _merge_largest(self, waiting: list[_Candidate]) -> bool:
        """Merge pairs, the largest saving first, as long as no operator is in two of them."""
        touched: set[int] = set()
        # Of two that save the same, the smaller product is the quicker to work out.
        for candidate in sorted(waiting, key=lambda entry: (-entry.saving, entry.size)):
            if candidate.nodes() & touched or not self._is_worth_it(candidate):
                continue
            if self._do(candidate):
                touched |= candidate.nodes()
        return bool(touched)

    def _is_worth_it(self, candidate: _Candidate) -> bool:
        record = candidate.record
        before, after = candidate.fusion.before, candidate.fusion.after
        if self._mode == "always" or before is None or after is None:
            return True
        if self._pays is None:
            if after.total < before.total:
                return True
            each = "" if candidate.fusion.counted else " per output position"
            text = (
                f"As one they take {after.macs:,} multiply-adds{each} and {after.parameters:,} parameters, "
                f"as two {before.macs:,} and {before.parameters:,}."
            )
            self._refuse(candidate.first, candidate.second, reason(Code.NOT_CHEAPER, text))
            return False
        key = (record.value, before, after)
        if key not in self._decided:
            pair = pair_model(self.editor, candidate.first, candidate.second)
            self._decided[key] = self._pays(record, pair)
        if not self._decided[key]:
            text = "Measured on this machine, the merged operator is not faster than the two."
            self._refuse(candidate.first, candidate.second, reason(Code.NOT_FASTER, text))
        return self._decided[key]

    def _do(self, candidate: _Candidate) -> bool:
        record, fusion = candidate.record, candidate.fusion
        names = (record.first, record.second)
        if names not in self._overflows:
            if fusion.inexact is not None and fusion.error is not None:
                record = replace(record, error=fusion.error())
            kept = fusion.apply()
            if kept is not None:
                self.merges.append(replace(record, kept=describe(kept)))
                return True
            self._overflows.add(names)
        text = "The merged weights leave the range of the type that they are stored in."
        self._refuse(candidate.first, candidate.second, reason(Code.RANGE, text))
        return False

    def _drop(self, identity: Identity) -> bool:
        """Take out a node that gives what it reads; False where its result must keep its name."""
        editor, node = self.editor, identity.nodes[0]
        readers = editor.readers(identity.output)
        why = None
        if identity.deviation:
            text = f"The slope differs from 1 by up to {identity.deviation:.3g} and was taken as 1."
            why = reason(Code.SLOPE, text, identity.input)
        direct = all(identity.output in reader.input and not has_bodies(reader) for reader in readers)
        maker = editor.producers.get(identity.input)
        if identity.output not in editor.outputs and direct:
            for reader in list(readers):
                editor.read_instead(reader, identity.output, identity.input)
            editor.remove(node)
        elif maker is not None and editor.sole_reader(identity.input) is node:
            editor.remove(node)
            editor.give_instead(maker, identity.output)
        else:
            return False
        label = describe(node)
        self.merges.append(
            MergeRecord(
                label,
                "",
                "",
                identity.output,
                ("identity", ""),
                error=identity.deviation,
                reason=why,
            )
        )
        return True


def _record(first: Operator, second: Operator, fusion: Fusion) -> MergeRecord:
    return MergeRecord(
        first=describe(first.nodes[0]),
        second=describe(second.nodes[0]),
        kept="",
        value=first.output,
        kinds=(first.kind, second.kind),
        before=fusion.before if fusion.counted else None,
        after=fusion.after if fusion.counted else None,
        reason=fusion.inexact,
    )
