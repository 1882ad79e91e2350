"""The account: what every shipped file costs and gains against the dense float32 file; `ship.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Role = Literal["dense", "collapsed", "healed", "other"]
Verdict = Literal["shipped", "left out", "failed"]


class Scored(BaseModel):
    """A score on the confirming samples.

    Attributes:
        value: The file's score, in the measure's unit (percent for shares).
        low: Lower end of its 95 % interval.
        high: Upper end.
        drop: How much worse it is than the dense float32 file's, on the same samples; negative where it is better.
        drop_low: Lower end of the drop's 95 % interval, from samples in pairs.
        drop_high: Upper end.
    """

    value: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float


class Timed(BaseModel):
    """Latency in one run together with all other files.

    Attributes:
        ms: Median latency in milliseconds.
        speedup: How many times as fast as the dense float32 file.
        low: Lower end of its 95 % interval.
        high: Upper end.
        verdict: `faster`, `slower` or `no detectable difference`.
    """

    ms: float
    speedup: float
    low: float
    high: float
    verdict: str


class Line(BaseModel):
    """One file of the account.

    Attributes:
        name: The model and its conversion, such as `short int8`.
        model: The file that it was made from.
        role: What that model is.
        conversion: The chain of conversions; `float32` for the model as it is.
        verdict: `shipped`; `left out` where the drop is above the limit; `failed` where it could not be made.
        reason: Why it is not shipped; None where it is.
        file: Its name in the folder; None where it is not there.
        beside: Further files that belong to it.
        sha256: Hash of the file.
        bytes: On disk.
        score: None where it was not measured.
        agreement: Score against the dense file's own answers, in percent for classifiers.
        drift: Relative RMS difference of the answers from the dense file's.
        latency: None where it was not measured.
        peak_memory_bytes: What loading and running it adds to a process's peak resident memory.
        fallbacks: Operators that do not run as they were meant to.
        kept_float: Nodes or operators that were kept in float32.
        proven: Engines that ran it in a fresh process and agreed.
        unproven: What could not be proven here, and why.
        notes: What a reader should know.
    """

    name: str
    model: str
    role: Role
    conversion: str
    verdict: Verdict = "shipped"
    reason: str | None = None
    file: str | None = None
    beside: list[str] = Field(default_factory=list)
    sha256: str | None = None
    bytes: int | None = None
    score: Scored | None = None
    agreement: float | None = None
    drift: float | None = None
    latency: Timed | None = None
    peak_memory_bytes: int | None = None
    fallbacks: list[str] = Field(default_factory=list)
    kept_float: list[str] = Field(default_factory=list)
    proven: list[str] = Field(default_factory=list)
    unproven: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Gain(BaseModel):
    """What cutting and converting gain together, against each alone; all measured in one run.

    Attributes:
        both: The converted cut file.
        cut: The cut file in float32.
        converted: The converted dense file.
        conversion: The conversion.
        drop: Combined drop of the score against the dense float32 file.
        speedup: Of both over the dense float32 file.
        over_cut: How many times as fast both are as the cut alone, with its 95 % interval.
        over_converted: And as the conversion alone.
    """

    both: str
    cut: str
    converted: str
    conversion: str
    drop: float | None
    speedup: float
    over_cut: tuple[float, float, float]
    over_converted: tuple[float, float, float]


class Conditions(BaseModel):
    """How the account was made.

    Attributes:
        data: The samples.
        calibration_samples: Those that ranges were taken from.
        choosing_samples: Those that precision was chosen by.
        confirming_samples: Those that the account is about.
        seed: Seed of their roles.
        task: What the network is for, in one line.
        measure: What the score is.
        unit: Of a drop, such as `points`.
        higher: Whether a larger score is better.
        labels: Whether labels decide; the dense file's own answers do else.
        max_drop: Most that the score may drop; None for no limit.
        batch: Samples in one timed run.
        provider: What ran the files.
        cpu: Processor.
        gpu: GPU, where one was used.
        threads: Threads inside one operator; None for ONNX Runtime's choice.
        onnxruntime: Its version.
        openvino: Its version; None where it is not installed.
    """

    data: str
    calibration_samples: int
    choosing_samples: int
    confirming_samples: int
    seed: int
    task: str
    measure: str
    unit: str
    higher: bool
    labels: bool
    max_drop: float | None
    batch: int
    provider: str
    cpu: str
    gpu: str | None = None
    threads: int | None
    onnxruntime: str
    openvino: str | None = None


class ShipResult(BaseModel):
    """What `ship --json` prints and `ship.json` holds.

    Attributes:
        producer: The program that made it.
        target: The device.
        why: Why these conversions.
        reference: The dense float32 model.
        conditions: How it was made.
        files: Every file, the dense float32 one first.
        gains: Cut and converted against each alone.
        notes: What a reader should know, such as what made the measurement noisy.
    """

    schema_version: int = 1
    producer: str
    target: str
    why: str
    reference: str
    conditions: Conditions
    files: list[Line]
    gains: list[Gain] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def shipped(self) -> list[Line]:
        """The files that are in the folder."""
        return [line for line in self.files if line.verdict == "shipped"]
