"""`lacoot-deploy heal`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lacoot_deploy.numerals import metric, significant

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
    split_names,
    written,
)
from .render import say

if TYPE_CHECKING:
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.healing.options import HealOptions
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.workflow.healing_files import HealResult

HEALING = "Healing"
LOSS = "What is matched (weights)"

SHARED = (
    Headed(HEALING, "--steps", type=int, default=480, show_default=True, help="Optimiser steps."),
    Headed(
        HEALING,
        "--minutes",
        type=float,
        default=10.0,
        show_default=True,
        help="End after that long at the latest.",
    ),
    Headed(HEALING, "--augment", metavar="flip,crop", help="Vary images: flip, crop or both."),
    Headed(
        HEALING,
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where PyTorch trains.",
    ),
    Headed(HEALING, "--bf16", is_flag=True, help="Compute in bfloat16."),
)
"""What `collapse --heal` takes too."""


def healing(values: Values) -> HealOptions:
    """The options of a healing from a command line."""
    from lacoot_deploy.healing.options import HealOptions

    known = {entry.name for entry in fields(HealOptions)}
    given = {name: value for name, value in values.items() if name in known}
    lists = {name: split_names(values.get(name)) or () for name in ("augment", "match")}
    return HealOptions(**{**given, **lists})


@click.command("heal", cls=Command)
@click.argument("dense", type=PATH)
@click.argument("cut", type=PATH)
@group(
    "options",
    healing,
    *SHARED,
    Headed(HEALING, "--batch", type=int, default=64, show_default=True, help="Samples of a step."),
    Headed(HEALING, "--rate", type=float, default=3e-3, show_default=True, help="Peak learning rate."),
    Headed(
        HEALING,
        "--held-back",
        type=float,
        default=0.15,
        show_default=True,
        help="Share of the samples that judges and never trains.",
    ),
    Headed(
        HEALING,
        "--train",
        type=click.Choice(["all", "near"]),
        default="all",
        show_default=True,
        help="All weights, or those beside a hole.",
    ),
    Headed(HEALING, "--head", is_flag=True, help="Train the head too."),
    Headed(HEALING, "--force", is_flag=True, help="Go on although CUT is no cut of DENSE."),
    Headed(LOSS, "--ends", type=float, default=1.0, show_default=True, help="Ends of the blocks that stay."),
    Headed(LOSS, "--features", type=float, default=1.0, show_default=True, help="What the head reads."),
    Headed(LOSS, "--match", metavar="NAMES", help="Further values (comma-separated), weighed like that."),
    Headed(
        LOSS, "--answers", type=float, default=0.0, show_default=True, help="The dense network's outputs."
    ),
    Headed(LOSS, "--labels", type=float, default=0.0, show_default=True, help="The labels."),
)
@declared(
    Headed(HEALING, "--resume", is_flag=True, help="Go on with an interrupted healing of the same output."),
    written("-o", "--output", help="The file to write  [default: CUT with .healed.onnx]"),
)
@data_group(split="val", required=True)
@runtime_group()
@output_group()
def command(
    dense: Path,
    cut: Path,
    output: Path | None,
    resume: bool,
    options: HealOptions,
    data: DataOptions,
    runtime: Runtime,
    out: Output,
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
    from lacoot_deploy.workflow.healing_files import HealRequest, run_heal
    from lacoot_deploy.workflow.training import is_main_process

    request = HealRequest(dense, cut, data, output, options, runtime, resume)
    with out.progress("preparing") as report:
        result = run_heal(request, progress=report)
    if is_main_process():
        out.result(result, show, notes=tuple(result.notes))


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
