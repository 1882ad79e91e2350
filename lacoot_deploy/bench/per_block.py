"""Where the time goes, block by block, so that what a removal should save is known before it is made.

Two methods. On the CPU ONNX Runtime's own profile of the whole, optimised model: the time of every node that it runs
is credited to the block whose nodes it was made of, and the shares are scaled to the latency without profiling.
Elsewhere, where a profile only tells when a node was launched: the model cut off behind each block's input and output
is timed, and the difference is the block's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel

from lacoot_deploy.bench.process import ask
from lacoot_deploy.bench.protocol import BlockNodes, Request, RunOptions
from lacoot_deploy.bench.requests import feed_options, model_file
from lacoot_deploy.bench.result import BenchResult
from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Block

if TYPE_CHECKING:
    from lacoot_deploy.bench.requests import Model


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
        provider: Short name of the provider.
    """

    schema_version: int = 1
    total_ms: float
    method: str
    blocks: list[BlockLatency]
    rest_ms: float
    batch: int
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


def realised(latencies: BlockLatencies, removed: Sequence[str], result: BenchResult) -> Realised:
    """Hold a benchmark of the model without the named blocks to what their latencies promised.

    Raises:
        UsageError: A name is no block measured, the benchmark has only one model, or no saving was expected.
    """
    saving = latencies.expected_saving(removed) / latencies.total_ms
    if result.speedup is None:
        raise UsageError("What a removal saved shows in a benchmark of two models, before and after.")
    if not 0 < saving < 1:
        raise UsageError(f"The blocks {', '.join(removed)} take no measurable part of the latency.")
    return Realised(
        expected_speedup=1 / (1 - saving),
        measured_speedup=result.speedup,
        share=(1 - 1 / result.speedup) / saving,
    )


def block_latencies(
    model: Model,
    blocks: Sequence[Block],
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    min_time: float = 4.0,
    threads: int | None = None,
    provider: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    optimization: str = "all",
    use_tf32: bool | None = None,
    allow_cpu_nodes: bool = False,
    io_binding: bool | None = None,
    method: Literal["profile", "prefix"] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BlockLatencies:
    """Measure each block's part of the latency; options as for `bench`.

    Args:
        model: The model: a file's path or a model.
        blocks: Its blocks; those inside If, Loop and Scan bodies are left out.
        feeds: As for `bench`.
        batch: As for `bench`.
        dims: As for `bench`.
        min_time: Seconds of timed runs.
        threads: As for `bench`.
        provider: As for `bench`.
        provider_options: As for `bench`.
        optimization: As for `bench`.
        use_tf32: As for `bench`.
        allow_cpu_nodes: As for `bench`.
        io_binding: As for `bench`.
        method: `profile` (on the CPU only) or `prefix`; None for the one that suits the provider.
        seed: As for `bench`.
        progress: As for `bench`.

    Raises:
        InputError: The model or the feeds are not usable.
        ProviderError: The provider does not run the model here.
        UsageError: An option is out of range.
    """
    measured = [block for block in blocks if not block.scope]
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as folder:
        request = Request(
            kind="blocks",
            models={"model": model_file(model, Path(folder), "model")},
            options=RunOptions(
                provider=provider,
                provider_options={str(k): str(v) for k, v in (provider_options or {}).items()},
                threads=threads,
                optimization=optimization,
                use_tf32=use_tf32,
                allow_cpu_nodes=allow_cpu_nodes,
                io_binding=io_binding,
            ),
            feeds=feed_options(feeds, batch, dims, seed, Path(folder)),
            blocks=[
                BlockNodes(name=block.name, nodes=list(block.nodes), input=block.input, output=block.output)
                for block in measured
            ],
            method=method,
            seconds=min_time,
            seed=seed,
        )
        response = ask(request, progress)
    total = response.total_seconds
    found = [
        BlockLatency(name=name, ms=1e3 * seconds, share=seconds / total if total else 0.0)
        for name, seconds in response.block_seconds.items()
    ]
    return BlockLatencies(
        total_ms=1e3 * total,
        method=response.method,
        blocks=found,
        rest_ms=max(0.0, 1e3 * total - sum(block.ms for block in found)),
        batch=response.batch,
        provider=response.provider,
    )
