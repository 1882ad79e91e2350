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

from lacoot_deploy.bench.options import BLOCKS, BenchOptions
from lacoot_deploy.bench.process import ask
from lacoot_deploy.bench.protocol import BlockNodes, Request
from lacoot_deploy.bench.requests import feeds_file, model_file
from lacoot_deploy.bench.result import BenchResult, BlockLatencies, BlockLatency, Realised
from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.runtime.options import AUTO, Runtime

if TYPE_CHECKING:
    from lacoot_deploy.bench.requests import Model


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
    options: BenchOptions = BLOCKS,
    *,
    runtime: Runtime = AUTO,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    method: Literal["profile", "prefix"] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BlockLatencies:
    """Measure each block's part of the latency.

    Args:
        model: The model: a file's path or a model.
        blocks: Its blocks; those inside If, Loop and Scan bodies are left out.
        options: As for `bench`.
        runtime: As for `bench`.
        feeds: As for `bench`.
        method: `profile` (on the CPU only) or `prefix`; None for the one that suits the provider.
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
            runtime=runtime,
            options=options,
            feeds=feeds_file(feeds, Path(folder)),
            blocks=[
                BlockNodes(name=block.name, nodes=list(block.nodes), input=block.input, output=block.output)
                for block in measured
            ],
            method=method,
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
        shapes=response.shapes,
        provider=response.provider,
    )
