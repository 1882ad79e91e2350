"""What a report says, as data: the document that `report --json` prints and that the page shows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Role = Literal["dense", "collapsed", "other", "scratch"]


class Network(BaseModel):
    """One network that the report is about.

    Attributes:
        name: Name of its file, without folders.
        role: `dense` is what it all started from, `collapsed` what the answer is about, `scratch` the control.
        blocks: Number of its residual blocks.
        nodes: Number of its nodes.
        parameters: Number of its weights.
        macs: Multiply-adds for one sample; None where shapes are unknown.
        file_bytes: Bytes on disk, external data included; None for a network that was not written.
        sha256: Hash of the file (without external data); None likewise.
        fingerprint: Hash of the graph, which the histories of collapsed files refer to.
    """

    name: str
    role: Role
    blocks: int
    nodes: int
    parameters: int
    macs: int | None
    file_bytes: int | None = None
    sha256: str | None = None
    fingerprint: str


class Removed(BaseModel):
    """A block that went: its name, its form, what was put in its place, and whether it did nothing anyway."""

    block: str
    form: str
    repair: str | None = None
    lossless: bool = False


class Cost(BaseModel):
    """What the removal cost.

    Attributes:
        metric: What was measured: `top-1 accuracy`, `agreement with the dense network`, ...
        unit: `%` for shares of samples, else empty.
        before: Of the dense network; None where it is the reference itself.
        after: Of the collapsed network.
        drop: before - after, in points or in the metric's unit.
        ci95: 95 % interval of the drop; None where it is not known.
        samples: How many samples it was measured on.
        judged_on: On which data, in words.
        healed: Whether the network was fine-tuned after the cut.
    """

    metric: str
    unit: str = "%"
    before: float | None
    after: float
    drop: float | None
    ci95: tuple[float, float] | None = None
    samples: int | None = None
    judged_on: str
    healed: bool = False


class Gain(BaseModel):
    """What the removal gained in latency: dense over collapsed, measured in pairs.

    Attributes:
        speedup: How many times as fast.
        ci95: Its 95 % interval.
        verdict: `faster`, `slower` or `no detectable difference`.
        before_ms: Median latency of the dense network in milliseconds.
        after_ms: And of the collapsed one.
        device: What they ran on.
        setting: Provider, threads and batch, in words.
    """

    speedup: float
    ci95: tuple[float, float]
    verdict: str
    before_ms: float
    after_ms: float
    device: str
    setting: str


class Scratch(BaseModel):
    """The control: the network that is left, trained from scratch.

    Attributes:
        name: What it is called.
        blocks: Number of its blocks; None where that is not known.
        same: Whether it is the very network that is left: the same blocks.
        score: Its score in the metric of the cost; None where that was not measured.
        ahead: Points by which it is ahead of the collapsed network on the same samples (negative: behind); None where
            the two were not measured on the same samples.
        speedup: How many times as fast as the dense network it is; None where that was not measured.
        judged_on: On which data the score was taken, in words.
    """

    name: str
    blocks: int | None = None
    same: bool = False
    score: float | None
    ahead: float | None = None
    speedup: float | None = None
    judged_on: str = ""


class Answer(BaseModel):
    """What a reader in a hurry takes away.

    Attributes:
        written: Whether the collapsed network is a file; else it is what the recommended plan would give.
        removed: The blocks that went, in the order of their removal.
        refits: Blocks that stay with refitted weights.
        linearised: Activations that became linear.
        merged: Pairs of linear operators that became one.
        cost: What it cost; None where that is not known.
        gain: What it gained; None likewise.
        scratch: The control; None likewise.
    """

    written: bool = True
    removed: list[Removed] = Field(default_factory=list)
    refits: list[str] = Field(default_factory=list)
    linearised: list[str] = Field(default_factory=list)
    merged: list[str] = Field(default_factory=list)
    cost: Cost | None = None
    gain: Gain | None = None
    scratch: Scratch | None = None


class Point(BaseModel):
    """A network on a curve.

    Attributes:
        removed: Blocks removed; None where that is not known.
        score: Percent.
        latency: Latency relative to the dense network, 1 / speed-up; None where it was not measured.
        macs: Multiply-adds.
        label: What it is, in words.
    """

    removed: int | None
    score: float
    latency: float | None = None
    macs: int | None = None
    label: str = ""


class Curve(BaseModel):
    """Networks of one kind at several depths.

    Attributes:
        name: What the legend says.
        kind: `search`, `default`, `paper`, `random`, `scratch`, `chosen`, `dense` or `other`: decides how it is drawn.
        judged_on: The data that the scores were taken on, in words.
        points: In rising order of blocks removed.
    """

    name: str
    kind: str
    judged_on: str = ""
    points: list[Point]


class BlockLine(BaseModel):
    """One block of the dense network.

    Attributes:
        name: Its name.
        shape: Shape of its input, as text.
        macs: Multiply-adds that its removal saves; None where unknown.
        parameters: Weights that its removal saves.
        distances: Measured distances by name.
        floors: Their floors, where there are any.
        samples: Samples that they were measured on.
        share: Its share of the latency, 0..1; None where not measured.
        ms: The same in milliseconds.
        form: How it went; None for a block that stays.
        repair: What was put in its place.
        refitted: Whether it stays with refitted weights.
        reason: Why it cannot go; None where it can.
    """

    name: str
    shape: str
    macs: int | None = None
    parameters: int = 0
    distances: dict[str, float] = Field(default_factory=dict)
    floors: dict[str, float] = Field(default_factory=dict)
    samples: int | None = None
    share: float | None = None
    ms: float | None = None
    form: str | None = None
    repair: str | None = None
    refitted: bool = False
    reason: str | None = None


class Epoch(BaseModel):
    """One epoch of a training run; see `training.loop.EpochReport` for the fields."""

    epoch: int
    loss: float | None = None
    penalty: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    lr: float | None = None
    seconds: float | None = None


class Training(BaseModel):
    """A training run: its folder's name, its epochs and its recipe."""

    name: str
    epochs: list[Epoch]
    recipe: dict[str, Any] = Field(default_factory=dict)


