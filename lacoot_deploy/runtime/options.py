"""Where and how networks run in ONNX Runtime, as one value: made once, at the edge, and passed whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lacoot_deploy.errors import UsageError


@dataclass(frozen=True)
class Runtime:
    """Where networks run. Which network, and where its external weights lie, is said elsewhere.

    Attributes:
        provider: `auto` (CUDA where it really runs the model, else the CPU), a short name such as `cuda`, or ONNX
            Runtime's own name.
        threads: Threads inside one operator; None for ONNX Runtime's choice (the physical cores).
        provider_options: Options for the provider, as ONNX Runtime spells them.
        custom_ops: Shared libraries that hold operators of the user's own.

    Raises:
        UsageError: There are fewer than one thread.
    """

    provider: str = "auto"
    threads: int | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict, hash=False)
    custom_ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Hold the promise that the number of threads is one."""
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"The number of threads must be at least 1, not {self.threads}.")


AUTO = Runtime()
"""CUDA where it really works, else the CPU, with ONNX Runtime's own number of threads."""


@dataclass(frozen=True)
class DistanceOptions:
    """How the distances of blocks are measured.

    Attributes:
        projections: Number of random directions.
        p: Order of the Wasserstein distance.
        ascent: Whether to measure `mswd-ascent` too.
        seed: Seed of the directions and of the choice of samples.
        split: The split that the samples came from, for the records.
        batch_size: Samples per run; None for as many as fit `memory_bytes`, at most 64.
        memory_bytes: What activations may take at a time.
    """

    projections: int = 50
    p: float = 2.0
    ascent: bool = True
    seed: int = 0
    split: str | None = None
    batch_size: int | None = None
    memory_bytes: int = 1 << 30
