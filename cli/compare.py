"""`lacoot-deploy compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .measure import data_of
from .options import PATH, data_options, output_options, provider_options
from .render import print_json, progress, significant, table

if TYPE_CHECKING:
    from lacoot_deploy.runtime.compare import Comparison


@click.command("compare")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@data_options(split="test", required=True)
@click.option("--metric", help="Your own metric as python:module:function, in place of top-1 accuracy.")
@click.option("--max-abs", type=float, help="Fail if any output differs by more.")
@click.option("--max-rel-rms", type=float, help="Fail if an output's relative RMS difference is larger.")
@click.option("--min-agreement", type=float, help="Fail if predictions agree on fewer percent.")
@click.option("--max-drop", type=float, help="Fail if accuracy drops by more points.")
@click.option(
    "--batch",
    "batch_size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Samples per run.",
)
@provider_options
@output_options
def command(
    a: Path,
    b: Path,
    data: str,
    mean: str | None,
    std: str | None,
    size: str | None,
    split: str,
    samples: int | None,
    seed: int,
    metric: str | None,
    max_abs: float | None,
    max_rel_rms: float | None,
    min_agreement: float | None,
    max_drop: float | None,
    batch_size: int,
    provider: str,
    threads: int | None,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Tell how B's outputs differ from A's on the same data.

    Drift of every output, agreement of predictions, and where the data has labels the accuracy
    of both with a paired 95 % interval. Limits given as options end with exit code 4 when exceeded.

    \b
    Example:
      lacoot-deploy compare model.onnx model.collapsed.onnx \\
          --data digits --max-drop 1
    """
    from lacoot_deploy.runtime.compare import Limits
    from lacoot_deploy.workflow.comparing import compare

    limits = Limits(max_abs=max_abs, max_rel_rms=max_rel_rms, min_agreement=min_agreement, max_drop=max_drop)
    with progress(quiet=quiet) as report:
        comparison = compare(
            a,
            b,
            data_of(data, mean, std, size, split, samples, seed),
            limits=limits,
            metric=metric,
            provider=provider,
            threads=threads,
            batch_size=batch_size,
            progress=report,
        )
    if as_json:
        print_json(comparison)
    else:
        show(comparison)
    comparison.require()


def show(comparison: Comparison) -> None:
    """Print a comparison for reading."""
    table(
        [("output", "left"), ("max abs", "right"), ("rel RMS", "right"), ("cosine", "right")],
        [
            [name, significant(drift.max_abs), significant(drift.rel_rms), significant(drift.cosine, 5)]
            for name, drift in comparison.outputs.items()
        ],
    )
    click.echo(f"{comparison.samples} samples")
    if comparison.agreement is not None:
        click.echo(f"Predictions agree on {comparison.agreement:.2f} % of them.")
    for score in (comparison.accuracy, comparison.top5):
        if score is not None:
            low, high = score.ci95
            click.echo(
                f"{score.metric}: {score.a:.2f} -> {score.b:.2f}, a drop of {score.drop_points:.2f} points "
                f"(95 % interval {low:.2f} to {high:.2f})"
            )
