"""`lacoot-deploy bench`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lacoot_deploy.numerals import counted, significant

from .options import (
    PATH,
    Command,
    Headed,
    Output,
    bench_group,
    data_group,
    declared,
    group,
    output_group,
    runtime_group,
)
from .render import note, say, table

if TYPE_CHECKING:
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.bench.result import BenchResult, BlockLatencies, Environment, ModelLatency
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.runtime.options import Runtime

_MORE = (
    Headed("Measuring", "--warmup-time", type=float, help="Seconds of warm-up per session at least (0.05)."),
    Headed("Measuring", "--warmup-runs", type=click.IntRange(min=1), help="Runs of warm-up at least (3)."),
    Headed("Measuring", "--rounds", type=click.IntRange(min=1), help="Rounds of fresh sessions."),
    Headed("Measuring", "--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a free dimension."),
    Headed(
        "Measuring",
        "--io-binding/--no-io-binding",
        default=None,
        help="Keep inputs and outputs on the device.",
    ),
    Headed("Measuring", "--cuda-graph", is_flag=True, help="Replay runs as a CUDA graph."),
    Headed("Measuring", "--tf32/--no-tf32", "use_tf32", default=None, help="Let CUDA round float32 to TF32."),
    Headed("Measuring", "--allow-cpu-nodes", is_flag=True, help="Let nodes fall back to the CPU."),
)


class Gates(NamedTuple):
    """What the pair must show; None for no gate."""

    speedup: float | None
    fail_if_slower: float | None


@click.command("bench", cls=Command)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH, required=False)
@bench_group(*_MORE)
@declared(Headed("Measuring", "--per-block", is_flag=True, help="Tell where A's time goes, by block."))
@group(
    "gates",
    lambda values: Gates(values["require_speedup"], values["fail_if_slower"]),
    Headed(
        "Gates", "--require-speedup", type=float, help="Fail (exit 6) unless B is that many times as fast."
    ),
    Headed(
        "Gates",
        "--fail-if-slower",
        type=float,
        metavar="PCT",
        help="Fail (exit 6) if B is slower by more percent.",
    ),
)
@data_group(split="test")
@runtime_group()
@output_group()
def command(
    a: Path,
    b: Path | None,
    timing: BenchOptions,
    per_block: bool,
    gates: Gates,
    data: DataOptions | None,
    runtime: Runtime,
    out: Output,
) -> None:
    """Measure latency; with two models, in interleaved pairs.

    Says how many times as fast B is as A with a 95 % interval, the noise floor of this very run
    (A against itself), and a verdict.

    \b
    Example:
      lacoot-deploy bench model.onnx model.collapsed.onnx --batch 8
    """
    from lacoot_deploy.workflow.benching import benchmark

    if b is None and gates != Gates(None, None):
        raise click.UsageError("--require-speedup and --fail-if-slower compare two models: give B.")
    with out.progress() as report:
        result = benchmark(
            a,
            b,
            timing,
            data=data,
            runtime=runtime,
            per_block=per_block,
            progress=lambda done, total: report(done, total, "measuring"),
        )
    out.result(result, partial(show, verbose=out.verbose, quiet=out.quiet))
    result.require(speedup=gates.speedup, fail_if_slower=gates.fail_if_slower)


def show(result: BenchResult, *, verbose: int = 0, quiet: bool = False) -> None:
    """Print a measurement for reading."""
    models = [model for model in (result.a, result.b) if model is not None]
    names = [Path(model.path).name for model in models]
    if len(models) == 2:
        names = ["A", "B"]
        for name, model in zip(names, models, strict=True):
            say(f"{name}  {model.path}")
    rows = [
        ("median", "p50_ms", "ms"),
        ("90th percentile", "p90_ms", "ms"),
        ("99th percentile", "p99_ms", "ms"),
        ("interquartile range", "iqr_ms", "ms"),
        ("samples per second", "per_second", ""),
        ("session creation", "creation_ms", "ms"),
        ("first run", "first_run_ms", "ms"),
    ]
    table(
        [("", "left"), *((name, "right") for name in names)],
        [
            *(
                [title, *(_figure(model, key, unit) for model in models)]
                for title, key, unit in rows
                if any(getattr(model, key) is not None for model in models)
            ),
            ["timed runs", *(f"{m.samples}" for m in models)],
            ["of these interrupted", *(f"{100 * m.interrupted / m.samples:.0f} %" for m in models)],
            ["file", *(_kilobytes(m.file_bytes) for m in models)],
            ["peak memory", *(_megabytes(m.peak_memory_bytes) for m in models)],
            *(
                [["GPU memory", *(_megabytes(m.gpu_memory_bytes) for m in models)]]
                if any(m.gpu_memory_bytes is not None for m in models)
                else []
            ),
        ],
    )
    say(environment_line(result.environment))
    for name, model in zip(names, models, strict=True):
        _show_placement(name, model, verbose)
    _show_variants(result, quiet=quiet)
    if result.per_block is not None:
        _show_blocks(result.per_block)
    if result.realised is not None:
        say(
            f"The blocks missing in B promised a speed-up of {significant(result.realised.expected_speedup)}; "
            f"{100 * result.realised.share:.0f} % of that saving is there."
        )
    if result.verdict is not None and result.ci95 is not None and result.speedup is not None:
        say(verdict_line(result))
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=quiet)


def environment_line(environment: Environment) -> str:
    """Where it was measured."""
    parts = [
        f"batch {environment.batch} on {environment.provider} ({environment.gpu or environment.cpu})",
        f"ONNX Runtime {environment.onnxruntime}",
    ]
    if environment.threads is not None:
        parts.append(counted(environment.threads, "thread"))
    if environment.tf32 is not None:
        parts.append(f"TF32 {'on' if environment.tf32 else 'off'}")
    return ", ".join([*parts, *(["inputs and outputs on the device"] if environment.io_binding else [])])


def _show_variants(result: BenchResult, *, quiet: bool) -> None:
    for name, variant in result.variants.items():
        what = name.replace("_", " ")
        if variant.speedup is not None and variant.ci95 is not None:
            ratio, low, high = _ratio(variant.speedup, variant.ci95)
            say(
                f"with {what}: {significant(variant.a_ms)} ms and {significant(variant.b_ms)} ms, speed-up {ratio} "
                f"({low} to {high})"
            )
        elif variant.a_ms is not None:
            say(f"with {what}: {significant(variant.a_ms)} ms")
        elif variant.reason is not None:
            note(f"with {what}: {variant.reason}", quiet=quiet)


def _show_blocks(found: BlockLatencies) -> None:
    blocks = [*((block.name, block.ms) for block in found.blocks), ("all else", found.rest_ms)]
    longest = max(ms for _, ms in blocks) or 1.0
    table(
        [("block", "left"), ("ms", "right"), ("share", "right"), ("", "left")],
        [
            [
                name,
                significant(ms),
                f"{100 * ms / found.total_ms:.0f} %",
                "█" * max(round(24 * ms / longest), 0),
            ]
            for name, ms in blocks
        ],
    )


def _figure(model: ModelLatency, key: str, unit: str) -> str:
    """A figure with the digits that its standard error leaves, three at most."""
    value = getattr(model, key)
    if value is None:
        return "-"
    text = significant(value, uncertainty=model.standard_errors.get(key))
    return f"{text} {unit}".rstrip()


def _show_placement(name: str, model: ModelLatency, verbose: int) -> None:
    where = ", ".join(f"{count} on {provider}" for provider, count in model.placement.items())
    if verbose and where:
        say(f"{name}: nodes {where}")
    elif len(model.placement) > 1:
        say(f"{name}: nodes {where} (with -v: which)")
    if model.cpu_nodes:
        say(f"{name}: fell back to the CPU: {', '.join(model.cpu_nodes)}")
    if verbose:
        table(
            [("node", "left"), ("operator", "left"), ("provider", "left")],
            [[node.node, node.op, node.provider] for node in model.nodes],
        )


def verdict_line(result: Any) -> str:
    """The verdict in one sentence with its interval and the noise floor."""
    value, low, high = _ratio(result.speedup, result.ci95)
    noise = "" if result.noise_floor is None else f"; noise floor {100 * result.noise_floor:.1f} %"
    said = f"speed-up {value} (95 % interval {low} to {high}{noise}"
    if result.verdict != "no detectable difference":
        return f"B is {result.verdict}: {said})"
    if result.smallest_detectable is not None:
        said += f"; this run could have seen {100 * result.smallest_detectable:.1f} %"
    return f"{result.verdict}: {said})"


def _ratio(value: float, ci95: tuple[float, float]) -> tuple[str, str, str]:
    """A speed-up and the ends of its interval with as many decimals as the interval leaves."""
    width = ci95[1] - ci95[0]
    places = 4 if width <= 0 else min(4, max(0, 1 - math.floor(math.log10(width))))
    return f"{value:.{places}f}", f"{ci95[0]:.{places}f}", f"{ci95[1]:.{places}f}"


def _kilobytes(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
