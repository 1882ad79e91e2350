"""The figures of a report: which series they hold and how those are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from lacoot_deploy.reports.curves import Chart, Mark, Series, draw_chart
from lacoot_deploy.reports.dots import draw_distances, draw_latency
from lacoot_deploy.reports.records import Curve, Point, ReportResult
from lacoot_deploy.reports.svg import linear_axis
from lacoot_deploy.reports.words import fixed

LOOKS = {
    "search": ("c1", "circle", "solid"),
    "default": ("c2", "down", "solid"),
    "paper": ("c3", "triangle", "dashed"),
    "random": ("c0", "cross", "dotted"),
    "scratch": ("c4", "diamond", "none"),
    "chosen": ("c1", "circle", "none"),
    "dense": ("c0", "square", "none"),
    "other": ("c5", "down", "none"),
}
"""Colour, marker and line of every kind of curve."""

AGAIN = ("c5", "c4", "c2", "c3", "c0")
"""Colours of further curves of one kind; their lines are dashed differently too."""


def depth_figure(document: ReportResult) -> Markup | None:
    """Score against the number of blocks removed; None where less than two networks are known."""
    return _figure(
        document,
        "depth",
        f"{document.metric.capitalize()} against depth",
        "blocks removed",
        lambda point: None if point.removed is None else float(point.removed),
    )


def latency_curve_figure(document: ReportResult) -> Markup | None:
    """Score against latency; None where less than two networks were timed."""
    return _figure(
        document,
        "against-latency",
        f"{document.metric.capitalize()} against latency",
        "latency in % of the dense network's",
        lambda point: None if point.latency is None else 100 * point.latency,
    )


def _figure(
    document: ReportResult, name: str, title: str, x_label: str, place: Callable[[Point], float | None]
) -> Markup | None:
    depth = name == "depth"
    series, values, scores, used = [], [], [], dict.fromkeys(LOOKS, 0)
    cost = document.answer.cost if document.answer is not None else None
    for curve in document.curves:
        placed = [(place(point), point) for point in curve.points]
        marks = []
        for x, point in placed:
            if x is None:
                continue
            low = high = None
            if (
                curve.kind == "chosen"
                and cost is not None
                and cost.ci95 is not None
                and cost.before is not None
            ):
                low, high = cost.before - cost.ci95[1], cost.before - cost.ci95[0]
                scores += [low, min(high, 100.0)]
                high = min(high, 100.0)
            marks.append(Mark(x, point.score, _tip(point), low, high, _label(curve, point)))
            values.append(x)
            scores.append(point.score)
        # A line of which only the dense network has a place here says nothing.
        if not marks or (len(marks) < 2 <= len(curve.points)):
            continue
        marks.sort(key=lambda mark: mark.x)
        series.append(_series(curve, marks, used))
    if len(values) < 2 or len(set(values)) < 2:
        return None
    x_axis = linear_axis(x_label, values, zero=True, whole=depth, count=7, suffix="" if depth else " %")
    y_axis = linear_axis(f"{document.metric}, %", scores, most=100.0)
    description = "; ".join(
        f"{one.name}: {fixed(one.marks[0].y)} % at {one.marks[0].x:.3g}"
        + (f" to {fixed(one.marks[-1].y)} % at {one.marks[-1].x:.3g}" if len(one.marks) > 1 else "")
        for one in series
    )
    return draw_chart(Chart(name, title, f"{description}.", x_axis, y_axis, series))


def _series(curve: Curve, marks: Sequence[Mark], used: dict[str, int]) -> Series:
    look, shape, dash = LOOKS.get(curve.kind, LOOKS["other"])
    again = used.get(curve.kind, 0)
    used[curve.kind] = again + 1
    if again:
        look = AGAIN[(again - 1) % len(AGAIN)]
        dash = dash if dash == "none" else ("dashed", "dotted", "dashdot")[(again - 1) % 3]
    return Series(curve.name, marks, look, shape, dash, ring=curve.kind == "chosen")


def _label(curve: Curve, point: Point) -> str:
    if curve.kind in ("chosen", "dense"):
        return curve.kind
    return "from scratch" if curve.kind == "scratch" and len(curve.points) == 1 else ""


def _tip(point: Point) -> str:
    parts = [point.label] if point.label else []
    if point.removed is not None:
        parts.append(f"{point.removed} gone")
    parts.append(f"{fixed(point.score)} %")
    if point.latency is not None:
        parts.append(f"{100 * point.latency:.3g} % of the latency")
    return ", ".join(parts)


def distance_figure(document: ReportResult) -> Markup | None:
    """Distances of blocks with floors; None where none were measured."""
    if document.distance is None:
        return None
    return draw_distances(document.blocks, document.distance, f"Distance {document.distance} by block")


def latency_figure(document: ReportResult) -> Markup | None:
    """Distributions of latency; None where none were measured."""
    if document.latency is None:
        return None
    return draw_latency(document.latency, "Distribution of latency")


def training_figures(document: ReportResult) -> list[tuple[str, list[Markup]]]:
    """For each training run its name, accuracy by epoch, and loss and penalty by epoch."""
    found = []
    for index, run in enumerate(document.training):
        charts = []
        accuracy = [
            ("validation", "c1", "circle", "solid", [(e.epoch, e.val_accuracy) for e in run.epochs]),
            (
                "training, as augmented",
                "c0",
                "square",
                "dashed",
                [(e.epoch, e.train_accuracy) for e in run.epochs],
            ),
        ]
        charts.append(
            _epochs(f"training{index}-accuracy", f"Accuracy of {run.name} by epoch", "accuracy, %", accuracy)
        )
        losses = [
            ("training loss", "c0", "square", "dashed", [(e.epoch, e.loss) for e in run.epochs]),
            ("validation loss", "c1", "circle", "solid", [(e.epoch, e.val_loss) for e in run.epochs]),
            (
                "mean distance of the blocks",
                "c2",
                "down",
                "dotted",
                [(e.epoch, e.penalty) for e in run.epochs],
            ),
        ]
        charts.append(
            _epochs(f"training{index}-loss", f"Losses of {run.name} by epoch", "loss; distance", losses)
        )
        drawn = [chart for chart in charts if chart is not None]
        if drawn:
            found.append((run.name, drawn))
    return found


def _epochs(
    name: str,
    title: str,
    label: str,
    given: Sequence[tuple[str, str, str, str, Sequence[tuple[int, float | None]]]],
) -> Markup | None:
    series = []
    for what, look, shape, dash, pairs in given:
        known = [(epoch, value) for epoch, value in pairs if value is not None]
        # Markers on every epoch of a long run would hide the line.
        marked = shape if len(known) <= 40 else ""
        marks = [Mark(float(epoch), value, f"epoch {epoch}: {value:.4g}") for epoch, value in known]
        if marks:
            series.append(Series(what, marks, look, marked, dash))
    values = [mark.y for one in series for mark in one.marks]
    epochs = [mark.x for one in series for mark in one.marks]
    if not values:
        return None
    percent = label.endswith("%")
    y_axis = linear_axis(label, values, most=100.0 if percent else None, zero=not percent)
    ends = "; ".join(f"{one.name} from {one.marks[0].y:.4g} to {one.marks[-1].y:.4g}" for one in series)
    axis = linear_axis("epoch", epochs, whole=True, count=7, tight=True)
    chart = Chart(name, title, f"{len(set(epochs))} epochs: {ends}.", axis, y_axis, series, height=270)
    return draw_chart(chart)
