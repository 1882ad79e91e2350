"""`lacoot-deploy train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import PATH, Command, Headed, Output, declared, output_group
from .render import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from lacoot_deploy.training.loop import EpochReport
    from lacoot_deploy.workflow.healing import HealRunResult
    from lacoot_deploy.workflow.merging import MergeSummary
    from lacoot_deploy.workflow.training import TrainResult


@click.command("train", cls=Command)
@click.argument("recipe", type=PATH, required=False)
@declared(
    Headed(
        "Recipe",
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting of the recipe.",
    ),
    Headed(
        "Healing",
        "--heal",
        "plan_file",
        type=PATH,
        metavar="PLAN",
        help="Fine-tune what this plan leaves of the run given as RECIPE.",
    ),
    Headed("Healing", "--trust", is_flag=True, help="Import the python: model that the run names."),
)
@output_group(
    Headed(
        "Output", "-o", "--output", "folder", type=PATH, required=True, help="Run folder; made if missing."
    ),
    Headed("Output", "--resume", is_flag=True, help="Go on with the interrupted run in the folder."),
)
def command(
    recipe: Path | None,
    folder: Path,
    settings: tuple[str, ...],
    plan_file: Path | None,
    resume: bool,
    trust: bool,
    out: Output,
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
        _heal(recipe, plan_file, folder, settings, resume, trust, out)
        return
    from lacoot_deploy.workflow.training import is_main_process, train

    with out.progress("at work") as told:
        reporter = _reporter(told, out)
        summary = train(
            recipe,
            folder,
            overrides=settings,
            resume=resume,
            progress=reporter,
            note=reporter.note,
            planning=told,
        )
    if is_main_process():
        following = () if summary.plan is None else (f"Next: lacoot-deploy collapse {summary.model}",)
        out.result(summary, lambda done: say_all(train_lines(done)), notes=following)


def _heal(
    run: Path | None,
    plan_file: Path,
    folder: Path,
    settings: tuple[str, ...],
    resume: bool,
    trust: bool,
    out: Output,
) -> None:
    from lacoot_deploy.workflow.healing import heal_run
    from lacoot_deploy.workflow.training import is_main_process

    if run is None:
        raise click.UsageError("--heal needs the run folder that the plan was made for.")
    with out.progress("at work") as told:
        summary = heal_run(
            run,
            plan_file,
            folder,
            overrides=settings,
            resume=resume,
            trust=trust,
            progress=_reporter(told, out),
        )
    if is_main_process():
        out.result(summary, lambda done: say_all(heal_lines(done)))


def _reporter(told: Callable[[int, int, str], None], out: Output) -> Any:
    """One line an epoch on stderr; within an epoch, on a terminal, how far it is."""
    from lacoot_deploy.training.run import Progress

    class Reporter(Progress):
        def note(self, text: str) -> None:
            out.note(text)

        def step(self, epoch: int, step: int, steps: int) -> None:
            if step == steps or step % 5 == 0:
                told(step, steps, f"epoch {epoch}")

        def epoch(self, report: EpochReport) -> None:
            out.note(epoch_line(report))

    return Reporter()


def say_all(lines: list[str]) -> None:
    """One line after the other."""
    for line in lines:
        say(line)


def train_lines(summary: TrainResult) -> list[str]:
    """What a run came to, in a few lines."""
    merge, plan = summary.merge, summary.plan
    if merge is not None:
        names = f" ({', '.join(merge.linear)})" if merge.linear else ""
        return [
            f"{summary.model}: {len(merge.linear)} activations are linear{names}.",
            f"Validation accuracy {summary.dense_val_accuracy:.2f} -> {summary.val_accuracy:.2f} %; "
            f"stopped: {summary.stopped}.",
            merge_line(merge),
        ]
    if plan is None:
        return [f"{summary.model}: no block can go within the limit; try a larger penalty or max_drop."]
    line = (
        f"{summary.model}: {len(plan.steps)} blocks can go ({', '.join(step.block for step in plan.steps)})"
    )
    found = plan.evidence.confirming
    scores = [] if found is None else [one.shown for one in (found.dense, found.collapsed) if one is not None]
    if len(scores) == 2 and None not in scores:
        line += f"; validation accuracy {scores[0]:.2f} -> {scores[1]:.2f} %"
    return [f"{line}."]


def heal_lines(summary: HealRunResult) -> list[str]:
    """What a healing came to."""
    steps = [("dense", summary.dense_val_accuracy), ("cut", summary.cut_val_accuracy)]
    before = ", ".join(f"{name} {value:.2f} %" for name, value in steps if value is not None)
    line = (
        f"{summary.model}: {len(summary.blocks)} blocks gone; validation accuracy {before}, "
        f"healed {summary.val_accuracy:.2f} %."
    )
    return [line] if summary.merge is None else [line, merge_line(summary.merge)]


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
    """The figures of an epoch in 80 columns; the least telling ones give way where numbers are long."""
    width = len(str(report.epochs))
    seconds = f"{report.seconds:.1f}s" if report.seconds < 100 else f"{report.seconds:.0f}s"
    parts = [
        f"epoch {report.epoch:>{width}}/{report.epochs}",
        f"loss {report.loss:.3f}",
        *([] if report.penalty is None else [f"mswd {report.penalty:.3f}"]),
        f"train {report.train_accuracy:.1f}%",
        f"val {report.val_accuracy:.2f}%",
        seconds,
        f"left {_duration(report.remaining)}",
    ]
    for giving_way in (parts[-4], seconds):
        if len("  ".join(parts)) > 80:
            parts.remove(giving_way)
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
