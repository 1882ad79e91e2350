"""The manifest: the versioned record that travels inside an ONNX file, and the plan that `collapse` applies.

It lives in the model-level metadata under `lacoot.manifest`, the only place that other ONNX tools keep.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lacoot_deploy.errors import InputError
from lacoot_deploy.jsontext import parse_json

if TYPE_CHECKING:
    import onnx

MANIFEST_KEY = "lacoot.manifest"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class Record(BaseModel):
    """Base of all records: unknown fields are kept, so that an older tool does not lose a newer one's notes."""

    # Built when first used: most files hold no manifest, and building takes a tenth of a start.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null", defer_build=True)


_R = TypeVar("_R", bound=Record)


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
        provider: Execution provider.
        cpu: The processor that it was measured on, or that drove the device.
    """

    ms: float
    share: float
    batch: int
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


class ArrayRecord(Record):
    """A float32 array as base64 of its little-endian bytes, so that a replayed plan gives the same bytes."""

    shape: list[int]
    data: str

    @classmethod
    def pack(cls, array: NDArray[Any]) -> ArrayRecord:
        """Pack an array of any float type and shape."""
        values = np.ascontiguousarray(array, dtype="<f4")
        return cls(shape=list(values.shape), data=base64.b64encode(values.tobytes()).decode("ascii"))

    def unpack(self) -> NDArray[np.float32]:
        """Give the array back.

        Raises:
            InputError: The data is no base64 or does not fill the shape.
        """
        try:
            raw = base64.b64decode(self.data, validate=True)
            if any(n < 0 for n in self.shape):
                raise ValueError("negative size")
            return np.frombuffer(raw, dtype="<f4").reshape(self.shape).astype(np.float32)
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"A repair in the plan holds a damaged array ({error}); make the plan anew."
            ) from None


class RepairRecord(Record):
    """The transport map put where the block was: T(x) = scale * x + shift, or matrix @ x + shift, over channels.

    Attributes:
        kind: `affine` (scale and shift, each of shape [C]) or `linear` (matrix [C, C] and shift [C]).
        axis: The channel axis of the value, counted from 0.
    """

    kind: Literal["affine", "linear"]
    axis: int
    scale: ArrayRecord | None = None
    matrix: ArrayRecord | None = None
    shift: ArrayRecord


class PlanStep(Record):
    """One block that goes: where it lies, in which form, with which repair, and the evidence.

    Attributes:
        block: Name of the block.
        input: Its input value in the model that the plan was made for.
        output: Its output value there.
        form: `bypass` or `shortcut`.
        repair: The map put in its place; None for none.
        evidence: Measurements behind the choice: the criterion's score, accuracy after this step, and the like.
    """

    block: str
    input: str
    output: str
    form: Literal["bypass", "shortcut"]
    repair: RepairRecord | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class RefitRecord(Record):
    """A block that stays, and the map over channels folded into the last linear operator of its branch.

    Attributes:
        block: Name of the block.
        input: Its input value in the model that the plan was made for.
        output: Its output value there.
        repair: The map.
    """

    block: str
    input: str
    output: str
    repair: RepairRecord


class Plan(Record):
    """Which blocks go, in which form, with which repair, and the evidence: the object that `collapse` applies.

    Attributes:
        model_sha256: Fingerprint of the graph the plan was made for (see `graph.fingerprint`).
        criterion: What ranked the blocks.
        search: `ranked` or `greedy`; None where the user named the blocks.
        limit: The limit the user gave, such as {"max_drop": 1.0}.
        steps: The blocks in the order in which they were chosen.
        refits: Blocks that stay, their weights refitted to what the shortened network feeds them.
        evidence: Measurements for the plan as a whole, such as accuracy before and after.
    """

    schema_version: int = SCHEMA_VERSION
    model_sha256: str | None = None
    criterion: str | None = None
    search: str | None = None
    limit: dict[str, Any] = Field(default_factory=dict)
    steps: list[PlanStep] = Field(default_factory=list)
    refits: list[RefitRecord] = Field(default_factory=list)
    evidence: dict[str, Any] = Field(default_factory=dict)

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        return _check_version(version, "plan")

    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON form."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()


class CollapseRecord(Record):
    """One collapse in a model's history, of blocks that went or of activations that became linear.

    Attributes:
        plan_sha256: Digest of the plan that was applied; empty where training decided.
        model_sha256_before: Fingerprint of the graph that it was applied to.
        blocks: The blocks that went.
        forms: Their forms.
        repairs: The kinds of repair put in place, where there is one.
        refits: Blocks that stay with refitted weights.
        linearised: Activations that became linear.
        merged: Pairs of linear operators that became one, as `first + second`.
        accuracy_before: Of the network before, in percent.
        accuracy_after: Of the network after.
        accuracy_healed: After fine-tuning by `train --heal`; None where that was not done.
        producer: The program that did it.
    """

    plan_sha256: str = ""
    model_sha256_before: str
    blocks: list[str] = Field(default_factory=list)
    forms: dict[str, str] = Field(default_factory=dict)
    repairs: dict[str, str] = Field(default_factory=dict)
    refits: list[str] = Field(default_factory=list)
    linearised: list[str] = Field(default_factory=list)
    merged: list[str] = Field(default_factory=list)
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    accuracy_healed: float | None = None
    producer: str | None = None


class Manifest(Record):
    """Everything lacoot-deploy knows about a model, kept in the ONNX file itself."""

    schema_version: int = SCHEMA_VERSION
    producer: str | None = None
    source: SourceRecord | None = None
    preprocessing: PreprocessingRecord | None = None
    blocks: list[BlockRecord] = Field(default_factory=list)
    plan: Plan | None = None
    history: list[CollapseRecord] = Field(default_factory=list)

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        return _check_version(version, "manifest")

    def block(self, name: str) -> BlockRecord | None:
        """The record of the named block, or None."""
        return next((b for b in self.blocks if b.name == name), None)


def _check_version(version: int, what: str) -> int:
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"the {what} has schema_version {version}, and this lacoot-deploy reads up to {SCHEMA_VERSION}: "
            f"upgrade lacoot-deploy"
        )
    if version < 1:
        raise ValueError(f"the {what} has schema_version {version}, which no release ever wrote")
    return version


def to_json(record: Record, *, indent: int | None = None) -> str:
    """Canonical JSON of a record: keys sorted, nothing optional left out, non-finite numbers as null."""
    separators = (",", ":") if indent is None else None
    data = record.model_dump(mode="json")
    return json.dumps(_finite(data), sort_keys=True, separators=separators, indent=indent, ensure_ascii=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if np.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [_finite(value) for value in data]
    return data


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

    Raises:
        InputError: As for `read_manifest`.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"The manifest in {path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is not ours."
        )
    return _parse(Manifest, text, f"The manifest in {path}")


def parse_plan(text: str, *, path: str | Path = "the plan") -> Plan:
    """Parse a plan's JSON text.

    Raises:
        InputError: It is no JSON, of the wrong structure or of a newer version.
    """
    return _parse(Plan, text, f"The plan {path}")


def _parse(kind: type[_R], text: str, what: str) -> _R:
    data = parse_json(text, what)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"{what} cannot be used: {where}: {message}.") from None


def write_manifest(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Put the manifest into a model, in place of the one it had; every other metadata entry stays."""
    kept = [entry for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    text = to_json(manifest)
    if kept:
        kept[-1].value = text
    else:
        model.metadata_props.add(key=MANIFEST_KEY, value=text)
