"""`lacoot-deploy report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .live import progress
from .measure import data_of
from .options import PATH, data_options, output_options, provider_options
from .render import note, print_json, say

if TYPE_CHECKING:
    from lacoot_deploy.reports import ReportDocument


@click.command("report")
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="RUN_OR_MODEL...")
@click.option("-o", "--output", type=PATH, required=True, help="The HTML page to write.")
@click.option("--scratch", type=PATH, help="The control: a shallow network trained from scratch.")
@click.option("--bench", is_flag=True, help="Measure latency as well.")
@click.option(
    "--min-time", type=float, default=8.0, show_default=True, help="Seconds of timed runs of each pair."
)
@click.option("--batch", type=click.IntRange(min=1), help="Samples in one run of --bench.")
@click.option("--title", help="Heading of the page.")
@data_options(split="test")
@provider_options
@output_options
def command(
    inputs: tuple[Path, ...],
    output: Path,
    scratch: Path | None,
    bench: bool,
    min_time: float,
    batch: int | None,
    title: str | None,
    data: str | None,
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
) -> None:
    """Write one page that says what went, what it cost and what it gained.

    Give run folders of `train`, the dense and the collapsed ONNX file, and the JSON results of
    `compare`, `bench` and `collapse`, in any order: files are matched through the history that
    they carry. With --data and --bench what is missing is measured on the spot. The page needs
    no network and runs no script.

    \b
    Examples:
      lacoot-deploy report runs/digits --data digits --bench -o report.html
      lacoot-deploy report model.onnx short.onnx compare.json -o report.html
    """
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.workflow.reporting import report

    with progress(quiet=quiet) as told:
        document = report(
            inputs,
            output,
            scratch=scratch,
            data=None if data is None else data_of(data, mean, std, size, split, samples, seed),
            bench=BenchOptions(batch=batch, min_time=min_time) if bench else None,
            runtime=Runtime(provider, threads),
            title=title,
            progress=told,
        )
    if as_json:
        print_json(document)
        return
    show(document)
    for text in document.notes:
        note(text, quiet=quiet)
    note(f"Wrote {output}.", quiet=quiet)


def show(document: ReportDocument) -> None:
    """Print the answer of a report."""
    from lacoot_deploy.reports import answer_line

    say(answer_line(document).replace("\N{NO-BREAK SPACE}", " "))
    if document.missing:
        say(f"The page says how to get what it has no data for: {', '.join(document.missing)}.")
