"""`lacoot-deploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lacoot_deploy.numerals import counted, metric

from .linear import show_activations
from .live import progress
from .network import network_lines
from .options import PATH, output_options
from .render import echo, note, print_json, say

if TYPE_CHECKING:
    from lacoot_deploy.workflow.inspecting import Inspection


@click.command("inspect")
@click.argument("model", type=PATH)
@click.option("--units", is_flag=True, help="List every residual unit instead of whole blocks.")
@click.option("--activations", is_flag=True, help="List the activations, and what would merge without each.")
@click.option("--no-probe", is_flag=True, help="Never run the model to settle unknown shapes.")
@output_options
def command(
    model: Path, units: bool, activations: bool, no_probe: bool, as_json: bool, verbose: int, quiet: bool
) -> None:
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
        listed = inspect_activations(model)
        if as_json:
            print_json(listed)
        else:
            show_activations(listed)
        return
    from lacoot_deploy.workflow.inspecting import inspect

    with progress(quiet=quiet, what="looking for blocks"):
        inspection = inspect(model, probe=not no_probe, granularity="unit" if units else "block")
    if as_json:
        print_json(inspection)
        return
    show(inspection, quiet=quiet)


def show(inspection: Inspection, *, quiet: bool = False) -> None:
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
        say(f"{counted(len(inspection.blocks), 'block')}, {able} can go:")
        echo("\n".join(network_lines(inspection)))
    for text in inspection.notes:
        note(text, quiet=quiet)
