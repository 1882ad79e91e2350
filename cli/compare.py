"""`lacoot-deploy compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lacoot_deploy.numerals import significant

from .live import progress
from .measure import data_of
from .options import PATH, data_options, output_options, provider_options
from .render import print_json, say, table

if TYPE_CHECKING:
    from lacoot_deploy.runtime.compare import Comparison

LOCATED = 10
"""Samples with NaN or infinity that a comparison names."""


@click.command("compare")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@data_options(split="test", required=True)
@click.option("--metric", help="top-K, or your own as python:module:function, in place of top-1.")
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
        [
            ("output", "left"),
            ("max abs", "right"),
            ("rel RMS", "right"),
            ("cosine", "right"),
            ("unequal", "right"),
        ],
        [
            [
                name,
                significant(drift.max_abs),
                significant(drift.rel_rms),
                significant(drift.cosine, 5),
                f"{significant(100 * drift.unequal)} %",
            ]
            for name, drift in comparison.outputs.items()
        ],
    )
    say(f"{comparison.samples} samples")
    for name, drift in comparison.outputs.items():
        if drift.worst:
            worst = ", ".join(f"{sample.index} ({significant(sample.difference)})" for sample in drift.worst)
            say(f"{name}: differs most in samples {worst}")
        for model, odd in (("A", drift.nonfinite_a), ("B", drift.nonfinite_b)):
            if odd is not None:
                say(
                    f"{name}: {odd.count} entries of {model} are NaN or infinite, the first at {odd.first}, in samples "
                    f"{', '.join(map(str, odd.samples))}{', ...' if len(odd.samples) == LOCATED else ''}"
                )
    if comparison.agreement is not None:
        say(f"Predictions ({comparison.predictions}) agree on {comparison.agreement:.2f} %.")
    for score in (comparison.accuracy, comparison.top5):
        if score is None:
            continue
        # Shares of samples have points; a metric of the user's own has a unit of its own.
        share = score.p_value is not None
        a, b, drop, low, high = (
            f"{value:.2f}" if share else significant(value, 4)
            for value in (score.a, score.b, score.drop_points, *score.ci95)
        )
        test = f"; McNemar p = {significant(score.p_value, 2)}" if share else ""
        say(
            f"{score.metric}: {a} -> {b}, a drop of {drop}{' points' if share else ''} "
            f"(95 % interval {low} to {high}{test})"
        )
