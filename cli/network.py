"""A network as a readable list: stages, blocks, and bars for what each costs and how far it moves its input."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lacoot_deploy.numerals import metric, significant

from .render import printable, shape_text, styled

if TYPE_CHECKING:
    from lacoot_deploy.workflow.inspecting import BlockEntry, InspectResult

BAR = 8
"""Width of a bar in columns."""

NAME, LONG_NAME = 20, 40
"""Longest name that shares a line with its figures; the longer where no distance takes room."""


def network_lines(inspection: InspectResult) -> list[str]:
    """The lines of a network, 80 columns at most but for names that are longer.

    Args:
        inspection: Its blocks.
    """
    blocks, total = inspection.blocks, inspection.model.macs or 0
    distance = _drawn(blocks)
    costs = [block.macs or 0 for block in blocks]
    far = [_value(block, distance) or 0.0 for block in blocks]
    width = min(
        NAME if distance else LONG_NAME, max((len(printable(block.name)) for block in blocks), default=0)
    )
    lines = [_heading(width, distance)]
    stage: str | None = None
    for block in blocks:
        shape = shape_text(block.shape)
        if shape != stage:
            stage = shape
            lines.append(styled(printable(shape), bold=True))
        figures = _figures(block, total, max(costs), distance, max(far))
        name = printable(block.name)
        if len(name) > width:
            lines += [f"  {name}", f"  {'':{width}}{figures}".rstrip()]
        else:
            lines.append(f"  {name:{width}}{figures}".rstrip())
        if block.reason is not None:
            words = f"{block.reason.text} [{block.reason.code}]"
            lines += textwrap.wrap(
                printable(words),
                80,
                initial_indent="    ",
                subsequent_indent="    ",
                break_on_hyphens=False,
                break_long_words=False,
            )
    if any(_at_floor(block, distance) for block in blocks):
        lines.append("* at its floor: a distance that is zero for all one can tell")
    return lines


def _drawn(blocks: Sequence[BlockEntry]) -> str | None:
    """The distance that is shown: the paper's where it was measured."""
    known = {name for block in blocks for name in block.distance or {}}
    return next((name for name in ("mswd", "paired", "mswd-ascent", "cosine") if name in known), None)


def _heading(width: int, distance: str | None) -> str:
    cost = f"{'MACs':>8} {'share':>5}"
    far = "" if distance is None else f"  {distance:>8}  "
    return f"  {'block':{width}} {'':{BAR}}{cost}{far}{'':{0 if distance is None else BAR}}  goes as"


def _figures(block: BlockEntry, total: int, dearest: int, distance: str | None, farthest: float) -> str:
    share = f"{100 * block.macs / total:.0f} %" if block.macs and total else ""
    text = f" {bar((block.macs or 0) / (dearest or 1)):{BAR}}{metric(block.macs):>8} {share:>5}"
    if distance is not None:
        value = _value(block, distance)
        mark = "*" if _at_floor(block, distance) else " "
        drawn = "" if value is None else bar(value / (farthest or 1.0))
        text += f"  {significant(value):>8}{mark} {drawn:{BAR}}"
    return f"{text}  {_forms(block)}"


def _value(block: BlockEntry, distance: str | None) -> float | None:
    record = (block.distance or {}).get(distance or "")
    return None if record is None else record.value


def _at_floor(block: BlockEntry, distance: str | None) -> bool:
    record = (block.distance or {}).get(distance or "")
    return record is not None and record.floor is not None and record.value <= record.floor


def _forms(block: BlockEntry) -> str:
    if not block.collapsible:
        return "no"
    return "either" if len(block.forms) > 1 else block.forms[0]


def bar(share: float) -> str:
    """A bar of up to `BAR` columns for a share of the longest one; anything above zero shows."""
    eighths = round(min(max(share, 0.0), 1.0) * BAR * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    if "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower():
        return "#" * max(whole, int(share > 0))
    return "█" * whole + ("" if rest == 0 else " ▏▎▍▌▋▊▉"[rest])
