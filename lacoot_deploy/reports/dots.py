"""Charts with a row for each thing: distances of blocks with their floors, distributions of latency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from lacoot_deploy.reports.curves import NARROW, WIDE
from lacoot_deploy.reports.records import BlockLine, Latency
from lacoot_deploy.reports.svg import (
    BOLD,
    LETTER,
    Axis,
    drawing,
    join,
    linear_axis,
    log_axis,
    marker,
    number,
    tag,
    text,
)

ROW = 24.0


def draw_distances(blocks: Sequence[BlockLine], distance: str, title: str) -> Markup:
    """A row for each block that was measured: its distance as a dot, the floor as a bar, hollow where the block went.

    Args:
        blocks: The blocks, in graph order.
        distance: Which of their distances.
        title: What the drawing is.
    """
    shown = [block for block in blocks if distance in block.distances]
    values = [block.distances[distance] for block in shown]
    floors = [block.floors[distance] for block in shown if distance in block.floors]
    positive = [value for value in (*values, *floors) if value > 0]
    log = len(positive) > 1 and max(positive) > 20 * min(positive) and min(values) > 0
    axis = log_axis(distance, positive) if log else linear_axis(distance, [*values, *floors], zero=True)
    gone = sum(block.form is not None for block in shown)
    description = (
        f"Distance {distance} of {len(shown)} blocks, {gone} of which went, from {number(min(values))} to "
        f"{number(max(values))}. The table below holds the same."
    )
    drawn = [
        _distances(shown, distance, axis, f"distances-{side}", width, title, description)
        for side, width in (("w", WIDE), ("n", NARROW))
    ]
    return tag("div", drawn[0], class_="wide") + tag("div", drawn[1], class_="narrow") + _distance_legend()


def _distance_legend() -> Markup:
    pictures = [
        (marker("circle", 18, 8, "mark c0", size=4.5), "stays"),
        (marker("circle", 18, 8, "mark c1 hollow", size=4.5), "went"),
        (
            tag("path", d="M18 1V15", class_="floor"),
            "floor: what two samples of one distribution show; a distance there is zero for all we can tell",
        ),
    ]
    items = [
        tag("li", tag("svg", picture, width="36", height="16", aria_hidden="true") + tag("span", words))
        for picture, words in pictures
    ]
    return tag("ul", join(items), class_="legend")


def _distances(
    blocks: Sequence[BlockLine],
    distance: str,
    axis: Axis,
    name: str,
    width: float,
    title: str,
    description: str,
) -> Markup:
    longest = max(len(block.name) for block in blocks)
    room = min(longest * LETTER + 12, width * 0.36)
    left, right, top = room + 10, width - 50, 8.0
    bottom = top + ROW * len(blocks)
    parts = []
    for tick in axis.ticks:
        x = axis.place(tick, left, right)
        parts.append(tag("path", d=f"M{x:.1f} {top}V{bottom:.1f}", class_="grid"))
        parts.append(text(x, bottom + 18, number(tick), "tick", "middle"))
    for index, block in enumerate(blocks):
        y = top + ROW * (index + 0.5)
        value, floor = block.distances[distance], block.floors.get(distance)
        x = axis.place(value, left, right)
        parts.append(text(room, y + 4, shortened(block.name, int(room / LETTER)), "row", "end"))
        parts.append(tag("path", d=f"M{left:.1f} {y:.1f}H{x:.1f}", class_="guide"))
        if floor is not None and (floor > 0 or not axis.log):
            at = axis.place(floor, left, right)
            parts.append(tag("path", d=f"M{at:.1f} {y - 8:.1f}v16", class_="floor"))
        went = block.form is not None
        tip = f"{block.name}: {number(value)}" + (f", floor {number(floor)}" if floor is not None else "")
        parts.append(marker("circle", x, y, "mark c1 hollow" if went else "mark c0", tip, 5.5))
        if went:
            parts.append(text(width - 4, y + 4, "went", "tick", "end"))
    parts.append(text((left + right) / 2, bottom + 36, axis.label, "axis", "middle"))
    return drawing(name, width, bottom + 42, title, description, join(parts))


def shortened(words: str, letters: int) -> str:
    """The words, or their end where they are too long: what tells names of modules apart is their end."""
    return words if len(words) <= letters else "…" + words[-max(letters - 1, 1) :]


def draw_latency(latency: Latency, title: str) -> Markup:
    """A histogram for each network, one above the other on one axis, with median and 90th percentile."""
    low, high = latency.edges[0], latency.edges[-1]
    axis = log_axis("milliseconds per run", [low * 1.08, high / 1.08])
    description = "; ".join(
        f"{one.name}: median {one.median:.3g} ms, 90th percentile {one.p90:.3g} ms, {one.samples} runs"
        for one in latency.histograms
    )
    drawn = [
        _latency(latency, axis, f"latency-{side}", width, title, description + ".")
        for side, width in (("w", WIDE), ("n", NARROW))
    ]
    return tag("div", drawn[0], class_="wide") + tag("div", drawn[1], class_="narrow")


def _latency(latency: Latency, axis: Axis, name: str, width: float, title: str, description: str) -> Markup:
    left, right, each = 12.0, width - 12, 104.0
    parts = []
    bottom = each * len(latency.histograms) + 6
    for tick in axis.ticks:
        x = axis.place(tick, left, right)
        parts.append(tag("path", d=f"M{x:.1f} 6V{bottom:.1f}", class_="grid"))
        parts.append(text(x, bottom + 18, number(tick), "tick", "middle"))
    for index, one in enumerate(latency.histograms):
        base = each * (index + 1)
        most = max(one.counts) or 1
        way = [f"M{axis.place(latency.edges[0], left, right):.1f} {base:.1f}"]
        for start, end, count in zip(latency.edges, latency.edges[1:], one.counts, strict=False):
            y = base - 62 * math.sqrt(count / most)
            way.append(
                f"L{axis.place(start, left, right):.1f} {y:.1f}L{axis.place(end, left, right):.1f} {y:.1f}"
            )
        way.append(f"L{right:.1f} {base:.1f}Z")
        look = f"c{index % 6}"
        parts.append(tag("path", d="".join(way), class_=f"area {look}"))
        for value, class_ in ((one.median, "median"), (one.p90, "p90")):
            x = axis.place(value, left, right)
            parts.append(tag("path", d=f"M{x:.1f} {base - 72:.1f}V{base:.1f}", class_=class_))
        words = f"{one.name}: median {one.median:.3g}, 90 % within {one.p90:.3g} ms"
        parts.append(text(left, base - 80, shortened_end(words, int((right - left) / BOLD)), "label"))
    parts.append(text((left + right) / 2, bottom + 36, axis.label, "axis", "middle"))
    return drawing(name, width, bottom + 42, title, description, join(parts))


def shortened_end(words: str, letters: int) -> str:
    """The words, or their beginning where they are too long."""
    return words if len(words) <= letters else words[: max(letters - 1, 1)] + "…"
