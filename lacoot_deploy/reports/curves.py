"""Line charts: several series over two axes, a legend, and labels that keep out of each other's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lacoot_deploy.reports.svg import BOLD, LETTER, Axis, drawing, join, marker, number, tag, text

Place = Callable[[float], float]
"""From a value to pixels."""

WIDE, NARROW = 980.0, 340.0


@dataclass(frozen=True)
class Mark:
    """A point of a series: its place, what a pointer shows, the ends of its interval, and a label beside it."""

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: What the legend says.
        marks: The points.
        look: Class for the colour, `c0` to `c5`.
        shape: Shape of the markers; empty for none.
        dash: `solid`, `dashed`, `dotted` or `none` for points alone.
        ring: Whether its points are ringed, as the one that was chosen is.
    """

    name: str
    marks: Sequence[Mark]
    look: str
    shape: str = "circle"
    dash: str = "solid"
    ring: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart before it is drawn: name (unique in the page), title, description, axes and series."""

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    series: Sequence[Series] = field(default_factory=tuple)
    height: float = 360.0


def draw_chart(chart: Chart) -> Markup:
    """The chart for wide and for narrow pages, with its legend."""
    wide = _draw(chart, f"{chart.name}-w", WIDE, chart.height)
    narrow = _draw(chart, f"{chart.name}-n", NARROW, min(chart.height, 290.0))
    drawn = tag("div", wide, class_="wide") + tag("div", narrow, class_="narrow")
    return drawn + legend(chart.series) if len(chart.series) > 1 else drawn


def legend(series: Sequence[Series]) -> Markup:
    """The names of series, each with a piece of its line and its marker."""
    items = []
    for one in series:
        sample = []
        if one.dash != "none":
            sample.append(tag("path", d="M1 8H35", class_=f"line {one.look} {one.dash}"))
        if one.ring:
            sample.append(marker("ring", 18, 8, f"ring {one.look}", size=3.5))
        if one.shape:
            sample.append(marker(one.shape, 18, 8, f"mark {one.look}", size=4.2))
        picture = tag("svg", join(sample), width="36", height="16", aria_hidden="true", focusable="false")
        items.append(tag("li", picture + tag("span", Markup.escape(one.name))))
    return tag("ul", join(items), class_="legend")


def _draw(chart: Chart, name: str, width: float, height: float) -> Markup:
    wide_tick = max(len(number(tick) + chart.y.suffix) for tick in chart.y.ticks)
    left, right, top, bottom = 14 + LETTER * wide_tick, width - 16, 30.0, height - 46

    def place_x(value: float) -> float:
        return chart.x.place(value, left + 10, right - 10)

    def place_y(value: float) -> float:
        return chart.y.place(value, bottom, top)

    parts = [text(4, 15, chart.y.label, "axis")]
    for tick in chart.y.ticks:
        y = place_y(tick)
        parts.append(tag("path", d=f"M{left:.1f} {y:.1f}H{right:.1f}", class_="grid"))
        parts.append(text(left - 6, y + 4, number(tick) + chart.y.suffix, "tick", "end"))
    shown = _fitting(chart.x, place_x)
    for tick in chart.x.ticks:
        x = place_x(tick)
        parts.append(tag("path", d=f"M{x:.1f} {bottom:.1f}v5", class_="grid"))
        if tick in shown:
            parts.append(text(x, bottom + 19, number(tick) + chart.x.suffix, "tick", "middle"))
    parts.append(text((left + right) / 2, height - 6, chart.x.label, "axis", "middle"))
    taken: list[tuple[float, float, float, float]] = [
        (place_x(m.x) - 7, place_y(m.y) - 7, place_x(m.x) + 7, place_y(m.y) + 7)
        for one in chart.series
        for m in one.marks
    ]
    for one in chart.series:
        taken += _line_boxes(one, place_x, place_y)
    labels = []
    for one in chart.series:
        parts.append(_series(one, place_x, place_y))
        for mark in one.marks:
            if mark.label:
                box, drawn = _label(
                    mark.label, place_x(mark.x), place_y(mark.y), taken, (left, top, right, bottom)
                )
                taken.append(box)
                labels.append(drawn)
    return drawing(name, width, height, chart.title, chart.description, join([*parts, *labels]))


def _fitting(axis: Axis, place: Place) -> set[float]:
    """The ticks whose numbers do not run into each other."""
    shown, end = set(), -1e9
    for tick in axis.ticks:
        half = LETTER * len(number(tick) + axis.suffix) / 2
        x = place(tick)
        if x - half >= end + 6:
            shown.add(tick)
            end = x + half
    return shown


def _series(one: Series, place_x: Place, place_y: Place) -> Markup:
    at = [(place_x(m.x), place_y(m.y)) for m in one.marks]
    parts = []
    if one.dash != "none" and len(at) > 1:
        way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        parts.append(tag("path", d=way, class_=f"line {one.look} {one.dash}"))
    for (x, y), mark in zip(at, one.marks, strict=True):
        if mark.low is not None and mark.high is not None:
            ends = [place_y(mark.low), place_y(mark.high)]
            way = f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}M{x - 4:.1f} {ends[0]:.1f}h8M{x - 4:.1f} {ends[1]:.1f}h8"
            parts.append(tag("path", d=way, class_=f"line {one.look} thin"))
        if one.ring:
            parts.append(marker("ring", x, y, f"ring {one.look}"))
        if one.shape:
            parts.append(marker(one.shape, x, y, f"mark {one.look}", mark.tip))
    return join(parts)


def _line_boxes(one: Series, place_x: Place, place_y: Place) -> list[tuple[float, float, float, float]]:
    """Small boxes along the line of a series, for labels to keep away from."""
    if one.dash == "none":
        return []
    boxes = []
    for first, second in zip(one.marks, one.marks[1:], strict=False):
        (x, y), (u, v) = ((place_x(mark.x), place_y(mark.y)) for mark in (first, second))
        pieces = max(2, int(max(abs(u - x), abs(v - y)) / 8))
        for i in range(1, pieces):
            a, b = x + (u - x) * i / pieces, y + (v - y) * i / pieces
            boxes.append((a - 4, b - 4, a + 4, b + 4))
    return boxes


def _label(
    words: str,
    x: float,
    y: float,
    taken: Sequence[tuple[float, float, float, float]],
    frame: tuple[float, float, float, float],
) -> tuple[tuple[float, float, float, float], Markup]:
    """A label beside a point: at the side where it hides least."""
    width = BOLD * len(words)
    boxes = [
        (x + 15, y - 8, x + 15 + width, y + 8),
        (x - 15 - width, y - 8, x - 15, y + 8),
        (x - width / 2, y - 30, x + width / 2, y - 14),
        (x - width / 2, y + 14, x + width / 2, y + 30),
        (x + 6, y + 14, x + 6 + width, y + 30),
        (x - 6 - width, y + 14, x - 6, y + 30),
        (x + 6, y - 30, x + 6 + width, y - 14),
        (x - 6 - width, y - 30, x - 6, y - 14),
    ]

    def hidden(box: tuple[float, float, float, float]) -> float:
        over = sum(max(0.0, b - a) for a, b in ((frame[0], box[0]), (frame[1], box[1])) if b < a)
        out = max(0, frame[0] - box[0]) + max(0, box[2] - frame[2] - 12)
        out += max(0, frame[1] - 12 - box[1]) + max(0, box[3] - frame[3])
        for other in taken:
            wide = min(box[2], other[2]) - max(box[0], other[0])
            high = min(box[3], other[3]) - max(box[1], other[1])
            if wide > 0 and high > 0:
                over += wide * high / 16
        return over + 20 * out

    best = min(boxes, key=hidden)
    return best, text(best[0], best[3] - 4, words, "label")
