"""`lacoot-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import PATH, Command, Headed, Output, declared, output_group, written
from .render import say

if TYPE_CHECKING:
    from lacoot_deploy.workflow.training import ExportResult


@click.command("export", cls=Command)
@click.argument("checkpoint", type=PATH)
@declared(
    Headed("Trust", "--trust", is_flag=True, help="Import the python: model that the checkpoint names.")
)
@output_group(written("-o", "--output", required=True, help="The ONNX file to write."))
def command(checkpoint: Path, output: Path, trust: bool, out: Output) -> None:
    """Export a checkpoint to ONNX, checked against PyTorch.

    CHECKPOINT is a run folder of `train` or the checkpoint file in it. The manifest (block
    distances, preprocessing, source) travels inside the ONNX file.

    \b
    Example:
      lacoot-deploy export runs/digits -o model.onnx
    """
    from lacoot_deploy.workflow.training import export

    with out.progress("exporting"):
        summary = export(checkpoint, output, trust=trust)
    out.result(summary, show)


def show(summary: ExportResult) -> None:
    """Print what was exported."""
    say(
        f"{summary.model}: {summary.blocks} blocks recorded; differs from PyTorch by at most "
        f"{summary.export_drift:.1g} of the largest output."
    )
