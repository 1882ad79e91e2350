"""`lacoot-deploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import PATH, output_options
from .render import count, note, print_json, shape_text, significant, table

if TYPE_CHECKING:
    from lacoot_deploy.workflow.inspecting import BlockEntry, Inspection


@click.command("inspect")
@click.argument("model", type=PATH)
@click.option("--units", is_flag=True, help="List every residual unit instead of whole blocks.")
@click.option("--no-probe", is_flag=True, help="Never run the model to settle unknown shapes.")
@output_options
def command(model: Path, units: bool, no_probe: bool, as_json: bool, verbose: int, quiet: bool) -> None:
    """List the residual blocks of any ONNX file.

    For each block: shape, what its removal saves, the distance recorded in the manifest, and
    whether it can go, or why not.

    \b
    Example:
      lacoot-deploy inspect model.onnx
    """
    from lacoot_deploy.workflow.inspecting import inspect

    inspection = inspect(model, probe=not no_probe, granularity="unit" if units else "block")
    if as_json:
        print_json(inspection)
        return
    show(inspection, quiet=quiet)


def show(inspection: Inspection, *, quiet: bool = False) -> None:
    """Print an inspection for reading."""
    model = inspection.model
    click.echo(
        f"{model.path}: {model.nodes} nodes, {count(model.parameters)} parameters, "
        f"{count(model.macs)} MACs per sample, opset {model.opset}"
    )
    if not inspection.blocks:
        click.echo("No residual blocks found.")
    else:
        able = sum(block.collapsible for block in inspection.blocks)
        click.echo(f"{len(inspection.blocks)} blocks, {able} can go:")
        total = model.macs or None
        largest = max((_distance(block) or 0.0 for block in inspection.blocks), default=0.0)
        rows = [_row(block, total, largest) for block in inspection.blocks]
        table(
            [
                ("block", "left"),
                ("shape", "left"),
                ("MACs", "right"),
                ("distance", "right"),
                ("", "left"),
                ("can go as", "left"),
            ],
            rows,
        )
        for block in inspection.blocks:
            if block.reason is not None:
                click.echo(f"{block.name}: {block.reason.text} [{block.reason.code}]")
    for text in inspection.notes:
        note(text, quiet=quiet)


def _distance(block: BlockEntry) -> float | None:
    record = (block.distance or {}).get("mswd") or (block.distance or {}).get("paired")
    return None if record is None else record.value


def _row(block: BlockEntry, total: int | None, largest: float) -> list[str]:
    distance = _distance(block)
    share = f"{count(block.macs)}" + (f" {100 * block.macs / total:3.0f}%" if block.macs and total else "")
    bar = "" if distance is None or not largest else "█" * max(round(8 * distance / largest), 0) or "▏"
    return [
        block.name,
        shape_text(block.shape),
        share,
        significant(distance),
        bar,
        ", ".join(block.forms) if block.collapsible else "no",
    ]
