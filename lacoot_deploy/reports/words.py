"""Numbers and sentences as a reader wants them."""

from __future__ import annotations

import math
import re

from lacoot_deploy import numerals
from lacoot_deploy.reports.records import Cost, Gain, ReportResult, Scratch

MINUS = "\N{MINUS SIGN}"


def fixed(value: float | None, places: int = 2) -> str:
    """A number with so many decimals and a real minus sign; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{abs(value):.{places}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) != 0 else text


def signed(value: float, places: int = 2) -> str:
    """A number with its sign, + or minus; zero has none."""
    text = fixed(value, places)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number to so many significant figures, as `numerals` writes it, with a real minus sign and dash."""
    return "\N{EN DASH}" if value is None else numerals.significant(value, digits).replace("-", MINUS)


def count(value: float | None) -> str:
    """A count with a metric prefix and three significant figures, likewise."""
    return "\N{EN DASH}" if value is None else numerals.metric(value).replace("-", MINUS)


def file_size(value: int | None) -> str:
    """Bytes as KiB, MiB or GiB; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{significant(value / size)} {unit}"
    return f"{significant(value / 1024)} KiB"


def times(value: float, ci95: tuple[float, float]) -> tuple[str, str, str]:
    """A speed-up and the ends of its interval with as many decimals as the interval leaves."""
    width = ci95[1] - ci95[0]
    places = 2 if width <= 0 else min(2, max(0, 1 - math.floor(math.log10(width))))
    return fixed(value, places), fixed(ci95[0], places), fixed(ci95[1], places)


def headline(document: ReportResult) -> str:
    """The answer in one or two sentences.

    Args:
        document: The report.
    """
    answer = document.answer
    if answer is None:
        return "Nothing has been cut from this network yet."
    dense = document.network("dense")
    gone = len(answer.removed)
    of = f" of {dense.blocks}" if dense is not None and dense.blocks >= gone else ""
    verb = ("is gone" if gone == 1 else "are gone") if answer.written else "can go"
    parts = [f"{gone}{of} block{'s' * (gone != 1 or bool(of))} {verb}"] if gone else []
    if answer.linearised:
        linear, merged = len(answer.linearised), len(answer.merged)
        activations = f"{linear} activation{'s' * (linear != 1)} became linear"
        parts.append(
            f"{activations} and {merged} pair{'s' * (merged != 1)} of operators one"
            if merged
            else activations
        )
    if answer.cost is not None:
        parts.append(_cost(answer.cost))
    if answer.gain is not None:
        parts.append(_gain(answer.gain))
    first = "; ".join(parts) + "."
    whole = first if answer.scratch is None else f"{first} {_scratch(answer.scratch)}".strip()
    return kept_together(whole)


def kept_together(text: str) -> str:
    """Text in which no number is parted from its unit at the end of a line."""
    return re.sub(r"(?<=\d) (?=(%|ms|points|blocks?|[kMG]\b|KiB|MiB|GiB))", "\N{NO-BREAK SPACE}", text)


def _cost(cost: Cost) -> str:
    unit = f" {cost.unit}".rstrip()
    interval = ""
    if cost.ci95 is not None:
        interval = f" (95 % interval {fixed(cost.ci95[0])} to {fixed(cost.ci95[1])})"
    points = " points" if cost.unit == "%" else ""
    if cost.before is None:
        return f"{cost.metric} is {fixed(cost.after)}{unit}{interval}"
    change = "is unchanged" if fixed(cost.drop) == "0.00" else ""
    if change:
        return f"{cost.metric} {change} at {fixed(cost.after)}{unit}{interval}"
    drop = cost.drop or 0.0
    moved = "drops" if drop > 0 else "rises"
    after_words = " after fine-tuning" if cost.healed else ""
    return (
        f"{cost.metric} {moved} by {fixed(abs(drop))}{points}{after_words}, from {fixed(cost.before)} to "
        f"{fixed(cost.after)}{unit}{interval}"
    )


def _gain(gain: Gain) -> str:
    value, low, high = times(gain.speedup, gain.ci95)
    interval = f"(95 % interval {low} to {high})"
    if gain.verdict == "no detectable difference":
        return f"no detectable difference in latency, speed-up {value} {interval}"
    return (
        f"a run takes {significant(gain.after_ms)} ms instead of {significant(gain.before_ms)} ms, {value} times "
        f"as fast {interval}"
    )


def _scratch(scratch: Scratch) -> str:
    if scratch.ahead is None:
        return ""
    what = "The network that is left, trained from scratch,"
    if not scratch.same:
        size = "" if scratch.blocks is None else f" of {scratch.blocks} block{'s' * (scratch.blocks != 1)}"
        what = f"A network{size} trained from scratch"
    if abs(scratch.ahead) < 0.005:
        return f"{what} does equally well."
    better = "better" if scratch.ahead > 0 else "worse"
    advice = ": whoever can train should take that" if scratch.ahead > 0 else ""
    return f"{what} is {fixed(abs(scratch.ahead))} points {better}{advice}."


def wrapped(command: str, width: int = 92) -> str:
    """A command in lines that a shell joins again, broken before options."""
    lines, line = [], ""
    for word in command.split(" "):
        if line and word.startswith("-") and len(line) + 1 + len(word) > width - 14:
            lines.append(line)
            line = "    " + word
        else:
            line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])
