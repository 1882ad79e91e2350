"""Score against depth and latency: the search step by step, results tables, the networks measured, the controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lacoot_deploy.data.options import portable
from lacoot_deploy.manifest import Plan
from lacoot_deploy.reports.records import Answer, Cost, Curve, Point, Scratch
from lacoot_deploy.workflow.report_inputs import Cast, GivenModel, ResultsTable, TableRow

CURVES = 12
"""Most series that a chart stays readable with."""

WAYS: tuple[tuple[str, str, Callable[[TableRow], bool]], ...] = (
    ("default", "default", lambda row: row.way == "default"),
    ("paper's way", "paper", lambda row: row.way == "paper" or _plain_ranking(row)),
    ("random, mean", "random", lambda row: row.way == "random" and row.repair in (None, "none")),
)
"""What of a results table is drawn: a name, the kind of curve, and which rows belong to it."""


def curves_of(
    parts: Cast,
    answer: Answer,
    plan: Plan | None,
    tables: Sequence[ResultsTable],
    *,
    steps: Mapping[int, float],
    others: Sequence[Point],
) -> tuple[str, list[Curve]]:
    """Score against depth and latency: the search, the tables, the networks measured, and the controls.

    Args:
        parts: The networks.
        answer: What went, what it cost and gained, and the control.
        plan: The plan behind it, where it is known.
        tables: Results tables.
        steps: Relative latency of the dense network cut by so many steps of the plan.
        others: Further collapsed networks.

    Returns:
        What the scores are (`accuracy` or `agreement`), and the curves.
    """
    cost, scratch = answer.cost, answer.scratch
    metric = "agreement" if cost is not None and cost.metric.startswith("agreement") else "accuracy"
    control = _control_curve(parts, scratch) if scratch is not None and metric == "accuracy" else None
    curves = [_search_curve(plan, metric, steps)]
    if metric == "accuracy":
        found = [curve for table in _relevant(tables, parts.dense) for curve in _table_curves(table)]
        curves += [curve for curve in found if curve.kind != "scratch" or control is None]
    if cost is not None and cost.unit == "%":
        curves += _measured_curves(parts, answer, cost, metric, others)
    return metric, [curve for curve in (*curves, control) if curve is not None][:CURVES]


def _measured_curves(
    parts: Cast, answer: Answer, cost: Cost, metric: str, others: Sequence[Point]
) -> list[Curve]:
    """The dense network, the chosen one, and others of which the same was measured."""
    curves, judged = [], cost.judged_on
    if cost.before is not None or metric == "agreement":
        start = cost.before if cost.before is not None else 100.0
        macs = None if parts.dense is None else parts.dense.opened.costs.macs
        dense = Point(removed=0, score=start, latency=1.0, macs=macs, label="dense")
        curves.append(Curve(name="dense", kind="dense", judged_on=judged, points=[dense]))
    chosen = Point(
        removed=len(answer.removed),
        score=cost.after,
        latency=None if answer.gain is None else 1 / answer.gain.speedup,
        macs=None if parts.short is None else parts.short.opened.costs.macs,
        label="chosen",
    )
    curves.append(Curve(name="chosen", kind="chosen", judged_on=judged, points=[chosen]))
    if others:
        name = "other collapsed networks"
        curves.append(Curve(name=name, kind="other", judged_on=judged, points=list(others)))
    return curves


def _control_curve(parts: Cast, scratch: Scratch) -> Curve | None:
    """The control, where its score was measured."""
    if scratch.score is None or parts.scratch is None:
        return None
    opened = parts.scratch.opened
    point = Point(
        removed=None if parts.dense is None else len(parts.dense.opened.blocks) - len(opened.blocks),
        score=scratch.score,
        latency=None if not scratch.speedup else 1 / scratch.speedup,
        macs=opened.costs.macs,
        label="from scratch",
    )
    return Curve(name="trained from scratch", kind="scratch", judged_on=scratch.judged_on, points=[point])


def _search_curve(plan: Plan | None, metric: str, steps: Mapping[int, float]) -> Curve | None:
    if plan is None:
        return None
    choosing = plan.evidence.choosing
    start = None if choosing is None or choosing.dense is None else choosing.dense.named(metric)
    points = [] if start is None else [Point(removed=0, score=start, latency=1.0)]
    for depth, step in enumerate(plan.steps, 1):
        after = step.evidence.after_this_step
        score = None if after is None else after.named(metric)
        if score is not None:
            points.append(
                Point(removed=depth, score=score, latency=steps.get(depth), label=f"without {step.block}")
            )
    if len(points) < 2:
        return None
    data = portable(plan.evidence.data or "")
    return Curve(
        name="the search, step by step",
        kind="search",
        judged_on=f"samples that chose ({data})" if data else "samples that chose",
        points=points,
    )


def _relevant(tables: Sequence[ResultsTable], dense: GivenModel | None) -> list[ResultsTable]:
    """The tables of the very training that the dense network came from, where there are any; else all of them."""
    recipe = {} if dense is None else dense.recipe
    keys = ("model", "penalty", "epochs", "lr", "seed")
    if recipe:
        same = [t for t in tables if t.recipe and all(t.recipe.get(k) == recipe.get(k) for k in keys)]
        if same:
            return same
    return list(tables)


def _table_curves(table: ResultsTable) -> list[Curve]:
    curves = []
    for name, kind, belongs in WAYS:
        rows = [row for row in table.rows if belongs(row)]
        depths = sorted({row.removed for row in rows})
        if not depths:
            continue
        points = []
        if table.dense_accuracy is not None and 0 not in depths:
            points.append(Point(removed=0, score=table.dense_accuracy, latency=1.0))
        for depth in depths:
            here = [row for row in rows if row.removed == depth]
            speed = [1 / row.latency.speedup for row in here if row.latency is not None]
            points.append(
                Point(
                    removed=depth,
                    score=float(np.mean([row.test_accuracy for row in here])),
                    latency=float(np.mean(speed)) if speed else 1.0 if depth == 0 else None,
                    macs=here[0].macs,
                )
            )
        curves.append(
            Curve(
                name=f"{table.name}: {name}",
                kind=kind,
                judged_on="test images of the results table",
                points=points,
            )
        )
    points = [
        Point(
            removed=len(row.without) or row.removed,
            score=row.test_accuracy,
            latency=None if row.latency is None else 1 / row.latency.speedup,
            macs=row.macs,
            label="from scratch",
        )
        for row in table.scratch
    ]
    if points:
        curves.append(
            Curve(
                name=f"{table.name}: from scratch",
                kind="scratch",
                judged_on="test images of the results table",
                points=points,
            )
        )
    return curves


def _plain_ranking(row: TableRow) -> bool:
    return (row.way, row.criterion, row.repair) == ("ranked", "mswd", "none")
