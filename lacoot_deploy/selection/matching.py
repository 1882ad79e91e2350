"""Finds the blocks of a plan or a manifest again in a model, also after another tool renamed its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.cuts import Cut, Refit, Repair
from lacoot_deploy.manifest import (
    ArrayRecord,
    BlockRecord,
    Plan,
    PlanStep,
    RefitRecord,
    RepairRecord,
    StepEvidence,
)


@dataclass(frozen=True)
class Match:
    """Which block of the model a recorded name stands for.

    Attributes:
        blocks: Block by recorded name.
        notes: One sentence for every record that was found by anything but its name.
    """

    blocks: dict[str, Block]
    notes: tuple[str, ...]


def match_records(records: Sequence[BlockRecord], blocks: Sequence[Block]) -> Match:
    """Find each recorded block: by name, else by its values, else by its place among blocks of its kind.

    The last is used only where records and unmatched blocks of one shape are equally many, so that the order decides.
    A record that is not found is left out.
    """
    by_name = {block.name: block for block in blocks}
    by_values = {(block.input, block.output): block for block in blocks}
    found: dict[str, Block] = {}
    notes: list[str] = []
    for record in records:
        block = by_name.get(record.name)
        if block is None:
            block = by_values.get((record.input, record.output))
            if block is not None:
                notes.append(f"{record.name} is called {block.name} in this file (same values).")
        if block is not None:
            found[record.name] = block
    taken = {block.name for block in found.values()}
    left = [record for record in records if record.name not in found]
    free = [block for block in blocks if block.name not in taken]
    for kind in dict.fromkeys(_record_kind(record) for record in left):
        same_records = [record for record in left if _record_kind(record) == kind]
        same_blocks = [block for block in free if _block_kind(block) == kind]
        if len(same_records) == len(same_blocks):
            for record, block in zip(same_records, same_blocks, strict=True):
                found[record.name] = block
                notes.append(f"{record.name} is called {block.name} in this file (same structure and place).")
    return Match(found, tuple(notes))


def _record_kind(record: BlockRecord) -> tuple[object, ...]:
    return (_numbers(record.shape), len(record.units) or 1)


def _block_kind(block: Block) -> tuple[object, ...]:
    return (_numbers(block.shape), len(block.units))


def _numbers(shape: Sequence[int | str | None] | None) -> tuple[int | None, ...] | None:
    """A shape with its free dimensions made alike: other tools rename or fix them."""
    if shape is None:
        return None
    return (None, *(d if isinstance(d, int) else None for d in shape[1:]))


def find_block(name: str, blocks: Sequence[Block]) -> Block:
    """The block of that name.

    Raises:
        UsageError: There is none; the message suggests the nearest names.
    """
    for block in blocks:
        if block.name == name:
            return block
    import difflib

    names = [block.name for block in blocks if block.collapsible]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    hint = f"Did you mean {', '.join(near)}?" if near else "It has none that can go."
    raise UsageError(f"The model has no block {name!r}. {hint}")


def named_blocks(wishes: Sequence[str], blocks: Sequence[Block]) -> list[Block]:
    """The blocks that a user names: one by one, by a pattern (`layer3.*`), or a range in the network's order (`a-b`).

    Patterns and ranges take the blocks that can go.

    Raises:
        UsageError: A name, a pattern or a range fits no block.
    """
    found: dict[str, Block] = {}
    for wish in wishes:
        for block in _named(wish, blocks):
            found.setdefault(block.name, block)
    return list(found.values())


def _named(wish: str, blocks: Sequence[Block]) -> list[Block]:
    names = [block.name for block in blocks]
    if wish in names:
        return [find_block(wish, blocks)]
    able = [block for block in blocks if block.collapsible]
    if any(sign in wish for sign in "*?["):
        fits = [block for block in able if fnmatchcase(block.name, wish)]
        if not fits:
            raise UsageError(f"No block that can go fits the pattern {wish!r}.")
        return fits
    for place in (at for at, sign in enumerate(wish) if sign == "-"):
        first, last = wish[:place], wish[place + 1 :]
        if first in names and last in names:
            span = names[names.index(first) : names.index(last) + 1]
            if not span:
                raise UsageError(f"In the network's order {last!r} comes before {first!r}.")
            return [block for block in able if block.name in span]
    return [find_block(wish, blocks)]


def reason_counts(blocks: Sequence[Block]) -> str:
    """Why blocks cannot go, as counts of the reasons in brackets; "" where there are none."""
    counts = Counter(block.reason.code for block in blocks if block.reason is not None)
    told = ", ".join(f"{count} {code}" for code, count in counts.most_common())
    return f" ({told}; see `inspect`)" if told else ""


def choose_form(block: Block, form: str) -> Form:
    """The form in which a block goes: the best that it has for `auto`, else the one asked for.

    Raises:
        UsageError: The block cannot go, or not in that form.
    """
    if not block.collapsible:
        why = block.reason.text if block.reason is not None else "no form is possible"
        raise UsageError(f"The block {block.name!r} cannot go: {why}")
    if form == "auto":
        return block.forms[0]
    wanted = Form(form)
    if wanted not in block.forms:
        possible = ", ".join(f.value for f in block.forms)
        raise UsageError(f"The block {block.name!r} cannot go as {form}; possible: {possible}.")
    return wanted


def resolve_plan(
    plan: Plan, blocks: Sequence[Block], records: Sequence[BlockRecord] = ()
) -> tuple[list[Cut], list[str]]:
    """The cuts that a plan stands for in this model, with a note for each block that was found by structure.

    Args:
        plan: The plan.
        blocks: The blocks of the model, from discovery.
        records: The block records of the model's manifest, which let structure be compared.

    Raises:
        InputError: A block of the plan is not in the model, or cannot go in that form here.
    """
    match = _match_steps(plan, blocks, records)
    used: set[str] = set()
    cuts: list[Cut] = []
    for step in plan.steps:
        block = match.blocks.get(step.block)
        if block is None:
            raise InputError(
                f"The plan removes {step.block!r}, which this model does not have (collapsed already?)."
            )
        if Form(step.form) not in block.forms:
            why = block.reason.text if block.reason is not None else f"it cannot go as {step.form}"
            raise InputError(f"The plan removes {step.block!r}, but in this model it cannot go: {why}")
        if block.name in used:
            raise InputError(f"The plan removes {step.block!r} twice.")
        used.add(block.name)
        cuts.append(Cut(block=block, form=Form(step.form), repair=_repair(step.block, step.repair)))
    names = {entry.block for entry in _entries(plan)}
    return cuts, [note for note in match.notes if note.split(" ", 1)[0] in names]


def resolve_refits(plan: Plan, blocks: Sequence[Block], records: Sequence[BlockRecord] = ()) -> list[Refit]:
    """The blocks that a plan refits, and their maps; arguments as for `resolve_plan`.

    Raises:
        InputError: A block is not in the model, or the plan removes it as well.
    """
    match = _match_steps(plan, blocks, records)
    used = {match.blocks[step.block].name for step in plan.steps if step.block in match.blocks}
    refits: list[Refit] = []
    for record in plan.refits:
        block, repair = match.blocks.get(record.block), _repair(record.block, record.repair)
        if block is None or repair is None:
            raise InputError(f"The plan refits {record.block!r}, which this model does not have.")
        if block.name in used:
            raise InputError(f"The plan refits {record.block!r} twice, or removes it as well.")
        used.add(block.name)
        refits.append(Refit(block, repair))
    return refits


def _entries(plan: Plan) -> list[PlanStep | RefitRecord]:
    return [*plan.steps, *plan.refits]


def _match_steps(plan: Plan, blocks: Sequence[Block], records: Sequence[BlockRecord]) -> Match:
    known = {record.name for record in records}
    extra = [
        BlockRecord(name=entry.block, input=entry.input, output=entry.output)
        for entry in _entries(plan)
        if entry.block not in known
    ]
    return match_records([*records, *extra], blocks)


def _repair(name: str, record: RepairRecord | None) -> Repair | None:
    if record is None:
        return None
    if record.kind == "affine":
        if record.scale is None:
            raise InputError(f"The affine map of {name!r} in the plan has no scale.")
        return Repair(axis=record.axis, scale=record.scale.unpack(), shift=record.shift.unpack())
    if record.matrix is None:
        raise InputError(f"The linear map of {name!r} in the plan has no matrix.")
    return Repair(axis=record.axis, matrix=record.matrix.unpack(), shift=record.shift.unpack())


def repair_record(repair: Repair) -> RepairRecord:
    """The record of a map for a plan."""
    return RepairRecord(
        kind="affine" if repair.matrix is None else "linear",
        axis=repair.axis,
        scale=None if repair.scale is None else ArrayRecord.pack(repair.scale),
        matrix=None if repair.matrix is None else ArrayRecord.pack(repair.matrix),
        shift=ArrayRecord.pack(repair.shift),
    )


def plan_steps(cuts: Sequence[Cut], evidence: Sequence[StepEvidence] = ()) -> list[PlanStep]:
    """Plan steps for cuts, with the evidence of each where given."""
    notes = list(evidence) or [StepEvidence() for _ in cuts]
    return [
        PlanStep(
            block=cut.block.name,
            input=cut.block.input,
            output=cut.block.output,
            form="bypass" if cut.form is Form.BYPASS else "shortcut",
            repair=None if cut.repair is None else repair_record(cut.repair),
            evidence=note,
        )
        for cut, note in zip(cuts, notes, strict=True)
    ]


def refit_records(refits: Sequence[Refit]) -> list[RefitRecord]:
    """Records of refitted blocks for a plan."""
    return [
        RefitRecord(
            block=refit.block.name,
            input=refit.block.input,
            output=refit.block.output,
            repair=repair_record(refit.repair),
        )
        for refit in refits
    ]
