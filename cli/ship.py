"""`lacoot-deploy ship`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lacoot_deploy.numerals import significant

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
    split_names,
    written,
)
from .render import say, table

if TYPE_CHECKING:
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.shipping.account import Gain, Line, ShipResult

TARGETS = ("cpu", "mobile", "cuda", "tensorrt", "openvino", "qnn", "coreml")


@click.command("ship", cls=Command)
@click.argument("models", nargs=-1, required=True, type=PATH, metavar="MODEL...")
@declared(
    Headed(
        "Conversions",
        "--target",
        type=click.Choice(TARGETS),
        default="cpu",
        show_default=True,
        help="The device: chooses conversions, types and shapes.",
    ),
    Headed(
        "Conversions",
        "--convert",
        multiple=True,
        metavar="CHAIN",
        help="In place of the target's: fp16, int8, int8-dynamic, weights4, weights8, fixed, opset, ort, or "
        "several in order, such as fixed+int8+ort. Exit code 4 where one is not shipped.",
    ),
    Headed("Conversions", "--opset", type=click.IntRange(min=1), help="For --convert opset: the version."),
    Headed(
        "Conversions",
        "--max-drop",
        type=click.FloatRange(min=0),
        help="Most that the score may drop against MODEL in float32.  [default: 1 point for shares of samples]",
    ),
)
@data_group(split="val", required=True)
@bench_group(Headed("Measuring", "--bench/--no-bench", default=True, help="Measure latency.  [default: yes]"))
@runtime_group()
@output_group(written("-o", "--output", required=True, help="The folder to write."))
def command(
    models: tuple[Path, ...],
    target: str,
    convert: tuple[str, ...],
    opset: int | None,
    max_drop: float | None,
    data: DataOptions,
    timing: BenchOptions | None,
    runtime: Runtime,
    output: Path,
    out: Output,
) -> None:
    """Make files that run on a device, each verified, with one account of what it cost.

    Give the dense float32 model first and then what was cut from it: all are converted and held
    against the dense one. A quarter of the samples calibrates, a quarter chooses what stays
    float32, and half of them, which chose nothing, is what the account is about. What drops
    by more than the limit is reported and left out.

    The folder holds the files, ship.json, report.html, README.md with hashes and commands to
    verify, and run.py, which needs nothing of lacoot-deploy.

    \b
    Examples:
      lacoot-deploy ship model.onnx short.onnx --data digits -o out
      lacoot-deploy ship model.onnx short.onnx --target mobile \\
          --data cifar10:cifar10.zip -o phone
      lacoot-deploy ship model.onnx --convert int8 --convert fp16+ort \\
          --data npz:samples.npz --max-drop 0.5 -o out
    """
    from lacoot_deploy.workflow.ship_request import ShipRequest
    from lacoot_deploy.workflow.shipping import require, run_ship

    chains = tuple(name for text in convert for name in split_names(text) or [])
    request = ShipRequest(
        models=models,
        output=output,
        data=data,
        target=target,
        conversions=chains,
        max_drop=max_drop,
        opset=opset,
        batch=click.get_current_context().params["batch"] or 1,
        bench=timing,
        runtime=runtime,
    )
    with out.progress() as report:
        account = run_ship(request, progress=report)
    out.result(account, show, notes=(f"Wrote {output}.",))
    require(account, chains)


def show(account: ShipResult) -> None:
    """Print an account for reading."""
    conditions = account.conditions
    say(f"For {account.target}: {account.why}")
    table(
        [
            ("file", "left"),
            (conditions.measure, "right"),
            ("drop", "right"),
            ("speed-up", "right"),
            ("KB", "right"),
            ("", "left"),
        ],
        [_row(line) for line in account.files],
    )
    by = "labels" if conditions.labels else "the dense model's answers"
    say(
        f"{conditions.measure} by {by} on {conditions.confirming_samples} samples that chose nothing; 95 % intervals "
        f"in ship.json. Latency of all files in one run at batch {conditions.batch} on {conditions.provider}."
    )
    for line in account.files:
        if line.reason is not None:
            say(f"{line.name}, {line.verdict}: {line.reason}.")
        for text in (*line.notes, *(f"fell back: {f}" for f in line.fallbacks)):
            say(f"{line.name}: {text}")
    for gain in account.gains:
        say(_gain(gain))
    for text in account.notes:
        say(text)


def _row(line: Line) -> list[str]:
    score, timed = line.score, line.latency
    return [
        line.name,
        "-" if score is None else f"{score.value:.2f}",
        "-" if score is None else f"{score.drop:.2f}",
        "-" if timed is None else f"{timed.speedup:.2f}",
        "-" if line.bytes is None else significant(line.bytes / 1000),
        "" if line.verdict == "shipped" else line.verdict,
    ]


def _gain(gain: Gain) -> str:
    cut, converted = gain.over_cut, gain.over_converted
    return (
        f"{gain.both}: {gain.speedup:.2f} times as fast as the dense model; {_times(cut)} times as fast as the cut "
        f"alone, {_times(converted)} as {gain.conversion} alone."
    )


def _times(ratio: tuple[float, float, float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"
