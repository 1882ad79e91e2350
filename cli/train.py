"""`lacoot-deploy train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .live import progress
from .options import PATH, output_options
from .render import note, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from lacoot_deploy.training.loop import EpochReport
    from lacoot_deploy.workflow.merging import MergeSummary
    from lacoot_deploy.workflow.training import TrainSummary


@click.command("train")
@click.argument("recipe", type=PATH, required=False)
@click.option("-o", "--output", "out", type=PATH, required=True, help="Run folder; made if missing.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting of the recipe."
)
@click.option(
    "--heal",
    "plan_file",
    type=PATH,
    metavar="PLAN",
    help="Fine-tune what this plan leaves of the run given as RECIPE.",
)
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in the folder.")
@click.option("--trust", is_flag=True, help="With --heal: import the python: model that the run names.")
@output_options
def command(
    recipe: Path | None,
    out: Path,
    settings: tuple[str, ...],
    plan_file: Path | None,
    resume: bool,
    trust: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Train with the MSWD penalty, so that blocks become removable.

    Without a RECIPE it trains the embedded demo: a small residual network on the handwritten
    digits. The run folder gets checkpoint.safetensors, metrics.jsonl and model.onnx, which
    carries the distance of every block and the recommended plan.

    A recipe with method = "easier", "nepenthe", "tlc" or "layercollapse" makes activations
    linear in rounds until validation drops by max_drop points, and merges what became linear:
    model.onnx is the merged network, unmerged.onnx what it was before.

    With --heal, RECIPE is the folder of a finished run: its network is cut by the plan, the
    repairs become layers, and a few epochs with the uncut network as teacher follow.

    \b
    Examples:
      lacoot-deploy train samples/recipes/resnet20-cifar10.toml \\
          --set data=cifar10:cifar10.zip -o runs/resnet20
      lacoot-deploy collapse runs/resnet20/model.onnx --count 4 \\
          --data cifar10:cifar10.zip --plan-out plan.json
      lacoot-deploy train runs/resnet20 --heal plan.json -o runs/healed
      lacoot-deploy train samples/recipes/easier-digits.toml -o runs/easier
    """
    if plan_file is not None:
        _heal(recipe, plan_file, out, settings, resume, trust, as_json=as_json, verbose=verbose, quiet=quiet)
        return
    from lacoot_deploy.workflow.training import is_main_process, train

    with progress(quiet=quiet, what="preparing") as told:
        summary = train(
            recipe,
            out,
            overrides=settings,
            resume=resume,
            progress=_reporter(told, quiet=quiet),
            note=lambda text: note(text, quiet=quiet),
            planning=told,
        )
    if not is_main_process():
        return
    if as_json:
        print_json(summary)
        return
    if summary.merge is not None:
        for line in rounds_lines(summary):
            click.echo(line)
        return
    plan = summary.plan
    if plan is None:
        click.echo(f"{summary.model}: no block can go within the limit; try a larger penalty or max_drop.")
        return
    confirming = plan.evidence["confirming"]
    click.echo(
        f"{summary.model}: {len(plan.steps)} blocks can go ({', '.join(step.block for step in plan.steps)}); "
        f"validation accuracy {confirming['dense']['accuracy']:.2f} -> {confirming['collapsed']['accuracy']:.2f} %."
    )
    note(f"Next: lacoot-deploy collapse {summary.model}", quiet=quiet)


def _heal(
    run: Path | None,
    plan_file: Path,
    out: Path,
    settings: tuple[str, ...],
    resume: bool,
    trust: bool,
    *,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    from lacoot_deploy.workflow.healing import heal
    from lacoot_deploy.workflow.training import is_main_process

    if run is None:
        raise click.UsageError("--heal needs the run folder that the plan was made for.")
    with progress(quiet=quiet, what="preparing") as told:
        reporter = _reporter(told, quiet=quiet)
        summary = heal(run, plan_file, out, overrides=settings, resume=resume, trust=trust, progress=reporter)
    if not is_main_process():
        return
    if as_json:
        print_json(summary)
        return
    steps = [("dense", summary.dense_val_accuracy), ("cut", summary.cut_val_accuracy)]
    before = ", ".join(f"{name} {value:.2f} %" for name, value in steps if value is not None)
    click.echo(
        f"{summary.model}: {len(summary.blocks)} blocks gone; validation accuracy {before}, "
        f"healed {summary.val_accuracy:.2f} %."
    )
    if summary.merge is not None:
        click.echo(merge_line(summary.merge))


def _reporter(told: Callable[[int, int, str], None], *, quiet: bool) -> Any:
    """One line an epoch on stderr; within an epoch, on a terminal, how far it is."""
    from lacoot_deploy.training.run import Progress

    class Reporter(Progress):
        def note(self, text: str) -> None:
            note(text, quiet=quiet)

        def step(self, epoch: int, step: int, steps: int) -> None:
            if step == steps or step % 5 == 0:
                told(step, steps, f"epoch {epoch}")

        def epoch(self, report: EpochReport) -> None:
            note(epoch_line(report), quiet=quiet)

    return Reporter()


def rounds_lines(summary: TrainSummary) -> list[str]:
    """What a method of rounds came to, in a few lines."""
    merge = summary.merge
    assert merge is not None
    names = f" ({', '.join(merge.linear)})" if merge.linear else ""
    return [
        f"{summary.model}: {len(merge.linear)} activations are linear{names}.",
        f"Validation accuracy {summary.dense_val_accuracy:.2f} -> {summary.val_accuracy:.2f} %; "
        f"stopped: {summary.stopped}.",
        merge_line(merge),
    ]


def merge_line(merge: MergeSummary) -> str:
    """What merging came to."""
    if not merge.merged:
        return "Nothing was merged."
    sizes = [("parameters", merge.before.parameters, merge.after.parameters)]
    if merge.before.macs is not None and merge.after.macs is not None:
        sizes.append(("multiply-adds", merge.before.macs, merge.after.macs))
    figures = ", ".join(
        f"{what} {before:,} -> {after:,} ({100 * (after / max(before, 1) - 1):+.1f} %)"
        for what, before, after in sizes
    )
    return f"{len(merge.merged)} pairs of operators merged: {figures}."


def epoch_line(report: EpochReport) -> str:
    """The figures of an epoch in 79 columns."""
    width = len(str(report.epochs))
    penalty = "" if report.penalty is None else f"  mswd {report.penalty:.3f}"
    return (
        f"epoch {report.epoch:>{width}}/{report.epochs}  loss {report.loss:.3f}{penalty}"
        f"  train {report.train_accuracy:.1f}%  val {report.val_accuracy:.2f}%"
        f"  {report.seconds:.1f}s  left {_duration(report.remaining)}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
