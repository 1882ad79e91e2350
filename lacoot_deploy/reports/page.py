"""The page: a report's document put into its template."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import lacoot_deploy.reports.figures as figures
import lacoot_deploy.reports.words as words
from lacoot_deploy.reports.records import BlockLine, ReportResult

TEMPLATES = Path(__file__).parent / "templates"

FOLDED_BLOCKS = 40
"""From so many blocks on the table and the diagram are folded."""


def render_page(document: ReportResult) -> str:
    """The report as one HTML page that needs nothing else: no script, no network, no font file.

    Everything that comes from files is escaped, signs that would turn or hide text are made visible.

    Args:
        document: What it says.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "name": plain,
        "sig": words.significant,
        "count": words.count,
        "bytes": words.file_size,
        "signed": words.signed,
        "fixed": words.fixed,
        "nbsp": lambda text: text.replace(" ", "\N{NO-BREAK SPACE}"),
        "wrapped": words.wrapped,
        "times": lambda gain: words.times(gain.speedup, gain.ci95),
    }
    environment.filters.update(filters)
    shown = cleaned(document)
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html").render(
        report=shown,
        style=style,
        headline=words.headline(shown),
        dense=shown.network("dense"),
        collapsed=shown.network("collapsed"),
        stages=stages(shown.blocks),
        depth=figures.depth_figure(shown),
        against=figures.latency_curve_figure(shown),
        distances=figures.distance_figure(shown),
        trainings=figures.training_figures(shown),
        latency=figures.latency_figure(shown),
        folded=len(shown.blocks) > FOLDED_BLOCKS,
    )


def stages(blocks: Sequence[BlockLine]) -> list[tuple[str, list[BlockLine]]]:
    """Consecutive blocks that work at one shape, under that shape."""
    found: list[tuple[str, list[BlockLine]]] = []
    for block in blocks:
        if not found or found[-1][0] != block.shape:
            found.append((block.shape, []))
        found[-1][1].append(block)
    return found


def plain(value: object) -> str:
    """Text from a file as it may stand in a page: signs that control, turn or hide text become visible."""
    kept = [
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co") else sign
        for sign in re.sub(r"[\t\r\n]", " ", str(value))
    ]
    return "".join(kept)


def cleaned(document: ReportResult) -> ReportResult:
    """The document with all its text plain."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return plain(value)
        if isinstance(value, dict):
            return {clean(key): clean(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(part) for part in value]
        return value

    return ReportResult.model_validate(clean(document.model_dump()))
