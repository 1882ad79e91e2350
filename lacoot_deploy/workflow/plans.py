"""Where the plan of a `collapse` comes from: a search, a file, or the model's own manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacoot_deploy.bench.options import BLOCKS, QUICK, BenchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import DistanceRecord, Plan, parse_plan
from lacoot_deploy.progress import Progress
from lacoot_deploy.runtime.options import AUTO, DistanceOptions, Runtime
from lacoot_deploy.selection.trials import Trials
from lacoot_deploy.workflow.data import samples_for, task_of
from lacoot_deploy.workflow.inspecting import Opened, recorded_distances

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from lacoot_deploy.data.types import Samples
    from lacoot_deploy.selection.limits import Evidence, Limit
    from lacoot_deploy.selection.options import SearchOptions


MAX_PLAN_BYTES = 256 * 1024 * 1024


def plan_for(
    opened: Opened,
    limit: Limit,
    options: SearchOptions,
    *,
    data: DataOptions | None = None,
    runtime: Runtime = AUTO,
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Make a plan for an opened model; arguments as for `collapse`."""
    from lacoot_deploy.graph.model.training_mode import refuse_training
    from lacoot_deploy.selection.planning import make_plan

    evidence, distances = None, recorded_distances(opened.manifest, opened.blocks)[0]
    if data is not None:
        refuse_training(opened.model, opened.path)
        evidence = evidence_for(opened, data, options.seed)
        wanted = _distance(limit, options)
        if wanted is not None and any(wanted not in distances.get(b.name, {}) for b in opened.able):
            distances = _measured(opened, evidence, data, wanted, runtime)
    # Trials compare all outputs of both networks: private ones go with their blocks only in the file that is written.
    blocks = [replace(block, private_inputs=(), private_outputs=()) for block in opened.blocks]
    return make_plan(
        opened.model,
        blocks,
        limit,
        options,
        evidence=evidence,
        distances=distances,
        trials=trials_of(opened, runtime, None if evidence is None else evidence.choose, dims or {}),
        progress=progress,
    )


def evidence_for(opened: Opened, data: DataOptions, seed: int) -> Evidence:
    """The samples that the options name, with their roles, and what is known of the task.

    Args:
        opened: The model.
        data: What to read, and what it is for.
        seed: Seed of the split into roles.
    """
    from lacoot_deploy.runtime.batching import check_samples
    from lacoot_deploy.selection.limits import Evidence

    samples = samples_for(opened.model, opened.manifest, data)
    check_samples(samples)
    return Evidence.split(samples, seed=seed, task=task_of(opened.manifest, data))


def _distance(limit: Limit, options: SearchOptions) -> str | None:
    """The distance that the criterion reads; None where it reads none."""
    from lacoot_deploy.selection.criteria import CRITERIA

    if options.criterion is None:
        return None if limit.max_distance is None else "mswd"
    return CRITERIA[options.criterion].distance


def _measured(
    opened: Opened, evidence: Evidence, data: DataOptions, wanted: str, runtime: Runtime
) -> dict[str, dict[str, DistanceRecord]]:
    from lacoot_deploy.runtime.measure import measure_blocks

    options = DistanceOptions(seed=data.seed, split=data.split, ascent=wanted == "mswd-ascent")
    return measure_blocks(
        opened.model, opened.able, evidence.choose, options, runtime=runtime, source=opened.path
    )


def trials_of(
    opened: Opened,
    runtime: Runtime,
    samples: Samples | None = None,
    dims: Mapping[str, int] | None = None,
) -> Trials:
    """Trial runs of an opened model, with what times them at the sizes of the samples."""

    @cache
    def feeds() -> dict[str, NDArray[Any]] | None:
        from lacoot_deploy.runtime.sizes import timed_feeds

        if samples is None:
            return None
        return timed_feeds(opened.model, samples, dims or {}, runtime=runtime, source=opened.path)

    def options(given: BenchOptions) -> BenchOptions:
        return replace(given, dims=dims or {}) if samples is None else given

    return Trials(
        source=opened.path,
        runtime=runtime,
        speedup=lambda model: _speedup(opened.path, model, runtime, feeds(), options(QUICK)),
        latencies=lambda: _latencies(opened, runtime, feeds(), options(BLOCKS)),
        timed=lambda: {name: list(array.shape) for name, array in (feeds() or {}).items()},
    )


def _speedup(
    path: Path,
    model: onnx.ModelProto,
    runtime: Runtime,
    feeds: Mapping[str, NDArray[Any]] | None,
    options: BenchOptions,
) -> float:
    """How many times as fast a shortened model is: the lower end of the interval, to be safe."""
    import tempfile

    from lacoot_deploy.bench import bench
    from lacoot_deploy.graph.model.io import save_model

    with tempfile.TemporaryDirectory() as folder:
        shorter = Path(folder) / "shorter.onnx"
        save_model(model, shorter, source=path)
        result = bench(path, shorter, options, runtime=runtime, feeds=feeds)
    if result.ci95 is None:
        raise InputError("The speed-up could not be measured.")
    return float(result.ci95[0])


def _latencies(
    opened: Opened,
    runtime: Runtime,
    feeds: Mapping[str, NDArray[Any]] | None,
    options: BenchOptions,
) -> dict[str, float]:
    """Milliseconds that each block takes on this device."""
    from lacoot_deploy.bench.per_block import block_latencies

    measured = block_latencies(opened.path, opened.able, options, runtime=runtime, feeds=feeds)
    return {block.name: block.ms for block in measured.blocks}


def recommended_plan(opened: Opened) -> Plan:
    """The plan in the model's manifest.

    Raises:
        UsageError: There is none; the message says what to give instead.
    """
    plan = opened.manifest.plan if opened.manifest is not None else None
    if plan is None:
        raise UsageError(
            f"{opened.path} carries no recommended plan: say how far to go with --count, --blocks, --max-distance, "
            f"--max-drop, --max-drift, --min-speedup, --linearise or --plan."
        )
    return plan


def read_plan(path: str | Path) -> Plan:
    """Read a plan file.

    Args:
        path: As `collapse --plan-out` wrote it.

    Raises:
        InputError: It is missing, too large, or no plan.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise InputError(f"{path} is larger than {MAX_PLAN_BYTES >> 20} MiB; it is no plan.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"The plan {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise InputError(f"The plan {path} is no text.") from None
    return parse_plan(text, path=path)
