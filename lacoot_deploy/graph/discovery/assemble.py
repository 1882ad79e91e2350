"""From units to blocks: forms, reasons, names and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import lacoot_deploy.graph.shapes.infer as static
from lacoot_deploy.graph.discovery.candidates import Candidate, real_value
from lacoot_deploy.graph.discovery.costs import Costs, ModelCosts
from lacoot_deploy.graph.discovery.fitting import Group
from lacoot_deploy.graph.discovery.functions import blocks_in_functions
from lacoot_deploy.graph.discovery.grouping import Grouper
from lacoot_deploy.graph.discovery.labels import block_name, unit_name
from lacoot_deploy.graph.discovery.layout import settle_layout
from lacoot_deploy.graph.discovery.ownership import own_tails
from lacoot_deploy.graph.discovery.privacy import private_inputs
from lacoot_deploy.graph.discovery.ranges import Bounds, Ranges
from lacoot_deploy.graph.discovery.records import hides_activation, summed, unit_record
from lacoot_deploy.graph.discovery.refusals import spans_blocks, updates_state
from lacoot_deploy.graph.discovery.removal import dead_after, freed_constants
from lacoot_deploy.graph.discovery.units import Finder
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Block, Form, Reason, ResidualUnit, Shape
from lacoot_deploy.graph.model.index import ModelIndex, Node
from lacoot_deploy.graph.model.naming import Names, Scopes
from lacoot_deploy.graph.model.table import ShapeTable, same_shape

Granularity = Literal["block", "unit"]


def blocks_of(
    model: ModelIndex,
    *,
    shapes: Mapping[str, Shape] | None = None,
    granularity: Granularity = "block",
    private_io: bool = False,
) -> tuple[Block, ...]:
    """Blocks of every graph of a model; see `find_blocks`."""
    parts = list(_assemblers(model, shapes, private_io=private_io))
    found = [block for part in parts for block in part.blocks(granularity)]
    return (*found, *blocks_in_functions(model, parts[0].names))


@dataclass(frozen=True)
class Survey:
    """A model looked through once.

    Attributes:
        blocks: Its blocks, as far as static shapes decide.
        undecided: Main-graph values whose shapes decide about a block and are not known.
        costs: What the whole model costs.
        table: Shapes of the main graph's values.
    """

    blocks: tuple[Block, ...]
    undecided: tuple[str, ...]
    costs: ModelCosts
    table: ShapeTable


def survey_of(model: ModelIndex, *, granularity: Granularity = "block", private_io: bool = False) -> Survey:
    """Blocks, undecided values and costs from one inference of shapes."""
    parts = list(_assemblers(model, None, private_io=private_io))
    found = [block for part in parts for block in part.blocks(granularity)]
    blocks = (*found, *blocks_in_functions(model, parts[0].names))
    return Survey(blocks, tuple(parts[0].open), parts[0].costs.whole(), parts[0].table)


def undecided(model: ModelIndex) -> tuple[str, ...]:
    """Main-graph values whose shapes decide about a block and are not known.

    Args:
        model: The model, indexed.
    """
    main = next(iter(_assemblers(model, None)))
    main.blocks("block")
    main.blocks("unit")
    return tuple(main.open)


def _assemblers(
    model: ModelIndex, shapes: Mapping[str, Shape] | None, *, private_io: bool = False
) -> Iterator[_Assembler]:
    tables = static.infer(model, shapes=shapes)
    names, costs = Names(), Costs(model, tables)
    ranges: dict[tuple[str, ...], Ranges] = {}
    for graph in model.graphs:
        around = ranges[graph.parent.scope] if graph.parent else None
        ranges[graph.scope] = Ranges(graph, around)
        table = tables[graph.scope]
        finder = Finder(model, graph, table, Scopes(graph), private_io=private_io)
        yield _Assembler(finder, table, ranges[graph.scope], names, costs, bool(shapes))


class _Assembler:
    """Makes the blocks of one graph."""

    def __init__(
        self,
        finder: Finder,
        table: ShapeTable,
        ranges: Ranges,
        names: Names,
        costs: Costs,
        probed: bool,
    ) -> None:
        self._probed = probed
        self.costs = costs
        self.graph = finder.graph
        self.table = table
        self.ranges = ranges
        self.names = names
        self.scopes = finder.scopes
        self.finder = finder
        self.grouper = Grouper(self.graph, self.scopes, finder.live)
        self.open: dict[str, None] = {}

    def blocks(self, granularity: Granularity) -> list[Block]:
        candidates = self.finder.candidates()
        own_tails(self.graph, self.scopes, candidates)
        groups = self.grouper.group([unit for unit in candidates if unit.reason is None])
        merges = {group.units[-1].merge.index: group for group in groups}
        spanning = {id(group): reason for group in groups if (reason := spans_blocks(group, merges))}
        for group in groups:
            settle_layout(self.graph, self.table, group)
            reason = spanning.get(id(group)) or updates_state(self.graph, group)
            if reason is not None:
                for unit in group.units:
                    unit.reason = reason
        groups = [group for group in groups if group.units[0].reason is None]
        made = [self._block(group) for group in groups] if granularity == "block" else []
        if granularity == "unit":
            for group in groups:
                wishes = self._unit_names(group)
                parts = [self._single(unit) for unit in group.units] if len(group.units) > 1 else [group]
                made.extend(self._block(part, wish=wish) for part, wish in zip(parts, wishes, strict=True))
        refused = [self._refused(candidate) for candidate in candidates if candidate.reason is not None]
        order = {value: position for position, value in enumerate(self.graph.producer)}
        return sorted([*made, *refused], key=lambda block: order.get(block.units[-1].merge, 0))

    def _single(self, unit: Candidate) -> Group:
        group = self.grouper.single(unit)
        settle_layout(self.graph, self.table, group)
        return group

    def _unit_names(self, group: Group) -> list[str]:
        if len(group.units) == 1:
            return [block_name(group)]
        local = Names()
        local.take(block_name(group))
        return [local.take(unit_name(group, unit, self.scopes)) for unit in group.units]

    def _block(self, group: Group, *, wish: str | None = None) -> Block:
        name = self.names.take(wish or block_name(group))
        labels = self._unit_names(group)
        if len(labels) == 1:
            labels = [name]
        forms, reason, keep_relu = self._forms(group)
        dead = self._dead(group, forms[0] if forms else None)
        units = tuple(unit_record(unit, label) for unit, label in zip(group.units, labels, strict=True))
        return self._record(name, group, units, dead, forms, reason, keep_relu=keep_relu)

    def _refused(self, candidate: Candidate) -> Block:
        group = Group([candidate], candidate.scope or None, candidate.input)
        name = self.names.take(block_name(group))
        return self._record(name, group, (unit_record(candidate, name),), [], (), candidate.reason)

    def _record(
        self,
        name: str,
        group: Group,
        units: tuple[ResidualUnit, ...],
        dead: list[Node],
        forms: tuple[Form, ...],
        reason: Reason | None,
        *,
        keep_relu: bool = False,
    ) -> Block:
        private = _private(group) if forms else ()
        kept = (group.input, *(unit.skip for unit in units))
        return Block(
            name=name,
            input=group.input,
            output=group.output,
            units=units,
            forms=forms,
            shape=self.table.shape(group.input),
            output_shape=self.table.shape(group.output),
            dtype=self.table.dtype(group.input),
            nodes=tuple(dict.fromkeys(node.label for node in dead)),
            parameters=self.costs.parameters(self.graph, freed_constants(self.graph, dead)),
            macs=self.costs.macs(self.graph, dead),
            reason=reason,
            keep_relu=keep_relu,
            private_inputs=private_inputs(self.graph, dead, private, kept) if private else (),
            private_outputs=private,
            scope=self.graph.scope,
        )

    def _forms(self, group: Group) -> tuple[tuple[Form, ...], Reason | None, bool]:
        shape = self.table.shape
        same = same_shape(shape(group.input), shape(group.output))
        kinds = {self.table.dtype(group.input), self.table.dtype(group.output)} - {None}
        if len(kinds) > 1:
            same = False
        short = [same_shape(shape(unit.skip), shape(summed(unit))) for unit in group.units]
        self._note_open(group, same, short)
        if any(hides_activation(unit) for unit in group.units):
            # What is left of the node without its sum, the activation, has no node of its own.
            short = [False]
        forms: list[Form] = []
        keep_relu = False
        if same and not group.units[-1].borrowed:
            bounds = self._enforced(group)
            if bounds is not None and not self.ranges.within(group.input, bounds):
                keep_relu = bounds == (0.0, float("inf"))
                # No bypass reproduces a two-sided clip: it stays where it is and only the branch goes.
                same = keep_relu
            if same:
                forms.append(Form.BYPASS)
        if all(short):
            forms.append(Form.SHORTCUT)
        if forms:
            return tuple(forms), None, keep_relu
        pairs = [
            (unit.skip, summed(unit)) for unit, known in zip(group.units, short, strict=True) if not known
        ]
        values = tuple(dict.fromkeys((group.input, group.output, *(name for pair in pairs for name in pair))))
        if any(known is False for known in short):
            return (
                (),
                Reason("broadcast", f"The branch widens the skip operand {pairs[0][0]}.", values),
                False,
            )
        text = f"The shapes of {pairs[0][0]} and {pairs[0][1]} are not known to be equal" + (
            ", also after a probe run." if self._probed else "; a probe run decides."
        )
        return (), Reason("shape_unknown", text, values), False

    def _enforced(self, group: Group) -> Bounds | None:
        """The bounds that the end of a block enforces; None where it ends in no clipping.

        Quantisers leave out a Relu where the smallest integer stands for zero: rounding then clips as well.
        """
        tail = [node for node in group.units[-1].tail if node.op not in ops.SCALING_PAIR]
        if tail and tail[-1].op in ("Relu", "Clip"):
            return self.ranges.clip_bounds(tail[-1])
        rounded = group.units[-1].tail[-1:]
        if rounded and rounded[0].op == "DequantizeLinear" and self.ranges.of(rounded[0].output)[0] == 0:
            return (0.0, float("inf"))
        return None

    def _note_open(self, group: Group, same: bool | None, short: list[bool | None]) -> None:
        """Remember the values whose shapes a probe run has to settle."""
        if same is None:
            self.open.update(dict.fromkeys((group.input, group.output)))
        for unit, known in zip(group.units, short, strict=True):
            if known is None:
                names = (unit.skip, *unit.branches, summed(unit))
                self.open.update(dict.fromkeys(name for name in names if real_value(name)))

    def _dead(self, group: Group, form: Form | None) -> list[Node]:
        if form is Form.BYPASS:
            return dead_after(
                self.graph,
                [group.output],
                kept=[group.input],
                released=_private(group),
                idle=self.finder.idle,
            )
        if form is Form.SHORTCUT:
            # The merge goes too, and its readers read the skip operand instead: only the branch loses a reader.
            kept = [unit.skip for unit in group.units]
            adds = [(add, unit) for unit in group.units for add in (unit.merge, *unit.sums)]
            dropped = [(add, name) for add, unit in adds for name in unit.branches]
            dead = dead_after(
                self.graph,
                [],
                kept=kept,
                dropped=dropped,
                released=_private(group),
                idle=self.finder.idle,
            )
            merges = [add for add, _ in adds if not add.fused]
            return sorted(
                {node.index: node for node in (*dead, *merges)}.values(), key=lambda node: node.index
            )
        return []


def _private(group: Group) -> tuple[str, ...]:
    """The model's results that go with a block."""
    return tuple(dict.fromkeys(name for unit in group.units for name in unit.private))
