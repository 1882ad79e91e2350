"""`lacoot-deploy bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .measure import data_of
from .options import PATH, data_options, output_options, provider_options
from .render import note, print_json, progress, significant, table

if TYPE_CHECKING:
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
        show(result, quiet=quiet)
    result.require(speedup=require_speedup, fail_if_slower=fail_if_slower)


def show(result: BenchReport, *, quiet: bool = False) -> None:
    """Print a measurement for reading."""
    models = [model for model in (result.a, result.b) if model is not None]
    table(
        [("", "left"), *((Path(model.path).name, "right") for model in models)],
        [
            ["median", *(f"{significant(m.p50_ms)} ms" for m in models)],
            ["90th percentile", *(f"{significant(m.p90_ms)} ms" for m in models)],
            *(
                [
                    [
                        "99th percentile",
                        *("-" if m.p99_ms is None else f"{significant(m.p99_ms)} ms" for m in models),
                    ]
                ]
                if any(m.p99_ms is not None for m in models)
                else []
            ),
            ["interquartile range", *(f"{significant(m.iqr_ms)} ms" for m in models)],
            ["samples per second", *(significant(m.per_second) for m in models)],
            ["session creation", *(f"{significant(m.creation_ms)} ms" for m in models)],
            ["first run", *(f"{significant(m.first_run_ms)} ms" for m in models)],
            ["file", *(f"{m.file_bytes / 1024:,.0f} KiB" for m in models)],
            ["peak memory", *(_megabytes(m.peak_memory_bytes) for m in models)],
        ],
    )
    environment = result.environment
    device = environment.gpu or environment.cpu
    click.echo(
        f"batch {environment.batch} on {environment.provider} ({device}), ONNX Runtime {environment.onnxruntime}"
        + ("" if environment.threads is None else f", {environment.threads} threads")
        + ("" if environment.tf32 is None else f", TF32 {'on' if environment.tf32 else 'off'}")
    )
    for name, variant in result.variants.items():
        what = name.replace("_", " ")
        if variant.speedup is not None:
            click.echo(f"with {what}: {significant(variant.a_ms)} ms and {significant(variant.b_ms)} ms")
        elif variant.a_ms is not None:
            click.echo(f"with {what}: {significant(variant.a_ms)} ms")
        elif variant.reason is not None:
            note(f"with {what}: {variant.reason}", quiet=quiet)
    if result.per_block is not None:
        total = result.per_block.total_ms
        rows = [(block.name, block.ms) for block in result.per_block.blocks]
        rows.append(("all else", result.per_block.rest_ms))
        longest = max(ms for _, ms in rows) or 1.0
        table(
            [("block", "left"), ("ms", "right"), ("share", "right"), ("", "left")],
            [
                [name, significant(ms), f"{100 * ms / total:.0f} %", "█" * max(round(24 * ms / longest), 0)]
                for name, ms in rows
            ],
        )
    if result.realised is not None:
        click.echo(
            f"The blocks missing in B promised a speed-up of {significant(result.realised.expected_speedup)}; "
            f"{100 * result.realised.share:.0f} % of that saving is there."
        )
    if result.verdict is not None and result.ci95 is not None and result.speedup is not None:
        click.echo(verdict_line(result))
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=quiet)


def verdict_line(result: Any) -> str:
    """The verdict in one sentence with its interval and the noise floor."""
    low, high = result.ci95
    noise = "" if result.noise_floor is None else f"; noise floor {100 * result.noise_floor:.1f} %"
    seen = (
        ""
        if result.verdict != "no detectable difference" or result.smallest_detectable is None
        else f"; this run could have seen {100 * result.smallest_detectable:.1f} %"
    )
    return (
        f"B is {result.verdict}: speed-up {significant(result.speedup)} "
        f"(95 % interval {significant(low)} to {significant(high)}{noise}{seen})"
        if result.verdict != "no detectable difference"
        else f"{result.verdict}: speed-up {significant(result.speedup)} "
        f"(95 % interval {significant(low)} to {significant(high)}{noise}{seen})"
    )


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
