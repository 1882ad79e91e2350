"""`lacoot-deploy measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .inspect import show
from .live import progress
from .options import PATH, data_options, output_options, parse_floats, parse_size
from .render import note, print_json

if TYPE_CHECKING:
    from lacoot_deploy.data.options import DataOptions


@click.command("measure")
@click.argument("model", type=PATH)
@data_options(split="val", required=True)
@click.option(
    "-o", "--output", type=PATH, required=True, help="The ONNX file to write: a copy with the distances."
)
@click.option(
    "--projections", type=click.IntRange(min=1), default=50, show_default=True, help="Random directions."
)
@click.option("--provider", default="auto", show_default=True, help="Execution provider.")
@click.option("--latency/--no-latency", default=True, help="Time every block as well.  [default: yes]")
@output_options
def command(
    model: Path,
    data: str,
    mean: str | None,
    std: str | None,
    size: str | None,
    split: str,
    samples: int | None,
    seed: int,
    output: Path,
    projections: int,
    provider: str,
    latency: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Measure how far each block's output is from its input.

    Runs any ONNX model over calibration data in ONNX Runtime and writes a copy whose manifest
    holds the distances: mswd, mswd-ascent, paired and cosine, with their floors, what the
    activations look like, and each block's share of the latency.

    \b
    Example:
      lacoot-deploy measure model.onnx --data npz:calibration.npz -o measured.onnx
    """
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.workflow.measuring import measure

    options = data_of(data, mean, std, size, split, samples, seed)
    with progress(quiet=quiet) as report:
        inspection = measure(
            model,
            output,
            options,
            projections=projections,
            runtime=Runtime(provider),
            latency=latency,
            progress=report,
        )
    if as_json:
        print_json(inspection)
        return
    show(inspection, quiet=quiet)
    note(f"Wrote {output}.", quiet=quiet)


def data_of(
    data: str, mean: str | None, std: str | None, size: str | None, split: str, samples: int | None, seed: int
) -> DataOptions:
    """The data options of a command line as one value."""
    from lacoot_deploy.data.options import DataOptions

    means, stds = parse_floats(mean, "--mean"), parse_floats(std, "--std")
    return DataOptions(
        spec=data,
        split=split,
        limit=samples,
        seed=seed,
        mean=None if means is None else tuple(means),
        std=None if stds is None else tuple(stds),
        size=parse_size(size),
    )
