"""The manifest: the versioned record that travels inside an ONNX file.

It lives in the model-level metadata under `lacoot.manifest`, the only place that other ONNX tools keep.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from lacoot_deploy.errors import InputError
from lacoot_deploy.manifest.conversion import ConversionRecord
from lacoot_deploy.manifest.healing import HealRecord
from lacoot_deploy.manifest.plan import CollapseRecord, Plan, TaskRecord
from lacoot_deploy.manifest.records import SCHEMA_VERSION, Record, check_version, parse_record, to_json

if TYPE_CHECKING:
    import onnx

MANIFEST_KEY = "lacoot.manifest"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class DistanceRecord(Record):
    """One measured distance of one block.

    Attributes:
        value: The distance, in the units of the activations (`mswd`) or relative (`paired`, `cosine`).
        floor: What two independent samples of the block's input distribution of that size show.
        estimator: `sampled` or `ascent` for `mswd`; None for the paired measures.
        p: Order of the Wasserstein distance.
        projections: Number of directions.
        seed: Seed of the directions and of the sample choice.
        samples: Number of samples that the distance was measured on.
        split: The split of the data they came from.
    """

    value: float
    floor: float | None = None
    estimator: str | None = None
    p: float | None = None
    projections: int | None = None
    seed: int | None = None
    samples: int | None = None
    split: str | None = None


class StatisticsRecord(Record):
    """What a value looked like over all samples and positions.

    Attributes:
        mean: Mean of its entries.
        std: Standard deviation of its entries.
        minimum: Smallest entry.
        maximum: Largest entry.
        zeros: Share of entries that are exactly zero, 0..1.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    zeros: float


class LatencyRecord(Record):
    """What a block takes of a run.

    Attributes:
        ms: Milliseconds, the median over runs.
        share: Part of the whole run, 0..1.
        batch: Samples per run.
        shapes: Shape of each input of the model that was run.
        provider: Execution provider.
        cpu: The processor that it was measured on, or that drove the device.
    """

    ms: float
    share: float
    batch: int
    shapes: dict[str, list[int]] = Field(default_factory=dict)
    provider: str
    cpu: str


class BlockRecord(Record):
    """A block as it was when it was recorded: where it lies and how far its output is from its input.

    Attributes:
        name: Name of the block.
        input: Its input value.
        output: Its output value.
        shape: Shape of the input value as far as known.
        units: Names of its residual units.
        distances: Measured distances by name.
        statistics: Activation statistics of its `input` and `output`.
        latency: What it takes of a run.
    """

    name: str
    input: str
    output: str
    shape: list[int | str | None] | None = None
    units: list[str] = Field(default_factory=list)
    distances: dict[str, DistanceRecord] = Field(default_factory=dict)
    statistics: dict[str, StatisticsRecord] = Field(default_factory=dict)
    latency: LatencyRecord | None = None

    @field_validator("distances")
    @classmethod
    def _one_name(cls, distances: dict[str, DistanceRecord]) -> dict[str, DistanceRecord]:
        """The first files called `mswd-ascent` by another name than the criterion that reads it."""
        return {"mswd-ascent" if name == "mswd_ascent" else name: d for name, d in distances.items()}


class RoundRecord(Record):
    """One round of a training method that makes activations linear: what changed, and what it was worth afterwards.

    Attributes:
        round: Counted from 0, which trains the dense network.
        removed: Paths of the activations that became linear in it.
        scores: What the criterion gave every candidate before the change.
        details: What else the method notes, such as shares of pruned weights or slopes.
        epochs: Epochs of training after the change.
        val_accuracy: On validation images after them, in percent.
        drop: Points under the dense network's.
        accepted: Whether it stayed within the limit, so that its network was kept.
    """

    round: int
    removed: list[str] = Field(default_factory=list)
    scores: dict[str, float] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    epochs: int = 0
    val_accuracy: float | None = None
    drop: float | None = None
    accepted: bool = False


class SourceRecord(Record):
    """Where the model came from: architecture, checkpoint, data, the training recipe and its rounds.

    Attributes:
        model: Name of the architecture.
        checkpoint_sha256: Hash of the checkpoint.
        dataset: The data it was trained on.
        recipe: Every setting of the training.
        rounds: Of a method that makes activations linear, what every round did; the rejected ones too.
        stopped: Why no further round followed.
    """

    model: str | None = None
    checkpoint_sha256: str | None = None
    dataset: str | None = None
    recipe: dict[str, Any] | None = None
    rounds: list[RoundRecord] = Field(default_factory=list)
    stopped: str | None = None


class PreprocessingRecord(Record):
    """How an 8-bit image becomes an input: x = (image / 255 - mean) / std, per channel.

    Attributes:
        mean: Per channel, on the 0..1 scale.
        std: Per channel, on the 0..1 scale.
        size: Height and width in pixels.
        channels: Number of colour channels.
    """

    mean: list[float]
    std: list[float]
    size: tuple[int, int]
    channels: int = 3


class Manifest(Record):
    """Everything lacoot-deploy knows about a model, kept in the ONNX file itself."""

    schema_version: int = SCHEMA_VERSION
    producer: str | None = None
    source: SourceRecord | None = None
    preprocessing: PreprocessingRecord | None = None
    task: TaskRecord | None = None
    blocks: list[BlockRecord] = Field(default_factory=list)
    plan: Plan | None = None
    history: list[CollapseRecord] = Field(default_factory=list)
    healed: list[HealRecord] = Field(default_factory=list)
    conversions: list[ConversionRecord] = Field(default_factory=list)

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        return check_version(version, "manifest")

    def block(self, name: str) -> BlockRecord | None:
        """The record of the named block, or None."""
        return next((b for b in self.blocks if b.name == name), None)


def read_manifest(model: onnx.ModelProto, *, path: str | Path = "the model") -> Manifest | None:
    """Read the manifest of a model; None where it has none.

    Args:
        model: The ONNX model.
        path: What error messages call it.

    Raises:
        InputError: The manifest is not JSON, of the wrong structure, too large or of a newer version.
    """
    texts = [entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    if not texts:
        return None
    return parse_manifest(texts[-1], path=path)


def parse_manifest(text: str, *, path: str | Path = "the model") -> Manifest:
    """Parse a manifest's JSON text.

    Args:
        text: The JSON.
        path: What error messages call the model.

    Raises:
        InputError: As for `read_manifest`.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"The manifest in {path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is not ours."
        )
    return parse_record(Manifest, text, f"The manifest in {path}")


def write_manifest(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Put the manifest into a model, in place of the one it had; every other metadata entry stays.

    Args:
        model: The model; it is changed.
        manifest: What it is to carry.
    """
    kept = [entry for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    text = to_json(manifest)
    if kept:
        kept[-1].value = text
    else:
        model.metadata_props.add(key=MANIFEST_KEY, value=text)
