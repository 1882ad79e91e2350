"""What `bench` says: latencies, speed-up with its interval, verdict, environment, raw samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from lacoot_deploy.bench.protocol import NodePlacement
from lacoot_deploy.errors import GateError, UsageError


class ModelLatency(BaseModel):
    """One model's figures; times in milliseconds.

    Attributes:
        path: The file, or what the model is called.
        sha256: Hash of the file (without external data); None for a model that was no file.
        file_bytes: Bytes on disk, external data included.
        provider: Short name of the provider that ran it.
        placement: Number of nodes by provider.
        nodes: Every node that ONNX Runtime runs, with its provider.
        cpu_nodes: Nodes that ran on the CPU although another provider was asked for, shape arithmetic left out.
        samples: Number of timed runs.
        interrupted: How many of them the system interrupted by giving a processor to another process. They count in the
            figures below, which say what a run takes on this machine as it was, and not in the speed-up.
        p50_ms: Median latency of one run.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile; None below 1,000 samples.
        iqr_ms: Distance of the quartiles.
        min_ms: Fastest run.
        per_second: Samples per second at the median latency (batch over latency).
        creation_ms: Creating the session, median over rounds.
        first_run_ms: The first run, median over rounds.
        warm_runs: Warm-up runs of a session, median over rounds.
        peak_memory_bytes: What loading and running the model adds to a process's peak resident memory (host memory
            only); None where it was not measured.
        gpu_memory_bytes: What it adds to the memory in use on the GPU, the driver's part included; None likewise, or
            where no GPU was used.
        standard_errors: Standard error over the rounds of figures above, by their names; empty with a single round.
    """

    path: str
    sha256: str | None
    file_bytes: int
    provider: str
    placement: dict[str, int]
    nodes: list[NodePlacement] = Field(default_factory=list)
    cpu_nodes: list[str] = Field(default_factory=list)
    samples: int
    interrupted: int = 0
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    iqr_ms: float
    min_ms: float
    per_second: float
    creation_ms: float
    first_run_ms: float
    warm_runs: int = 0
    peak_memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    standard_errors: dict[str, float] = Field(default_factory=dict)


class Environment(BaseModel):
    """Where and how it was measured.

    Attributes:
        cpu: Name of the processor.
        cpus: Logical processors of the machine.
        affinity: Those that the process may use.
        quota: Processors' worth of time that the container allows; None for no limit.
        gpu: Name of the GPU where one was used.
        system: Operating system and architecture.
        load_before: One-minute load average before.
        load_after: And after.
        other_cpu: Processors that other processes kept busy meanwhile; None where that is not known.
        throttled: How often the container's quota stopped a process meanwhile.
        stolen_share: Share of time that the hypervisor gave to others.
        overheated: How often a processor slowed down because of its temperature meanwhile.
        gpu_slowed: Seconds that the GPU slowed down because of temperature or power supply meanwhile.
        onnxruntime: Its version.
        python: Python's version.
        provider: Short name of the provider that ran the models.
        why: Why that one.
        provider_options: Options given to it.
        threads: Threads inside one operator; None for ONNX Runtime's choice.
        thread_pool: `shared` by all sessions, so that the idle threads of one do not disturb the other, or `own`.
        optimization: Graph optimisation level.
        tf32: Whether CUDA rounded float32 to TF32; None off CUDA.
        io_binding: Whether inputs and outputs stayed on the device.
        cuda_graph: Whether runs were replayed as a CUDA graph.
        batch: Samples in one run.
        shapes: Shape of each input.
        inputs: Where the inputs came from.
        rounds: Rounds of fresh sessions.
        seed: Seed of orders and generated inputs.
        seconds: What the whole measurement took.
    """

    cpu: str
    cpus: int
    affinity: int
    quota: float | None
    gpu: str | None = None
    system: str
    load_before: float | None
    load_after: float | None
    other_cpu: float | None
    throttled: int | None
    stolen_share: float | None
    overheated: int | None = None
    gpu_slowed: float | None = None
    onnxruntime: str
    python: str
    provider: str
    why: str = ""
    provider_options: dict[str, str] = Field(default_factory=dict)
    threads: int | None
    thread_pool: str
    optimization: str
    tf32: bool | None
    io_binding: bool
    cuda_graph: bool
    batch: int
    shapes: dict[str, list[int]]
    inputs: str
    rounds: int
    seed: int
    seconds: float


class RawSamples(BaseModel):
    """Raw samples by round, in milliseconds.

    Attributes:
        a: Every timed run of A.
        a_again: Every timed run of a second session of A in the same round.
        b: Every timed run of B.
        log_ratios: Per cycle, log(latency of A / latency of B).
        self_log_ratios: Per cycle, log(latency of A / latency of A's second session).
    """

    a: list[list[float]]
    a_again: list[list[float]] | None = None
    b: list[list[float]] | None = None
    log_ratios: list[list[float]] | None = None
    self_log_ratios: list[list[float]] | None = None


class Variant(BaseModel):
    """The same measured another way, such as with copies to and from the device.

    Attributes:
        a_ms: Median latency of A; None where it does not run that way.
        b_ms: And of B.
        speedup: A over B.
        ci95: Its interval.
        reason: Why it was not measured.
    """

    a_ms: float | None = None
    b_ms: float | None = None
    speedup: float | None = None
    ci95: tuple[float, float] | None = None
    reason: str | None = None


class BlockLatency(BaseModel):
    """One block's part of the latency.

    Attributes:
        name: The block.
        ms: Milliseconds of one run that its nodes take; what removing it should save, but for its repair.
        share: The same as a share of the whole.
    """

    name: str
    ms: float
    share: float


class BlockLatencies(BaseModel):
    """Where the time of one run goes.

    Attributes:
        total_ms: Undisturbed latency of the whole model in milliseconds, without profiling.
        method: `profile` or `prefix`.
        blocks: The blocks of the main graph, in the order given.
        rest_ms: What is in no block.
        batch: Samples in one run.
        shapes: Shape of each input.
        provider: Short name of the provider.
    """

    schema_version: int = 1
    total_ms: float
    method: str
    blocks: list[BlockLatency]
    rest_ms: float
    batch: int
    shapes: dict[str, list[int]] = Field(default_factory=dict)
    provider: str

    def expected_saving(self, removed: Sequence[str]) -> float:
        """Milliseconds that the named blocks take together.

        Raises:
            UsageError: A name is no block measured here.
        """
        known = {block.name: block.ms for block in self.blocks}
        for name in removed:
            if name not in known:
                raise UsageError(
                    f"The latency of block {name!r} was not measured; known are {', '.join(known)}."
                )
        return sum(known[name] for name in removed)


class Realised(BaseModel):
    """How much of an expected saving a measurement shows.

    Attributes:
        expected_speedup: Latency before over latency less the expected saving.
        measured_speedup: What the benchmark says.
        share: Saving measured over saving expected; 1 is all of it.
    """

    expected_speedup: float
    measured_speedup: float
    share: float


class BenchResult(BaseModel):
    """What `bench --json` prints.

    Attributes:
        a: Figures of A.
        b: Figures of B; None with one model, as all that follows from the pair.
        speedup: Latency of A over latency of B: above 1, B is faster.
        ci95: Its 95 % interval.
        noise_floor: The difference, as a share, that A against itself could show in this very run.
        verdict: `faster`, `slower` or `no detectable difference`, said of B.
        smallest_detectable: The smallest difference, as a share, that this run could have told from none.
        pairs: Number of paired log-ratios.
        variants: Other ways to run, by name (`host_copies`, `cuda_graph`).
        warnings: What made the machine or the measurement less than quiet, one sentence each.
        environment: Where and how it was measured.
        samples: Raw samples.
        per_block: Where A's time goes; None unless asked for.
        realised: How much of the saving that the blocks missing in B promised is there; None without them.
    """

    schema_version: int = 1
    a: ModelLatency
    b: ModelLatency | None = None
    speedup: float | None = None
    ci95: tuple[float, float] | None = None
    noise_floor: float | None = None
    verdict: str | None = None
    smallest_detectable: float | None = None
    pairs: int = 0
    variants: dict[str, Variant] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    environment: Environment
    samples: RawSamples
    per_block: BlockLatencies | None = None
    realised: Realised | None = None

    def require(self, *, speedup: float | None = None, fail_if_slower: float | None = None) -> None:
        """Stand by performance gates.

        Args:
            speedup: The interval's lower end must reach this.
            fail_if_slower: Percent; B may not be shown to be slower by more: the interval's upper end must reach
                1 / (1 + PCT / 100).

        Raises:
            GateError: A gate is not met, or there is only one model.
        """
        if speedup is None and fail_if_slower is None:
            return
        if self.speedup is None or self.ci95 is None:
            raise GateError("A performance gate needs two models to compare.")
        low, high = self.ci95
        said = f"the speed-up is {self.speedup:.3f} (95 % interval {low:.3f} to {high:.3f})"
        if speedup is not None and low < speedup:
            raise GateError(f"A speed-up of at least {speedup:g} is required, but {said}.")
        if fail_if_slower is not None and high < 1 / (1 + fail_if_slower / 100):
            raise GateError(f"B may be slower by {fail_if_slower:g} % at most, but {said}.")

    def document(self) -> dict[str, Any]:
        """The JSON document of `bench --json`."""
        return self.model_dump(mode="json")
