"""`lacoot-deploy collapse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lacoot_deploy.numerals import counted, metric, significant

from .linear import ACTIVATION_CRITERIA, linear_options, linearise_options, show_linearised
from .live import progress
from .measure import data_of
from .options import PATH, data_options, output_options, provider_options, split_names
from .render import note, print_json, say, table

if TYPE_CHECKING:
    from lacoot_deploy.manifest import PlanStep
    from lacoot_deploy.selection.limits import Limit
    from lacoot_deploy.workflow.collapsing import CollapseResult

CRITERIA = ("mswd", "mswd-ascent", "paired", "cosine", "output", "loss", "latency", "random")
REPAIRS = ("none", "affine", "linear", "auto")


@click.command("collapse")
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, help="The file to write  [default: MODEL with .collapsed.onnx]")
@click.option("--blocks", help="Remove exactly these blocks (comma-separated names of `inspect`).")
@click.option("--count", "count_", type=click.IntRange(min=1), help="Remove that many blocks.")
@click.option("--max-distance", type=float, help="Remove every block whose distance is at most this.")
@click.option("--max-drop", type=float, help="Remove as many as cost at most that many points.")
@click.option(
    "--max-drift", type=float, help="Remove as many as change outputs by at most this relative RMS."
)
@click.option("--min-speedup", type=float, help="Remove as few as make it that many times as fast.")
@click.option("--lossless", is_flag=True, help="Remove the blocks that do nothing; needs no data.")
@click.option("--plan", "plan_file", type=PATH, help="Apply a plan written by an earlier run.")
@click.option(
    "--criterion",
    type=click.Choice([*CRITERIA, *ACTIVATION_CRITERIA]),
    metavar="NAME",
    help=f"What ranks the blocks: {', '.join(CRITERIA)}; or the activations: "
    f"{', '.join((*ACTIVATION_CRITERIA, 'output'))}.",
)
@click.option(
    "--search", type=click.Choice(["ranked", "greedy"]), help="Fixed order, or rescored every time."
)
@click.option(
    "--repair", type=click.Choice(REPAIRS), default="auto", show_default=True, help="What is put in place."
)
@click.option(
    "--refit/--no-refit",
    default=None,
    help="Refit the blocks that stay; it adds no cost.  [default: with --repair auto]",
)
@click.option(
    "--form",
    type=click.Choice(["auto", "bypass", "shortcut"]),
    default="auto",
    show_default=True,
    help="How blocks go.",
)
@linear_options
@click.option("--units", is_flag=True, help="Remove single residual units instead of whole blocks.")
@click.option("--dry-run", is_flag=True, help="Plan only; write no model.")
@click.option("--plan-out", type=PATH, help="Write the plan to this JSON file.")
@click.option("--no-probe", is_flag=True, help="Never run the model to settle unknown shapes.")
@data_options(split="val")
@provider_options
@output_options
def command(
    model: Path,
    output: Path | None,
    blocks: str | None,
    count_: int | None,
    max_distance: float | None,
    max_drop: float | None,
    max_drift: float | None,
    min_speedup: float | None,
    lossless: bool,
    plan_file: Path | None,
    criterion: str | None,
    search: str | None,
    repair: str,
    refit: bool | None,
    form: str,
    linearise: str | None,
    fit: str | None,
    merge: str | None,
    inexact: bool,
    units: bool,
    dry_run: bool,
    plan_out: Path | None,
    no_probe: bool,
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
    """Delete blocks from an ONNX model and write the shorter one.

    Say how far to go with one of --blocks, --count, --max-distance, --max-drop, --max-drift,
    --min-speedup, --lossless or --plan; with none of them the plan recommended in the file is applied.
    With --data, removals are tried, their repairs fitted, and the result confirmed on data
    that did not choose it.

    With --linearise the limits speak of activations: they become linear, and the layers around
    them one. Blocks that --blocks names go before.

    \b
    Examples:
      lacoot-deploy collapse model.onnx
      lacoot-deploy collapse model.onnx --max-drop 1 --data cifar10:cifar10.zip
      lacoot-deploy collapse any.onnx --blocks layer3.1,layer4.1 -o short.onnx
      lacoot-deploy collapse mlp.onnx --linearise auto --max-drop 1 --data digits
    """
    from lacoot_deploy.workflow.collapsing import collapse

    far: dict[str, Any] = {
        "count": count_,
        "max_distance": max_distance,
        "max_drop": max_drop,
        "max_drift": max_drift,
        "min_speedup": min_speedup,
        "lossless": lossless or None,
    }
    names = split_names(blocks)
    named = {"blocks": None if names is None else tuple(names)}
    # With --linearise the limit is on activations; blocks can only be named then.
    limit = _limit(named if linearise is not None else named | far)
    linear = linearise_options(
        linearise,
        None if linearise is None else _limit(far),
        criterion=criterion,
        search=search,
        fit=fit,
        merge=merge,
        inexact=inexact,
    )
    with progress(quiet=quiet) as report:
        result = collapse(
            model,
            output,
            limit=limit,
            plan_file=plan_file,
            data=None if data is None else data_of(data, mean, std, size, split, samples, seed),
            criterion=criterion if linearise is None else None,
            search=search if linearise is None else None,
            repair=repair,
            refit=refit,
            form=form,
            linearise=linear,
            granularity="unit" if units else "block",
            probe=not no_probe,
            provider=provider,
            threads=threads,
            dry_run=dry_run,
            plan_out=plan_out,
            progress=report,
        )
    if as_json:
        print_json(result)
        return
    show(result)
    for text in result.notes:
        note(text, quiet=quiet)


def _limit(given: dict[str, Any]) -> Limit | None:
    """A limit from the options that were given; None where none was."""
    if all(value is None for value in given.values()):
        return None
    from lacoot_deploy.selection.limits import Limit

    return Limit(**given)


def _kind(step: PlanStep) -> str:
    return "none" if step.repair is None else step.repair.kind


def show(result: CollapseResult) -> None:
    """Print what went and what it changed."""
    if result.plan.steps:
        _show_blocks(result)
    refits = len(result.plan.refits)
    if refits:
        say(f"Refitted the weights of {counted(refits, 'block')} that stay.")
    show_linearised(result)
    before, after_ = result.before, result.after
    say(
        f"{before.nodes} -> {after_.nodes} nodes, {metric(before.parameters)} -> {metric(after_.parameters)} "
        f"parameters, {metric(before.macs)} -> {metric(after_.macs)} MACs"
    )
    judged = result.plan.evidence.get("judged_by", "")
    confirming = result.plan.evidence.get("confirming") or {}
    if "drop_points" in confirming:
        low, high = confirming["ci95"]
        what = "accuracy" if judged == "accuracy" else "agreement with the dense model"
        say(
            f"Confirmed on {confirming['collapsed']['samples']} other samples: {what} drops by "
            f"{confirming['drop_points']:.2f} points (95 % interval {low:.2f} to {high:.2f})."
        )
    elif confirming:
        say(
            f"Confirmed on other samples: outputs drift by {confirming['collapsed']['drift']:.3g} (relative RMS)."
        )
    say("Dry run: nothing written." if result.output is None else f"Wrote {result.output}.")


def _show_blocks(result: CollapseResult) -> None:
    rows = []
    for step in result.plan.steps:
        after = step.evidence.get("after_this_step") or {}
        score = after.get("accuracy", after.get("agreement"))
        rows.append(
            [
                step.block,
                step.form,
                "exact" if step.evidence.get("lossless") else _kind(step),
                significant(step.evidence.get("score")),
                "-" if score is None else f"{score:.2f}",
            ]
        )
    judged = result.plan.evidence.get("judged_by", "")
    table(
        [
            ("removed block", "left"),
            ("form", "left"),
            ("repair", "left"),
            ("score" if result.plan.linearised else result.plan.criterion or "score", "right"),
            (f"{judged} after %" if judged in ("accuracy", "agreement") else "", "right"),
        ],
        rows,
    )
