"""`lacoot-deploy compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lacoot_deploy.numerals import significant

from .options import (
    PATH,
    Command,
    Headed,
    Output,
    Values,
    data_group,
    declared,
    group,
    output_group,
    runtime_group,
)
from .render import say, table

if TYPE_CHECKING:
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.runtime.compare import CompareResult, Limits
    from lacoot_deploy.runtime.options import Runtime

LOCATED = 10
"""Samples with NaN or infinity that a comparison names."""


def _limits(values: Values) -> Limits:
    from lacoot_deploy.runtime.compare import Limits

    return Limits(**{name: values[name] for name in Limits.model_fields})


@click.command("compare", cls=Command)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@group(
    "limits",
    _limits,
    Headed("Limits", "--max-abs", type=float, help="Fail if any output differs by more."),
    Headed(
        "Limits",
        "--max-rel-rms",
        type=float,
        help="Fail if an output's relative RMS difference is larger.",
    ),
    Headed("Limits", "--min-agreement", type=float, help="Fail if predictions agree on fewer percent."),
    Headed("Limits", "--max-drop", type=float, help="Fail if the score drops by more, in its unit."),
)
@declared(
    Headed("Measuring", "--metric", help="top-K, or your own as python:module:function, in place of top-1."),
    Headed(
        "Measuring",
        "--batch",
        "batch_size",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="Samples per run.",
    ),
)
@data_group(split="test", required=True)
@runtime_group()
@output_group()
def command(
    a: Path,
    b: Path,
    data: DataOptions,
    limits: Limits,
    metric: str | None,
    batch_size: int,
    runtime: Runtime,
    out: Output,
) -> None:
    """Tell how B's outputs differ from A's on the same data.

    Drift of every output, agreement of predictions, and where the data has labels the accuracy
    of both with a paired 95 % interval. Limits given as options end with exit code 4 when exceeded.

    \b
    Example:
      lacoot-deploy compare model.onnx model.collapsed.onnx \\
          --data digits --max-drop 1
    """
    from lacoot_deploy.workflow.comparing import compare

    with out.progress() as report:
        comparison = compare(
            a,
            b,
            data,
            limits=limits,
            metric=metric,
            runtime=runtime,
            batch_size=batch_size,
            progress=report,
        )
    out.result(comparison, show)
    comparison.require()


def show(comparison: CompareResult) -> None:
    """Print a comparison for reading."""
    if comparison.task is not None:
        say(f"Task: {comparison.task}.")
    if comparison.dense is not None:
        say(comparison.dense.sentence or "")
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
    for text in comparison.notes:
        say(text)
    if comparison.agreement is not None:
        say(f"Predictions ({comparison.predictions}) agree on {comparison.agreement:.2f} %.")
    for score in (comparison.accuracy, comparison.top5, comparison.fidelity):
        # Against A's own answers an agreement is said already.
        if score is None or (score is comparison.fidelity and score.metric == "top-1"):
            continue
        share = score.unit == "points"
        a, b, drop, low, high = (
            f"{value:.2f}" if share else significant(value, 4)
            for value in (score.a, score.b, score.drop_points, *score.ci95)
        )
        test = f"; McNemar p = {significant(score.p_value, 2)}" if score.p_value is not None else ""
        against = " against A's answers" if score is comparison.fidelity else ""
        say(
            f"{score.metric}{against}: {a} -> {b}, a drop of {drop} {score.unit} (95 % interval {low} to {high}{test})"
        )
