"""`lacoot-deploy export`."""

from __future__ import annotations

from pathlib import Path

import click

from .live import progress
from .options import PATH, output_options
from .render import print_json, say


@click.command("export")
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The ONNX file to write.")
@click.option("--trust", is_flag=True, help="Import the python: model that the checkpoint names.")
@output_options
def command(checkpoint: Path, output: Path, trust: bool, as_json: bool, verbose: int, quiet: bool) -> None:
    """Export a checkpoint to ONNX, checked against PyTorch.

    CHECKPOINT is a run folder of `train` or the checkpoint file in it. The manifest (block
    distances, preprocessing, source) travels inside the ONNX file.

    \b
    Example:
      lacoot-deploy export runs/digits -o model.onnx
    """
    from lacoot_deploy.workflow.training import export

    with progress(quiet=quiet, what="exporting"):
        summary = export(checkpoint, output, trust=trust)
    if as_json:
        print_json(summary)
        return
    say(
        f"{summary.model}: {summary.blocks} blocks recorded; differs from PyTorch by at most "
        f"{summary.export_drift:.1g} of the largest output."
    )
