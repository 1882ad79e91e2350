"""`lacoot-deploy inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lacoot_deploy.numerals import counted, metric

from .linear import show_activations
from .network import network_lines
from .options import PATH, Command, Headed, Output, declared, output_group
from .render import echo, say

if TYPE_CHECKING:
    from lacoot_deploy.workflow.inspecting import InspectResult


@click.command("inspect", cls=Command)
@click.argument("model", type=PATH)
@declared(
    Headed("What to list", "--units", is_flag=True, help="Every residual unit instead of whole blocks."),
    Headed(
        "What to list",
        "--activations",
        is_flag=True,
        help="The activations, and what would merge without each.",
    ),
    Headed(
        "What to list",
        "--no-probe",
        "probe",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Never run the model to settle unknown shapes.",
    ),
)
@output_group()
def command(model: Path, units: bool, activations: bool, probe: bool, out: Output) -> None:
    """List the residual blocks, or the activations, of any ONNX file.

    Under the shape of each stage its blocks: what removing one saves, as a bar and in numbers,
    the distance recorded in the manifest, and in which form it can go, or why not.

    \b
    Examples:
      lacoot-deploy inspect model.onnx
      lacoot-deploy inspect model.onnx --activations
    """
    if activations:
        from lacoot_deploy.workflow.activations import inspect_activations

        if units:
            raise click.UsageError("Give either --units or --activations.")
        out.result(inspect_activations(model), show_activations)
        return
    from lacoot_deploy.workflow.inspecting import inspect

    with out.progress("looking for blocks"):
        inspection = inspect(model, probe=probe, granularity="unit" if units else "block")
    out.result(inspection, show, notes=tuple(inspection.notes))


def show(inspection: InspectResult) -> None:
    """Print an inspection for reading."""
    model = inspection.model
    say(
        f"{model.path}: {model.nodes} nodes, {metric(model.parameters)} parameters, "
        f"{metric(model.macs)} MACs per sample, opset {model.opset}"
    )
    if not inspection.blocks:
        say("No residual blocks found.")
    else:
        able = sum(block.collapsible for block in inspection.blocks)
        reasons = Counter(block.reason.code for block in inspection.blocks if block.reason is not None)
        why = ", ".join(f"{number} {code}" for code, number in reasons.most_common())
        say(
            f"{counted(len(inspection.blocks), 'block')}, "
            + (f"{able} can go:" if able else f"none can go ({why}):")
        )
        echo("\n".join(network_lines(inspection)))