class Histogram(BaseModel):
    """Raw latencies of one network, counted in bins of equal ratio.

    Attributes:
        name: The network.
        counts: Runs in each bin.
        samples: Runs in all, those outside the bins included.
        median: Milliseconds.
        p90: Milliseconds.
    """

    name: str
    counts: list[int]
    samples: int
    median: float
    p90: float


class Latency(BaseModel):
    """Distributions of latency on common bins.

    Attributes:
        edges: Bin edges in milliseconds, one more than bins.
        histograms: One for each network.
        noise_floor: Share by which the dense network differed from itself in the same run.
        warnings: What made the measurement less than quiet.
    """

    edges: list[float]
    histograms: list[Histogram]
    noise_floor: float | None = None
    warnings: list[str] = Field(default_factory=list)


class Drift(BaseModel):
    """How far one output of the collapsed network is from the dense network's; see `runtime.drift.OutputDrift`."""

    output: str
    max_abs: float | None
    rel_rms: float | None
    cosine: float | None
    unequal: float


class Sample(BaseModel):
    """A sample on which the two networks differ most.

    Attributes:
        output: The output in which they do.
        index: Its place in the data.
        difference: Relative RMS difference of the output.
        label: Its class, as text; None without labels.
        before: What the dense network predicts; None where outputs are no classes.
        after: What the collapsed one does.
        image: The picture as a `data:image/png` address; None where samples are no images.
    """

    output: str
    index: int
    difference: float
    label: str | None = None
    before: str | None = None
    after: str | None = None
    image: str | None = None


class Fact(BaseModel):
    """A name and a value, such as a version or a hash."""

    name: str
    value: str


class Reproduction(BaseModel):
    """All that it takes to get the same again: commands, versions, hashes, seeds, and what it ran on."""

    commands: list[str] = Field(default_factory=list)
    versions: list[Fact] = Field(default_factory=list)
    hashes: list[Fact] = Field(default_factory=list)
    seeds: list[Fact] = Field(default_factory=list)
    machine: list[Fact] = Field(default_factory=list)


class Shipped(BaseModel):
    """One file that `ship` made of the networks.

    Attributes:
        name: The network and its conversion.
        verdict: `shipped`, `left out` or `failed`.
        reason: Why it is not shipped; None where it is.
        score: On samples that chose nothing; None where it was not measured.
        drop: Against the dense float32 file, with its 95 % interval.
        speedup: Over the dense float32 file, with its 95 % interval.
        file_bytes: On disk.
    """

    name: str
    verdict: str
    reason: str | None = None
    score: float | None = None
    drop: tuple[float, float, float] | None = None
    speedup: tuple[float, float, float] | None = None
    file_bytes: int | None = None


class ReportResult(BaseModel):
    """What `report --json` prints.

    Attributes:
        title: Heading of the page.
        networks: The networks, the dense one first.
        answer: What a reader in a hurry takes away.
        metric: What the curves show: `accuracy` or `agreement`.
        curves: Score against depth and latency.
        blocks: The blocks of the dense network, in graph order.
        distance: The distance that the page draws, such as `mswd`; None where none was measured.
        training: Training runs.
        latency: Distributions of latency; None where none were measured.
        drift: Drift by output.
        worst: Samples that differ most.
        samples: Samples that drift and worst samples were taken from.
        shipped: Files that `ship` made; empty where it was not used.
        reproduction: How to get the same again.
        missing: For each section without data, one sentence that says which command gives it.
        notes: What a reader should know.
    """

    schema_version: int = 1
    title: str
    networks: list[Network] = Field(default_factory=list)
    answer: Answer | None = None
    metric: str = "accuracy"
    curves: list[Curve] = Field(default_factory=list)
    blocks: list[BlockLine] = Field(default_factory=list)
    distance: str | None = None
    training: list[Training] = Field(default_factory=list)
    latency: Latency | None = None
    drift: list[Drift] = Field(default_factory=list)
    worst: list[Sample] = Field(default_factory=list)
    samples: int | None = None
    shipped: list[Shipped] = Field(default_factory=list)
    reproduction: Reproduction = Field(default_factory=Reproduction)
    missing: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    def network(self, role: Role) -> Network | None:
        """The first network of that role, or None."""
        return next((network for network in self.networks if network.role == role), None)
