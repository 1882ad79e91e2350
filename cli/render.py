"""The one place that prints: tables that fit 80 columns, sentences that wrap there, notes on stderr, JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


PLAIN_WIDTH = 80
"""Columns of a table where there is no terminal to tell."""


def console(*, stderr: bool = False) -> Console:
    """A console that honours NO_COLOR and writes plain text where there is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


_bars: list[Callable[[], AbstractContextManager[None]]] = []
"""What takes the bar that stands on the terminal aside while something is printed; empty where none stands."""


@contextmanager
def standing(aside: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Context in which a bar stands on the terminal, which `aside` takes away for as long as its own context lasts."""
    _bars.append(aside)
    try:
        yield
    finally:
        _bars.remove(aside)


def echo(text: str | bytes, *, err: bool = False) -> None:
    """Print on stdout or stderr, above the bar where one stands; everything that a command prints passes here."""
    with _bars[-1]() if _bars else nullcontext():
        click.echo(text, err=err)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout: a pydantic record or plain data."""
    data = document.model_dump(mode="json") if hasattr(document, "model_dump") else document
    text = json.dumps(data, indent=2, ensure_ascii=False)
    # Of a file's name that is no text, the bytes are written as they are.
    echo(text if text.isascii() else text.encode(errors="surrogateescape"))


def printable(text: str) -> str:
    """The text with what would steer a terminal or cannot be written spelt out: names come from strangers' files."""
    if text.isascii() and text.isprintable():
        return text
    shown = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def note(message: str, *, quiet: bool = False) -> None:
    """A sentence for the reader on stderr in lines of 80 columns, unless asked to be quiet."""
    if not quiet:
        echo(_filled(printable(message)), err=True)


def styled(text: str, **style: Any) -> str:
    """Text with a style, plain where NO_COLOR is set; `click.echo` drops styles where there is no terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def say(text: str) -> None:
    """A sentence on stdout, in lines of 80 columns at most, further lines indented."""
    echo(_filled(printable(text)))


def _filled(text: str) -> str:
    if len(text) <= 80:
        return text
    return textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def table(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, title: str | None = None
) -> None:
    """Print a table on stdout.

    Args:
        columns: (heading, justification `left` or `right`) of each column.
        rows: Cells as text; rich markup is not interpreted.
        title: A line above it.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    lines = [] if sys.stdout.isatty() else plain_table(columns, rows, title=title)
    if lines:
        echo("\n".join(lines))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", show_edge=False)
    for heading, justify in columns:
        grid.add_column(
            heading,
            justify="right" if justify == "right" else "left",
            overflow="fold",
            no_wrap=justify == "right",
        )
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    out = console()
    with out.capture() as drawn:
        out.print(grid)
    echo(drawn.get().removesuffix("\n"))


def plain_table(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, title: str | None = None
) -> list[str]:
    """The lines of a table as rich writes them where there is no terminal; rich takes half a second for 1,000 rows.

    Nothing where that takes more than putting words side by side: lines that wrap, signs of other widths.
    """
    cells = [[heading for heading, _ in columns], *rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    total = sum(widths) + 3 * (len(widths) - 1)
    plain = all(cell.isascii() and cell.isprintable() for row in cells for cell in row)
    if not plain or total > PLAIN_WIDTH or len(title or "") > total:
        return []

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if justify == "right" else cell.ljust(width)
            for cell, width, (_, justify) in zip(row, widths, columns, strict=True)
        ]
        return "   ".join(parts)

    return [*([title.ljust(total)] if title else []), line(cells[0]), "─" * total, *map(line, rows)]


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """A shape as `batch x 16 x 8 x 8`; `?` for what is unknown."""
    if shape is None:
        return "?"
    return " x ".join("?" if dim is None else str(dim) for dim in shape) or "scalar"
