"""Small pieces of SVG: text that is escaped, axes with round ticks, markers told apart by their shape.

Sizes are in CSS pixels: a drawing is shown at its own size, and every figure is drawn once for wide and once for narrow
pages, so that letters stay as large as those around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LETTER = 6.9
"""Average width of a letter at the size that numbers have."""

BOLD = 8.1
"""And of one in a label."""


@dataclass(frozen=True)
class Axis:
    """A range of values mapped to pixels.

    Attributes:
        label: What it shows, with its unit.
        low: Smallest value.
        high: Largest value.
        ticks: Values that get a number.
        log: Whether equal distances are equal ratios.
        suffix: Behind the number of every tick.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    suffix: str = ""

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two pixel positions; values outside lie on the nearest end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return start + (end - start) * (value - low) / ((high - low) or 1.0)


def linear_axis(
    label: str,
    values: Sequence[float],
    *,
    count: int = 5,
    zero: bool = False,
    whole: bool = False,
    most: float | None = None,
    suffix: str = "",
    tight: bool = False,
) -> Axis:
    """An axis with round ticks around values.

    Args:
        label: What it shows.
        values: What must fit.
        count: About how many ticks.
        zero: Whether it begins at 0.
        whole: Whether ticks are whole numbers.
        most: A value that cannot be exceeded, such as 100 for percent.
        suffix: Behind the number of every tick.
        tight: Whether it ends at the smallest and largest value, not at the ticks around them.
    """
    low, high = min(values), max(values)
    if zero:
        low = min(low, 0.0)
    if high <= low:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    step = _round_step((high - low) / max(count - 1, 1))
    if whole:
        step = max(1.0, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if most is not None and last * step > most:
        last = max(first + 1, math.floor(most / step + 1e-9))
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    if tight:
        return Axis(label, low, high, tuple(t for t in ticks if low <= t <= high), suffix=suffix)
    return Axis(label, ticks[0], max(ticks[-1], high), ticks, suffix=suffix)


def log_axis(label: str, values: Sequence[float], *, suffix: str = "") -> Axis:
    """A logarithmic axis around positive values, with ticks at 1, 2 and 5 times powers of ten."""
    low, high = min(values) / 1.08, max(values) * 1.08
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 5)
        if low <= digit * 10.0**power <= high
    ]
    if len(ticks) > 9:
        ticks = [tick for tick in ticks if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    if len(ticks) < 2:
        ticks = list(linear_axis(label, [low, high], count=4).ticks)
        ticks = [tick for tick in ticks if low <= tick <= high] or [low]
    return Axis(label, low, high, tuple(ticks), log=True, suffix=suffix)


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(factor * size for factor in (1, 2, 5, 10) if factor * size >= step * 0.999)


def number(value: float) -> str:
    """A tick's number: no needless zeros, no exponent where it is readable."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


def tag(name: str, content: str | Markup = "", **attributes: object) -> Markup:
    """One element; attribute names with underscores become dashed, `class_` is `class`, numbers get two decimals."""
    parts = []
    for key, value in attributes.items():
        if value is None:
            continue
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), text))
    opening = Markup("<") + Markup(name) + Markup("").join(parts)
    return opening + Markup("/>") if not content else opening + Markup(">") + content + Markup(f"</{name}>")


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start", **more: object) -> Markup:
    """A line of text."""
    return tag("text", escape(content), x=x, y=y, class_=class_ or None, text_anchor=anchor, **more)


def join(parts: Sequence[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("").join(parts)


def drawing(name: str, width: float, height: float, title: str, description: str, body: Markup) -> Markup:
    """A whole drawing with the title and the description that a screen reader reads.

    Args:
        name: Unique within the page.
        width: In pixels.
        height: In pixels.
        title: What it is.
        description: What it shows, in a sentence or two.
        body: Its elements.
    """
    head = tag("title", escape(title), id=f"{name}-t") + tag("desc", escape(description), id=f"{name}-d")
    return tag(
        "svg",
        head + body,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )


MARKERS = ("circle", "triangle", "cross", "diamond", "square", "down")


def marker(shape: str, x: float, y: float, class_: str, tip: str = "", size: float = 5.0) -> Markup:
    """A point, told apart by its shape.

    Args:
        shape: One of `MARKERS`, or `ring`.
        x: In pixels.
        y: In pixels.
        class_: Class for colour and filling.
        tip: What a pointer resting on it shows.
        size: Half of its width.
    """
    inner = tag("title", escape(tip)) if tip else Markup("")
    if shape in ("circle", "ring"):
        return tag("circle", inner, cx=x, cy=y, r=size if shape == "circle" else 2 * size, class_=class_)
    if shape == "cross":
        way = f"M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}l{-2 * size:g} {2 * size:g}"
        return tag("path", inner, d=way, class_=f"{class_} open")
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
        "triangle": [(0, -1.25), (1.15, 0.85), (-1.15, 0.85)],
        "down": [(0, 1.25), (1.15, -0.85), (-1.15, -0.85)],
    }[shape]
    points = " ".join(f"{x + a * size:.1f},{y + b * size:.1f}" for a, b in corners)
    return tag("polygon", inner, points=points, class_=class_)
