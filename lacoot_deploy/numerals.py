"""Numbers as words of a sentence: so many significant figures, metric prefixes, one block and two blocks."""

from __future__ import annotations

import math

PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def significant(value: float | None, digits: int = 3, *, uncertainty: float | None = None) -> str:
    """A number to so many significant figures, without exponent where it is readable; `-` for None.

    Args:
        value: The number.
        digits: Significant figures at most.
        uncertainty: Its standard error, where known: no digit stays beyond the second of it.
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7 and not uncertainty:
        return f"{value:.{digits - 1}e}"
    largest = math.floor(math.log10(abs(value)))
    last = largest - digits + 1
    if uncertainty and math.isfinite(uncertainty):
        last = min(max(last, math.floor(math.log10(uncertainty)) - 1), largest)
    return f"{round(value, -last):.{max(0, -last)}f}"


def metric(value: float | None, unit: str = "") -> str:
    """A count with a metric prefix and three significant figures; `-` for None."""
    if value is None:
        return "-"
    for prefix, size in PREFIXES:
        if abs(value) >= size:
            return f"{significant(value / size)} {prefix}{unit}"
    return f"{int(value)} {unit}".rstrip()


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 block`, `2 blocks`; `things` is the plural where it is not the singular with an s."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"
