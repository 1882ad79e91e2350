"""Tables where there is no terminal: put together without rich, and just as rich writes them."""

import io
import sys

import pytest
from lacoot_deploy_cli import render

COLUMNS = [("removed block", "left"), ("form", "left"), ("score", "right"), ("", "right")]
ROWS = [["block1", "bypass", "1.0", "-"], ["layer4.11", "x", "10.0", "-"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(monkeypatch: pytest.MonkeyPatch, columns, rows, title) -> tuple[str, bool]:
    """What `table` prints to a file, and whether rich was needed."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    used = []
    monkeypatch.setattr(render, "console", lambda: used.append(1) or plain_console(out))
    render.table(columns, rows, title=title)
    return out.getvalue(), bool(used)


def plain_console(out: io.StringIO):
    from rich.console import Console

    return Console(file=out, width=render.PLAIN_WIDTH, highlight=False)


@pytest.mark.parametrize(
    ("columns", "rows", "title"),
    [
        (COLUMNS, ROWS, None),
        (COLUMNS, ROWS, "Title"),
        (COLUMNS, [], None),
        ([("a", "right")], [["1"], ["[red]2"]], None),
        (COLUMNS, [["x" * 50, "bypass", "1", "-"]], "Title"),
    ],
)
def test_equal_to_rich(monkeypatch, columns, rows, title):
    ours, used = written(monkeypatch, columns, rows, title)
    assert not used
    monkeypatch.setattr(render, "plain_table", lambda *args, **options: [])
    theirs, used = written(monkeypatch, columns, rows, title)
    assert used
    assert ours == theirs


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([["x" * 120, "", "", ""]], None),
        ([["日本", "", "", ""]], None),
        ([["two\nlines", "", "", ""]], None),
        ([], "A title that is longer than the table below it is wide"),
    ],
)
def test_rich_does_what_is_more_than_that(monkeypatch, rows, title):
    assert written(monkeypatch, COLUMNS, rows, title)[1]


def test_on_a_terminal_rich_writes(monkeypatch):
    used = []
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(render, "console", lambda: used.append(1) or plain_console(io.StringIO()))
    render.table(COLUMNS, ROWS)
    assert used
