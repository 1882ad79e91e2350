"""`lacoot-deploy report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import (
    PATH,
    Command,
    Headed,
    Output,
    bench_group,
    data_group,
    declared,
    output_group,
    runtime_group,
    written,
)
from .render import say

if TYPE_CHECKING:
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.reports import ReportResult
    from lacoot_deploy.runtime.options import Runtime


@click.command("report", cls=Command)
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="RUN_OR_MODEL...")
@declared(
    Headed(
        "Measuring",
        "--scratch",
        type=PATH,
        help="The control: a shallow network trained from scratch.",
    ),
)
@bench_group(switch=True)
@data_group(split="test")
@runtime_group()
@output_group(
    written("-o", "--output", required=True, help="The HTML page to write."),
    Headed("Output", "--title", help="Heading of the page."),
)
def command(
    inputs: tuple[Path, ...],
    output: Path,
    scratch: Path | None,
    title: str | None,
    timing: BenchOptions | None,
    data: DataOptions | None,
    runtime: Runtime,
    out: Output,
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
    from lacoot_deploy.workflow.reporting import report

    with out.progress() as told:
        document = report(
            inputs,
            output,
            scratch=scratch,
            data=data,
            bench=timing,
            runtime=runtime,
            title=title,
            progress=told,
        )
    out.result(document, show, notes=(*document.notes, f"Wrote {output}."))


def show(document: ReportResult) -> None:
    """Print the answer of a report."""
    from lacoot_deploy.reports import answer_line

    say(answer_line(document).replace("\N{NO-BREAK SPACE}", " "))
    if document.missing:
        say(f"The page says how to get what it has no data for: {', '.join(document.missing)}.")
