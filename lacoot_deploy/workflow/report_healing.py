"""What a report says of healing: what was trained, on what, what it was worth; and which plans were tried."""

from __future__ import annotations

from collections.abc import Sequence

from lacoot_deploy.manifest import CandidateRecord, HealRecord
from lacoot_deploy.numerals import metric, significant
from lacoot_deploy.workflow.report_inputs import GivenModel


def heal_records(short: GivenModel | None) -> list[HealRecord]:
    """The healings of the collapsed network, from its manifest."""
    manifest = None if short is None else short.opened.manifest
    return [] if manifest is None else list(manifest.healed)


def healing_notes(records: Sequence[HealRecord], candidates: Sequence[CandidateRecord] | None) -> list[str]:
    """A sentence or two for each healing, and one for the plans that were healed for a short time before."""
    notes = []
    for record in records:
        low, high = record.gain_ci95
        notes.append(
            f"Healed: {record.weights} weights ({metric(record.parameters)} entries) were trained on {record.samples} "
            f"samples of {record.data or 'data'}, {record.steps} steps in {significant(record.seconds)} s. "
            f"On {record.held_back} samples held back: {record.measure} {significant(record.before.score, 4)} before, "
            f"{significant(record.after.score, 4)} after (gain {significant(record.gain)}, 95 % interval "
            f"{significant(low)} to {significant(high)}); drift {significant(record.before.drift)} before, "
            f"{significant(record.after.drift)} after."
        )
    if candidates:
        tried = "; ".join(
            f"{one.name} ({len(one.blocks)} blocks: {', '.join(one.blocks)}): drift "
            f"{significant(one.before.drift)} cut, {significant(one.after.drift)} healed"
            f"{', went on' if one.chosen else ''}"
            for one in candidates
        )
        notes.append(f"Plans healed for a short time: {tried}.")
    return notes
