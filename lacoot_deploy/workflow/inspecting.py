"""`inspect`: the blocks of any ONNX file, with what each costs and why one cannot go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.manifest import DistanceRecord, Manifest, read_manifest
from lacoot_deploy.selection.options import Granularity

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.graph.discovery import Survey
    from lacoot_deploy.graph.discovery.costs import ModelCosts


class ReasonEntry(BaseModel):
    """Why a block cannot go."""

    code: str
    text: str
    values: list[str]


class BlockEntry(BaseModel):
    """One block of `inspect --json`; see `graph.blocks.Block` for the fields."""

    name: str
    input: str
    output: str
    units: list[str]
    forms: list[str]
    shape: list[int | str | None] | None
    dtype: str | None
    nodes: list[str]
    parameters: int
    macs: int | None
    collapsible: bool
    reason: ReasonEntry | None
    distance: dict[str, DistanceRecord] | None


class ModelEntry(BaseModel):
    """The model of `inspect --json`."""

    path: str
    nodes: int
    parameters: int
    macs: int | None
    opset: int


class InspectResult(BaseModel):
    """What `inspect --json` prints."""

    schema_version: int = 1
    model: ModelEntry
    blocks: list[BlockEntry]
    notes: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Opened:
    """A model with its manifest and its blocks.

    Attributes:
        model: The model, external data not loaded.
        path: Its file.
        manifest: Its manifest; None where it has none.
        blocks: Its blocks.
        costs: What it costs as a whole.
        notes: How things were settled that the file alone does not say.
        survey: What the file alone says; None where it was not looked at as a whole.
    """

    model: onnx.ModelProto
    path: Path
    manifest: Manifest | None
    blocks: tuple[Block, ...]
    costs: ModelCosts
    notes: tuple[str, ...] = ()
    survey: Survey | None = None

    @property
    def able(self) -> list[Block]:
        """The blocks that can go and that can be measured: those of the main graph."""
        return [block for block in self.blocks if block.collapsible and not block.scope]


def open_model(
    path: str | Path,
    *,
    probe: bool = True,
    granularity: Granularity = "block",
    private_io: bool = False,
) -> Opened:
    """Load a model and find its blocks.

    Args:
        path: An ONNX file.
        probe: Where shapes around a merge stay unknown statically, settle them by one run in ONNX Runtime on
            generated input.
        granularity: Whole blocks, or every residual unit as a block of its own.
        private_io: Whether inputs and outputs of the model that belong to a block alone may go with it.

    Raises:
        InputError: The file is missing, malformed or unsupported, or its manifest cannot be used.
    """
    from lacoot_deploy.graph.discovery import find_blocks, survey
    from lacoot_deploy.graph.model.io import model_file
    from lacoot_deploy.graph.model.training_mode import training_note
    from lacoot_deploy.runtime.reading import read_model

    path = model_file(path)
    model = read_model(path)
    manifest = read_manifest(model, path=path)
    notes: tuple[str, ...] = ()
    found = survey(model, granularity=granularity, private_io=private_io)
    blocks, undecided = found.blocks, found.undecided
    if undecided and probe:
        from lacoot_deploy.errors import LacootError
        from lacoot_deploy.runtime.probe_apart import probe_file

        try:
            shapes = probe_file(path, undecided)
            blocks = find_blocks(model, shapes=shapes, granularity=granularity, private_io=private_io)
            notes = (f"The shapes of {len(undecided)} values were settled by a probe run in ONNX Runtime.",)
        except LacootError as error:
            notes = (f"{len(undecided)} shapes stay unknown, because the probe run failed: {error}",)
    training = training_note(model)
    if training is not None:
        notes = (*notes, training)
    return Opened(model, path, manifest, blocks, found.costs, notes, found)


def inspect(path: str | Path, *, probe: bool = True, granularity: Granularity = "block") -> InspectResult:
    """The blocks of an ONNX file: structure, cost, recorded distance, and for each whether it can go.

    Args:
        path: An ONNX file.
        probe: See `open_model`.
        granularity: Whole blocks, or every residual unit as a block of its own.

    Raises:
        InputError: The file is missing, malformed or unsupported.
    """
    opened = open_model(path, probe=probe, granularity=granularity)
    recorded, notes = recorded_distances(opened.manifest, opened.blocks)
    return InspectResult(
        model=model_entry(path, opened.costs),
        blocks=[_entry(block, recorded.get(block.name)) for block in opened.blocks],
        notes=[*opened.notes, *notes, *conversion_notes(opened.manifest)],
    )


def conversion_notes(manifest: Manifest | None) -> list[str]:
    """A sentence for each conversion that a manifest records."""
    return [
        f"Converted: {record.conversion}"
        + (f" for {record.target}" if record.target else "")
        + (f", {len(record.kept_float)} kept in float32" if record.kept_float else "")
        + "."
        for record in (manifest.conversions if manifest is not None else [])
    ]


def model_entry(path: str | Path, costs: ModelCosts) -> ModelEntry:
    """Size and cost of a model under the name of its file."""
    return ModelEntry(
        path=str(path), nodes=costs.nodes, parameters=costs.parameters, macs=costs.macs, opset=costs.opset
    )


def recorded_distances(
    manifest: Manifest | None, blocks: Sequence[Block]
) -> tuple[dict[str, dict[str, DistanceRecord]], tuple[str, ...]]:
    """The manifest's distances by the name that each block has in this file, with notes on re-matched names."""
    from lacoot_deploy.selection.matching import match_records

    if manifest is None:
        return {}, ()
    match = match_records(manifest.blocks, blocks)
    found = {
        match.blocks[record.name].name: record.distances
        for record in manifest.blocks
        if record.name in match.blocks and record.distances
    }
    return found, match.notes


def _entry(block: Block, distances: dict[str, DistanceRecord] | None) -> BlockEntry:
    given = {name: getattr(block, name, None) for name in BlockEntry.model_fields} | {
        "units": [unit.name for unit in block.units],
        "forms": [form.value for form in block.forms],
        "distance": distances,
    }
    return BlockEntry.model_validate(given, from_attributes=True)
