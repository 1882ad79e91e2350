"""The plan that `collapse` applies, and what stays of it in a model's history."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from lacoot_deploy.errors import InputError
from lacoot_deploy.manifest.evidence import PlanEvidence, PlanOptions, StepEvidence
from lacoot_deploy.manifest.records import SCHEMA_VERSION, Record, check_version, parse_record, to_json


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
    evidence: StepEvidence = Field(default_factory=StepEvidence)


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


class LineariseRecord(Record):
    """One activation that becomes linear: y = slope * x + intercept per channel, or y = x.

    Attributes:
        activation: Name of the activation.
        input: The value before it in the model that the plan was made for.
        output: The value behind it there.
        slope: Slope per channel, [C]; None for the identity.
        intercept: Intercept per channel, [C]; None for the identity.
        evidence: Measurements behind the choice.
    """

    activation: str
    input: str
    output: str
    slope: ArrayRecord | None = None
    intercept: ArrayRecord | None = None
    evidence: StepEvidence = Field(default_factory=StepEvidence)


class TaskRecord(Record):
    """What a network is for, as it was judged.

    Attributes:
        name: The task, such as `classification`.
        measure: The score that it was judged by, such as `accuracy`.
        unit: Of a difference of two such scores.
        outputs: The outputs that were judged.
        settings: What else was found when the task was fitted: classes, masks, layouts.
    """

    name: str
    measure: str
    unit: str = "points"
    outputs: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def choice(self) -> str:
        """The name as `--task` takes it."""
        return f"{self.name}:{self.measure}"


class Plan(Record):
    """Which blocks go, in which form, with which repair, and the evidence: the object that `collapse` applies.

    Blocks go first, then activations become linear, then linear operators are merged.

    Attributes:
        model_sha256: Fingerprint of the graph the plan was made for (see `graph.fingerprint`).
        criterion: What ranked the blocks.
        search: `ranked` or `greedy`; None where the user named the blocks.
        limit: The limit the user gave, such as {"max_drop": 1.0}.
        steps: The blocks in the order in which they were chosen.
        refits: Blocks that stay, their weights refitted to what the shortened network feeds them.
        linearised: Activations that become linear, in the order in which they were chosen.
        fit: `identity`, `affine` or `pieces`: what is put in their place; None where none becomes linear.
        merge: Which linear operators are merged: `always`, `cheaper`, `measured` or `never`; None for none.
        inexact: Whether also those that merge with an error.
        faster: With `measured`, the values between the operators that were found faster as one.
        task: What the network is for, as its samples were judged; None without data.
        evidence: Measurements for the plan as a whole, such as accuracy before and after.
        options: What it was made with; None where that was not recorded.
    """

    schema_version: int = SCHEMA_VERSION
    model_sha256: str | None = None
    criterion: str | None = None
    search: str | None = None
    limit: dict[str, Any] = Field(default_factory=dict)
    steps: list[PlanStep] = Field(default_factory=list)
    refits: list[RefitRecord] = Field(default_factory=list)
    linearised: list[LineariseRecord] = Field(default_factory=list)
    fit: Literal["identity", "affine", "pieces"] | None = None
    merge: Literal["always", "cheaper", "measured", "never"] | None = None
    inexact: bool = False
    faster: list[str] = Field(default_factory=list)
    task: TaskRecord | None = None
    evidence: PlanEvidence = Field(default_factory=PlanEvidence)
    options: PlanOptions | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Plans of older releases have neither, and their digests stand in histories.
        left = {name for name in ("task", "options") if getattr(self, name) is None}
        return {key: value for key, value in serialise(self).items() if key not in left}

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        return check_version(version, "plan")

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


def parse_plan(text: str, *, path: str | Path = "the plan") -> Plan:
    """Parse a plan's JSON text.

    Args:
        text: The JSON.
        path: What error messages call the plan.

    Raises:
        InputError: It is no JSON, of the wrong structure or of a newer version.
    """
    return parse_record(Plan, text, f"The plan {path}")
