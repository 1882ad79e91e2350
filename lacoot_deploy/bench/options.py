"""What a measurement of latency is asked for, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lacoot_deploy.errors import UsageError


@dataclass(frozen=True)
class BenchOptions:
    """How latency is measured; where models run is said by `runtime.options.Runtime`.

    Attributes:
        batch: Size of free first axes of generated feeds; with data, samples in one run. None for 1.
        dims: Sizes of free dimensions of generated feeds by name.
        min_time: Seconds of timed runs, all models together; sessions and warm-up come on top.
        rounds: Rounds of fresh sessions; None for 10, or 5 for slow models. At least 3 for an honest interval.
        warmup_time: Seconds that each session's warm-up takes at least; None for 0.05. It goes on until the runs are
            stable, for a second more at most.
        warmup_runs: Runs that it has at least; None for 3.
        optimization: ONNX Runtime's graph optimisations: `none`, `basic`, `extended` or `all`.
        use_tf32: Whether CUDA may round float32 to TF32; None for ONNX Runtime's default (yes).
        io_binding: Keep inputs and outputs on the device; None for: on CUDA yes, else no.
        cuda_graph: Replay runs as a CUDA graph.
        allow_cpu_nodes: Whether nodes beyond shape arithmetic may fall back to the CPU on another provider.
        memory: Whether to measure the peak memory, in one more process per model.
        variants: Whether to measure on CUDA also with host copies and as a CUDA graph.
        seed: Seed of the orders and of generated feeds.

    Raises:
        UsageError: A number is out of range.
    """

    batch: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict, hash=False)
    min_time: float = 8.0
    rounds: int | None = None
    warmup_time: float | None = None
    warmup_runs: int | None = None
    optimization: str = "all"
    use_tf32: bool | None = None
    io_binding: bool | None = None
    cuda_graph: bool = False
    allow_cpu_nodes: bool = False
    memory: bool = True
    variants: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.rounds is not None and self.rounds < 1:
            raise UsageError(f"The number of rounds must be at least 1, not {self.rounds}.")
        if not self.min_time > 0:
            raise UsageError(f"The time to measure must be above 0 seconds, not {self.min_time}.")
        if self.warmup_time is not None and not self.warmup_time >= 0:
            raise UsageError(f"The time to warm up must be 0 seconds or more, not {self.warmup_time}.")
        if self.warmup_runs is not None and self.warmup_runs < 1:
            raise UsageError(f"The number of warm-up runs must be at least 1, not {self.warmup_runs}.")


DEFAULTS = BenchOptions()
"""Ten to fifteen seconds for models of a few milliseconds."""

BLOCK_SECONDS = 4.0
"""Seconds of timed runs that the latencies of blocks are taken from."""

BLOCKS = BenchOptions(min_time=BLOCK_SECONDS)
"""The latencies of blocks."""

QUICK = BenchOptions(memory=False, variants=False)
"""The latency alone, without a process for the memory of each model."""
