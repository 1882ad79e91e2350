"""`lacoot-deploy measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .inspect import show
from .options import (
    PATH,
    Command,
    Headed,
    Output,
    data_group,
    declared,
    dims_group,
    output_group,
    runtime_group,
    written,
)

if TYPE_CHECKING:
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.runtime.options import Runtime


@click.command("measure", cls=Command)
@click.argument("model", type=PATH)
@declared(
    Headed(
        "Measuring",
        "--projections",
        type=click.IntRange(min=1),
        default=50,
        show_default=True,
        help="Random directions.",
    ),
    Headed(
        "Measuring",
        "--latency/--no-latency",
        default=True,
        help="Time every block as well.  [default: yes]",
    ),
)
@dims_group("Size of a free dimension to time the blocks at  [default: that of the data]")
@data_group(split="val", required=True)
@runtime_group()
@output_group(
    written("-o", "--output", required=True, help="The ONNX file to write: a copy with the distances.")
)
def command(
    model: Path,
    output: Path,
    data: DataOptions,
    runtime: Runtime,
    projections: int,
    latency: bool,
    dims: dict[str, int],
    out: Output,
) -> None:
    """Measure how far each block's output is from its input.

    Runs any ONNX model over calibration data in ONNX Runtime and writes a copy whose manifest
    holds the distances: mswd, mswd-ascent, paired and cosine, with their floors, what the
    activations look like, and each block's share of the latency.

    \b
    Example:
      lacoot-deploy measure model.onnx --data npz:calibration.npz -o measured.onnx
    """
    from lacoot_deploy.workflow.measuring import measure

    with out.progress() as report:
        inspection = measure(
            model,
            output,
            data,
            projections=projections,
            runtime=runtime,
            latency=latency,
            dims=dims,
            progress=report,
        )
    out.result(inspection, show, notes=(*inspection.notes, f"Wrote {output}."))
