"""`lacoot-deploy collapse`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lacoot_deploy.numerals import counted, metric, significant
from lacoot_deploy.selection.names import (
    ACTIVATION_CRITERIA,
    BLOCK_CRITERIA,
    FITS,
    FORMS,
    MERGES,
    REPAIRS,
    SEARCHES,
)

from .heal import HEALING, healing
from .heal import SHARED as HEALING_OPTIONS
from .heal import show as show_healing
from .linear import score_heading, show_linearised
from .options import (
    PATH,
    Command,
    Headed,
    Output,
    Values,
    data_group,
    declared,
    dims_group,
    group,
    output_group,
    runtime_group,
    split_names,
    written,
)
from .render import say, table

if TYPE_CHECKING:
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.manifest import Confirmation, PlanStep, QualityRecord
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.selection.limits import Limit
    from lacoot_deploy.selection.options import LineariseOptions, SearchOptions
    from lacoot_deploy.workflow.collapse_heal import HealAfter, HealedCollapse
    from lacoot_deploy.workflow.collapsing import CollapseResult

FAR, CHOOSING, PLACE, ACTIVATIONS = "How far to go", "Choosing", "Putting in place", "Activations"

_ASKED = (
    Headed(
        FAR,
        "--blocks",
        metavar="NAMES",
        help="Remove exactly these blocks: names, ranges (a.1-a.4), patterns (a.*), comma-separated.",
    ),
    Headed(FAR, "--count", type=click.IntRange(min=1), help="Remove that many blocks."),
    Headed(FAR, "--max-distance", type=float, help="Remove every block whose distance is at most this."),
    Headed(
        FAR,
        "--max-drop",
        type=float,
        help="Remove as many as cost at most that much of the task's score, in its unit.",
    ),
    Headed(
        FAR, "--max-drift", type=float, help="Remove as many as change outputs by at most this relative RMS."
    ),
    Headed(FAR, "--min-speedup", type=float, help="Remove as few as make it that many times as fast."),
    Headed(FAR, "--lossless", is_flag=True, help="Remove the blocks that do nothing; needs no data."),
    Headed(
        CHOOSING,
        "--criterion",
        type=click.Choice(list(dict.fromkeys((*BLOCK_CRITERIA, *ACTIVATION_CRITERIA)))),
        metavar="NAME",
        help=f"What ranks the blocks: {', '.join(BLOCK_CRITERIA)}; or the activations: "
        f"{', '.join(ACTIVATION_CRITERIA)}.",
    ),
    Headed(CHOOSING, "--search", type=click.Choice(SEARCHES), help="Fixed order, or rescored every time."),
    Headed(CHOOSING, "--units", is_flag=True, help="Remove single residual units instead of whole blocks."),
    Headed(
        PLACE,
        "--repair",
        type=click.Choice(REPAIRS),
        default="auto",
        show_default=True,
        help="What is put in place.",
    ),
    Headed(
        PLACE,
        "--refit/--no-refit",
        default=None,
        help="Refit the blocks that stay; it adds no cost.  [default: with --repair auto]",
    ),
    Headed(
        PLACE,
        "--drop-private-io",
        is_flag=True,
        help="Take along inputs and outputs that belong to one block alone, such as a layer's cache.",
    ),
    Headed(
        PLACE,
        "--renumber",
        is_flag=True,
        help="As --drop-private-io, and number the caches that are left without gaps.",
    ),
    Headed(
        PLACE, "--form", type=click.Choice(FORMS), default="auto", show_default=True, help="How blocks go."
    ),
    Headed(
        ACTIVATIONS,
        "--linearise",
        metavar="auto|all|NAMES",
        help="Make activations linear: those without which layers merge for a gain (auto), any (all), or these.",
    ),
    Headed(
        ACTIVATIONS,
        "--fit",
        type=click.Choice(FITS),
        help="What linear activations become.  [default: affine with --data, else identity]",
    ),
    Headed(
        ACTIVATIONS,
        "--merge",
        type=click.Choice(MERGES),
        help="Which linear operators become one.  [default with --linearise: cheaper]",
    ),
    Headed(
        ACTIVATIONS,
        "--inexact",
        is_flag=True,
        help="Merge also where a padded border changes, and say by how much.",
    ),
)


@dataclass(frozen=True)
class Asked:
    """How far to go, with blocks and with activations."""

    limit: Limit | None
    search: SearchOptions
    linearise: LineariseOptions | None


def _asked(values: Values) -> Asked:
    """With --linearise the limits, the criterion and the search are about activations; blocks can then be named."""
    from lacoot_deploy.selection.limits import Limit
    from lacoot_deploy.selection.options import LineariseOptions, SearchOptions

    about = values["linearise"]
    names = ("count", "max_distance", "max_drop", "max_drift", "min_speedup")
    far = {name: values[name] for name in names} | {"lossless": values["lossless"] or None}
    named = {"blocks": split_names(values["blocks"])}
    chosen = {name: values[name] for name in ("criterion", "search")}
    how = {name: values[name] for name in ("fit", "merge", "inexact")}

    def limit(given: dict[str, Any]) -> Limit | None:
        return Limit(**given) if any(value is not None for value in given.values()) else None

    linearise = None
    if about is not None:
        what = about if about in ("auto", "all") else split_names(about)
        linearise = LineariseOptions(what, limit(far), **chosen, **how)
    elif any(how.values()):
        linearise = LineariseOptions(None, **how)
    search = SearchOptions(
        **({} if about is not None else chosen),
        repair=values["repair"],
        refit=values["refit"],
        form=values["form"],
        granularity="unit" if values["units"] else "block",
        private_io="renumber" if values["renumber"] else "drop" if values["drop_private_io"] else "keep",
        seed=values["seed"],
    )
    return Asked(limit(named if about is not None else named | far), search, linearise)


def _heal_after(values: Values) -> HealAfter | None:
    """How to heal; None where `--heal` is not given."""
    if not values["heal"]:
        if values["candidates"] > 1:
            raise click.UsageError("--candidates needs --heal.")
        return None
    from lacoot_deploy.workflow.collapse_heal import HealAfter

    return HealAfter(healing(values), values["candidates"])


@click.command("collapse", cls=Command)
@click.argument("model", type=PATH)
@group("asked", _asked, *_ASKED)
@declared(Headed(FAR, "--plan", "plan_file", type=PATH, help="Apply a plan written by an earlier run."))
@group(
    "after",
    _heal_after,
    Headed(HEALING, "--heal", is_flag=True, help="Teach the network that is left what MODEL answers."),
    Headed(
        HEALING,
        "--candidates",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Heal that many plans for a short time, go on with the best.",
    ),
    *HEALING_OPTIONS,
)
@data_group(split="val")
@dims_group("Size of a free dimension to measure times at  [default: that of the data]")
@runtime_group()
@declared(
    Headed(
        "Runtime",
        "--no-probe",
        "probe",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Never run the model to settle unknown shapes.",
    )
)
@output_group(
    written("-o", "--output", help="The file to write  [default: MODEL with .collapsed.onnx]"),
    Headed("Output", "--dry-run", is_flag=True, help="Plan only; write no model."),
    written("--plan-out", help="Write the plan to this JSON file."),
)
def command(
    model: Path,
    asked: Asked,
    plan_file: Path | None,
    after: HealAfter | None,
    data: DataOptions | None,
    dims: dict[str, int],
    runtime: Runtime,
    probe: bool,
    out: Output,
    **files: Any,
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
      lacoot-deploy collapse model.onnx --count 8 --heal --data npz:calib.npz
    """
    from lacoot_deploy.workflow.collapsing import CollapseRequest, run_collapse

    request = CollapseRequest(
        model,
        limit=asked.limit,
        plan_file=plan_file,
        data=data,
        search=asked.search,
        linearise=asked.linearise,
        runtime=runtime,
        dims=dims,
        probe=probe,
        **files,
    )
    if after is not None:
        from lacoot_deploy.workflow.collapse_heal import run_collapse_heal

        with out.progress() as report:
            healed = run_collapse_heal(request, after, progress=report)
        out.result(healed, _show_healed, notes=(*healed.notes, *healed.healing.notes))
        return
    with out.progress() as report:
        result = run_collapse(request, progress=report)
    out.result(result, show, notes=tuple(result.notes))


