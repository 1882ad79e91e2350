"""`measure`: distances of every block by ONNX Runtime, written into the manifest of a copy of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.manifest import (
    BlockRecord,
    DistanceRecord,
    LatencyRecord,
    Manifest,
    StatisticsRecord,
    write_manifest,
)
from lacoot_deploy.progress import Progress
from lacoot_deploy.runtime.options import AUTO, DistanceOptions, Runtime
from lacoot_deploy.version import PRODUCER
from lacoot_deploy.workflow.data import samples_for
from lacoot_deploy.workflow.inspecting import InspectResult, inspect, open_model, recorded_distances


class MeasureResult(InspectResult):
    """What `measure --json` prints: the inspection of the file that was written."""


def measure(
    path: str | Path,
    output: str | Path,
    data: DataOptions | str,
    *,
    projections: int = 50,
    runtime: Runtime = AUTO,
    latency: bool = True,
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> MeasureResult:
    """Measure how far each block's output is from its input and record it in a copy of the model.

    Args:
        path: An ONNX file.
        output: The file to write; must not be the input.
        data: Calibration data; text as after `--data`.
        projections: Random directions of the sampled distance.
        runtime: Where the model runs.
        latency: Whether to time the blocks as well, at the sizes of the data.
        dims: Sizes of free dimensions to time them at where those of the data are not wanted.
        progress: Called with (done, total, what).

    Returns:
        The inspection of the written file.

    Raises:
        InputError: A file cannot be read or written, the data does not fit, or no block can be measured.
        ProviderError: The provider does not run the model here.
    """
    from lacoot_deploy.files import check_target
    from lacoot_deploy.graph.model.io import save_model
    from lacoot_deploy.runtime.batching import check_samples
    from lacoot_deploy.runtime.measure import measure as measure_samples

    path, output, data = Path(path), Path(output), DataOptions.of(data, split="val")
    check_target(output, inputs=[path, *data.files])
    opened = open_model(path)
    samples = samples_for(opened.model, opened.manifest, data)
    check_samples(samples)
    if not opened.able:
        raise InputError(f"{path} has no block that can be measured; see 'lacoot-deploy inspect {path}'.")
    measured = measure_samples(
        opened.model,
        opened.able,
        samples,
        DistanceOptions(projections=projections, seed=data.seed, split=data.split),
        runtime=runtime,
        source=path,
        progress=None if progress is None else lambda done, total: progress(done, total, "measuring"),
    )
    manifest = opened.manifest or Manifest()
    manifest.producer = PRODUCER
    distances = {name: found.distances for name, found in measured.items()}
    manifest.blocks = block_records(opened.blocks, distances, manifest)
    times: dict[str, LatencyRecord] = {}
    if latency:
        from lacoot_deploy.runtime.sizes import timed_feeds

        feeds = timed_feeds(opened.model, samples, dims or {}, runtime=runtime, source=path)
        times = _latencies(path, opened.able, runtime, feeds)
    for record in manifest.blocks:
        if record.name in measured:
            ends = {"input": measured[record.name].source, "output": measured[record.name].target}
            record.statistics = {end: StatisticsRecord(**asdict(found)) for end, found in ends.items()}
        record.latency = times.get(record.name)
    write_manifest(opened.model, manifest)
    save_model(opened.model, output, source=path)
    return MeasureResult(**dict(inspect(output)))


def _latencies(
    path: Path, blocks: list[Block], runtime: Runtime, feeds: Mapping[str, NDArray[Any]]
) -> dict[str, LatencyRecord]:
    from lacoot_deploy.bench.per_block import block_latencies
    from lacoot_deploy.machine import describe_machine

    found, cpu = block_latencies(path, blocks, runtime=runtime, feeds=feeds), describe_machine().cpu
    return {
        block.name: LatencyRecord(
            ms=block.ms,
            share=block.share,
            batch=found.batch,
            shapes=found.shapes,
            provider=found.provider,
            cpu=cpu,
        )
        for block in found.blocks
    }


def block_records(
    blocks: tuple[Block, ...],
    measured: dict[str, dict[str, DistanceRecord]],
    manifest: Manifest | None,
) -> list[BlockRecord]:
    """Records of all blocks as they are in a model: new distances over those that the manifest already has."""
    before, _ = recorded_distances(manifest, blocks)
    known = {record.name: record for record in manifest.blocks} if manifest is not None else {}
    return [
        BlockRecord(
            name=block.name,
            input=block.input,
            output=block.output,
            shape=None if block.shape is None else list(block.shape),
            units=[unit.name for unit in block.units],
            distances={**before.get(block.name, {}), **measured.get(block.name, {})},
            statistics=known[block.name].statistics if block.name in known else {},
            latency=known[block.name].latency if block.name in known else None,
        )
        for block in blocks
        if block.collapsible
    ]
