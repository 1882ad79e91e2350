"""`lacoot-deploy bench`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lacoot_deploy.numerals import significant

from .live import progress
from .measure import data_of
from .options import PATH, data_options, output_options, provider_options
from .render import note, print_json, say, table

if TYPE_CHECKING:
    from lacoot_deploy.bench.result import ModelLatency
    from lacoot_deploy.workflow.benching import BenchReport


def _pairs(values: tuple[str, ...], name: str) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    if any(not key or not value for key, value in pairs.items()):
        raise click.BadParameter("give NAME=VALUE.", param_hint=name)
    return pairs


def _dims(values: tuple[str, ...]) -> dict[str, int]:
    try:
        return {key: int(value) for key, value in _pairs(values, "--dim").items()}
    except ValueError:
        raise click.BadParameter("the value must be a number.", param_hint="--dim") from None


@click.command("bench")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH, required=False)
@click.option("--min-time", type=float, default=8.0, show_default=True, help="Seconds of timed runs.")
@click.option("--warmup-time", type=float, help="Seconds of warm-up per session at least (0.05).")
@click.option("--warmup-runs", type=click.IntRange(min=1), help="Runs of warm-up at least (3).")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of fresh sessions.")
@click.option("--batch", type=click.IntRange(min=1), help="Samples in one run.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a free dimension.")
@click.option(
    "--provider-option", "extra", multiple=True, metavar="NAME=VALUE", help="Option for the provider."
)
@click.option("--io-binding/--no-io-binding", default=None, help="Keep inputs and outputs on the device.")
@click.option("--cuda-graph", is_flag=True, help="Replay runs as a CUDA graph.")
@click.option("--tf32/--no-tf32", default=None, help="Let CUDA round float32 to TF32.")
@click.option("--allow-cpu-nodes", is_flag=True, help="Let nodes fall back to the CPU.")
@click.option("--per-block", is_flag=True, help="Tell where A's time goes, by block.")
@click.option("--require-speedup", type=float, help="Fail (exit 6) unless B is that many times as fast.")
@click.option(
    "--fail-if-slower", type=float, metavar="PCT", help="Fail (exit 6) if B is slower by more percent."
)
@data_options(split="test")
@provider_options
@output_options
def command(
    a: Path,
    b: Path | None,
    min_time: float,
    warmup_time: float | None,
    warmup_runs: int | None,
    rounds: int | None,
    batch: int | None,
    dims: tuple[str, ...],
    extra: tuple[str, ...],
    io_binding: bool | None,
    cuda_graph: bool,
    tf32: bool | None,
    allow_cpu_nodes: bool,
    per_block: bool,
    require_speedup: float | None,
    fail_if_slower: float | None,
    data: str | None,
    mean: str | None,
    std: str | None,
    size: str | None,
    split: str,
    samples: int | None,
    seed: int,
    provider: str,
    threads: int | None,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Measure latency; with two models, in interleaved pairs.

    Says how many times as fast B is as A with a 95 % interval, the noise floor of this very run
    (A against itself), and a verdict.

    \b
    Example:
      lacoot-deploy bench model.onnx model.collapsed.onnx --batch 8
    """
    from lacoot_deploy.workflow.benching import bench_files

    if b is None and (require_speedup is not None or fail_if_slower is not None):
        raise click.UsageError("--require-speedup and --fail-if-slower compare two models: give B.")
    with progress(quiet=quiet) as report:
        result = bench_files(
            a,
            b,
            data=None if data is None else data_of(data, mean, std, size, split, samples, seed),
            batch=batch,
            dims=_dims(dims),
            min_time=min_time,
            warmup_time=warmup_time,
            warmup_runs=warmup_runs,
            rounds=rounds,
            threads=threads,
            provider=provider,
            provider_options=_pairs(extra, "--provider-option"),
            io_binding=io_binding,
            cuda_graph=cuda_graph,
            use_tf32=tf32,
            allow_cpu_nodes=allow_cpu_nodes,
            per_block=per_block,
            seed=seed,
            progress=lambda done, total: report(done, total, "measuring"),
        )
    if as_json:
        print_json(result)
    else:
        show(result, verbose=verbose, quiet=quiet)
    result.require(speedup=require_speedup, fail_if_slower=fail_if_slower)


def show(result: BenchReport, *, verbose: int = 0, quiet: bool = False) -> None:
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
    environment = result.environment
    device = environment.gpu or environment.cpu
    say(
        f"batch {environment.batch} on {environment.provider} ({device}), ONNX Runtime {environment.onnxruntime}"
        + (
            ""
            if environment.threads is None
            else f", {environment.threads} thread{'s' * (environment.threads > 1)}"
        )
        + ("" if environment.tf32 is None else f", TF32 {'on' if environment.tf32 else 'off'}")
        + (", inputs and outputs on the device" if environment.io_binding else "")
    )
    for name, model in zip(names, models, strict=True):
        _show_placement(name, model, verbose)
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
    if result.per_block is not None:
        total = result.per_block.total_ms
        blocks = [(block.name, block.ms) for block in result.per_block.blocks]
        blocks.append(("all else", result.per_block.rest_ms))
        longest = max(ms for _, ms in blocks) or 1.0
        table(
            [("block", "left"), ("ms", "right"), ("share", "right"), ("", "left")],
            [
                [name, significant(ms), f"{100 * ms / total:.0f} %", "█" * max(round(24 * ms / longest), 0)]
                for name, ms in blocks
            ],
        )
    if result.realised is not None:
        say(
            f"The blocks missing in B promised a speed-up of {significant(result.realised.expected_speedup)}; "
            f"{100 * result.realised.share:.0f} % of that saving is there."
        )
    if result.verdict is not None and result.ci95 is not None and result.speedup is not None:
        say(verdict_line(result))
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=quiet)


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
