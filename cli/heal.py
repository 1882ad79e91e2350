"""`lacoot-deploy heal`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lacoot_deploy.numerals import metric, significant

from .live import progress
from .measure import data_of
from .options import PATH, data_options, output_options, provider_options, split_names
from .render import note, print_json, say

if TYPE_CHECKING:
    from lacoot_deploy.workflow.healing_files import HealResult


def healing_options(function: Any) -> Any:
    """How a network is healed; `heal` and `collapse --heal` share these."""
    for option in (
        click.option("--bf16", is_flag=True, help="Compute in bfloat16 where PyTorch can."),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where PyTorch trains.",
        ),
        click.option("--augment", help="Vary images: flip, crop or both (comma-separated)."),
        click.option(
            "--minutes",
            type=float,
            default=10.0,
            show_default=True,
            help="End after that long at the latest.",
        ),
        click.option("--steps", type=int, default=480, show_default=True, help="Optimiser steps."),
    ):
        function = option(function)
    return function


@click.command("heal")
@click.argument("dense", type=PATH)
@click.argument("cut", type=PATH)
@click.option("-o", "--output", type=PATH, help="The file to write  [default: CUT with .healed.onnx]")
@healing_options
@click.option("--batch", type=int, default=64, show_default=True, help="Samples of a step.")
@click.option("--rate", type=float, default=1e-3, show_default=True, help="Peak learning rate.")
@click.option(
    "--held-back", type=float, default=0.15, show_default=True, help="Share of the samples that judges only."
)
@click.option("--ends", type=float, default=1.0, show_default=True, help="Weight of the ends of blocks.")
@click.option("--features", type=float, default=1.0, show_default=True, help="Weight of what the head reads.")
@click.option("--outputs", type=float, default=0.0, show_default=True, help="Weight of the outputs.")
@click.option("--labels", type=float, default=0.0, show_default=True, help="Weight of the labels.")
@click.option("--match", help="Further values to match (comma-separated names).")
@click.option(
    "--train",
    type=click.Choice(["all", "near"]),
    default="all",
    show_default=True,
    help="All weights, or those beside a hole.",
)
@click.option("--head", is_flag=True, help="Train the head too.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted healing of the same output.")
@click.option("--force", is_flag=True, help="Go on although CUT is no cut of DENSE.")
@data_options(split="val", required=True)
@provider_options
@output_options
def command(
    dense: Path,
    cut: Path,
    output: Path | None,
    augment: str | None,
    match: str | None,
    resume: bool,
    data: str,
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
    **how: Any,
) -> None:
    """Teach a cut network what the dense one answers.

    Trains the weights of CUT, any ONNX file with DENSE's inputs and outputs, on a few hundred
    samples that need no labels, and writes the same graph with them: nodes, names and layout stay.
    Part of the samples is held back to judge by; a network that becomes no better there is left
    as it was.

    \b
    Example:
      lacoot-deploy heal model.onnx short.onnx \\
          --data npz:calibration.npz -o healed.onnx
    """
    from lacoot_deploy.healing.options import HealOptions
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.workflow.healing_files import HealRequest, run_heal

    request = HealRequest(
        dense,
        cut,
        data_of(data, mean, std, size, split, samples, seed),
        output,
        HealOptions(
            seed=seed,
            augment=tuple(split_names(augment) or ()),
            match=tuple(split_names(match) or ()),
            **how,
        ),
        Runtime(provider, threads),
        resume,
    )
    with progress(quiet=quiet, what="preparing") as report:
        result = run_heal(request, progress=report)
    if as_json:
        print_json(result)
        return
    show(result)
    for text in result.notes:
        note(text, quiet=quiet)


def show(result: HealResult) -> None:
    """Print what healing was worth."""
    record = result.record
    before, after = record.before, record.after
    say(
        f"Trained {record.weights} weights ({metric(record.parameters)} entries) on {record.samples} samples: "
        f"{record.steps} steps in {significant(record.seconds)} s."
    )
    low, high = record.gain_ci95
    say(
        f"On {record.held_back} samples held back: {record.measure} {significant(before.score, 4)} -> "
        f"{significant(after.score, 4)} (gain {significant(record.gain)}, 95 % interval {significant(low)} to "
        f"{significant(high)}), drift {significant(before.drift)} -> {significant(after.drift)}."
    )
    say(f"Wrote {result.output}." if result.healed else f"Wrote {result.output}, the cut file itself.")