def _show_healed(result: HealedCollapse) -> None:
    """Print what went, which plans were tried, and what healing was worth."""
    show(result, named=False)
    rows = [
        [
            f"{one.name}{' (goes on)' if one.chosen else ''}",
            significant(one.before.drift),
            significant(one.after.drift),
            significant(one.after.agreement, 4),
        ]
        for one in result.plan.evidence.candidates or ()
    ]
    if rows:
        table(
            [
                ("plan", "left"),
                ("drift", "right"),
                ("drift healed", "right"),
                ("agreement healed %", "right"),
            ],
            rows,
        )
    show_healing(result.healing)


def _kind(step: PlanStep) -> str:
    return "none" if step.repair is None else step.repair.kind


def show(result: CollapseResult, *, named: bool = True) -> None:
    """Print what went and what it changed."""
    belief = result.plan.evidence.belief
    if belief is not None:
        say(f"Task: {belief.task}.")
        say(belief.sentence or "")
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
    confirmed = result.plan.evidence.confirming
    if confirmed is not None and confirmed.collapsed is not None:
        say(confirmed_line(result.plan.evidence.judged_by, confirmed, confirmed.collapsed))
    if named:
        say("Dry run: nothing written." if result.output is None else f"Wrote {result.output}.")


def confirmed_line(judged: str | None, found: Confirmation, after: QualityRecord) -> str:
    """What the samples that did not choose say."""
    if found.drop_points is None or found.ci95 is None:
        return f"Confirmed on other samples: outputs drift by {significant(after.drift)} (relative RMS)."
    what = {None: "accuracy", "agreement": "agreement with the dense model"}.get(judged, judged)
    low, high = found.ci95
    return (
        f"Confirmed on {after.samples} other samples: {what} drops by {found.drop_points:.2f} "
        f"{found.unit or 'points'} (95 % interval {low:.2f} to {high:.2f})."
    )


def _show_blocks(result: CollapseResult) -> None:
    rows = []
    for step in result.plan.steps:
        after = step.evidence.after_this_step
        score = None if after is None else after.shown
        rows.append(
            [
                step.block,
                step.form,
                "exact" if step.evidence.lossless else _kind(step),
                significant(step.evidence.score),
                "-" if score is None else f"{score:.2f}",
            ]
        )
    judged = result.plan.evidence.judged_by
    table(
        [
            ("removed block", "left"),
            ("form", "left"),
            ("repair", "left"),
            ("score" if result.plan.linearised else result.plan.criterion or "score", "right"),
            (score_heading(judged), "right"),
        ],
        rows,
    )
