"""What a command shows on a terminal while it works: a bar with the time left, or else the time gone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lacoot_deploy.progress import Progress

from .render import console, standing

PATIENCE = 0.7
"""Seconds after which a command says that it is at work; quicker ones stay silent."""


@contextmanager
def progress(*, quiet: bool, what: str = "working") -> Iterator[Progress]:
    """Yield a function (done, total, what) that shows progress with the time left on stderr.

    Before the first call and after the last one it shows how long the command has been at work. Nothing is shown where
    there is no terminal, when quiet, and by commands that are done at once. What is printed meanwhile through `render`
    stands above the bar.

    Args:
        quiet: Show nothing.
        what: What the command does while it cannot say how far it is.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, task: None
        return
    shown = _Shown(what)
    with standing(shown.aside):
        try:
            yield shown.update
        finally:
            shown.end()


class _Shown:
    """A bar that appears after a moment, told from the thread that works."""

    def __init__(self, what: str) -> None:
        self.what, self.task, self.done = what, what, 0
        self.total: int | None = None
        self.bar: Any = None
        self.row: Any = None
        self.ended = False
        self.lock = threading.RLock()
        self.timer = threading.Timer(PATIENCE, self.start)
        self.timer.daemon = True
        self.timer.start()

    def update(self, done: int, total: int, task: str) -> None:
        """Take note of how far a task is; a finished one gives place to the general message."""
        with self.lock:
            before = self.task
            finished = done >= total
            self.task, self.done = (self.what, 0) if finished else (task, done)
            self.total = None if finished else total
            if self.bar is None:
                return
            if self.task != before:
                self.bar.remove_task(self.row)
                self.row = self.bar.add_task(self.task, total=self.total)
            self.bar.update(self.row, completed=self.done, total=self.total)

    def start(self) -> None:
        """Show the bar."""
        with self.lock:
            if self.ended:
                return
            self.bar = _bar()
            self.bar.start()
            self.row = self.bar.add_task(self.task, total=self.total, completed=self.done)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Context in which the bar leaves its line to something else, and stands below it afterwards."""
        with self.lock:
            if self.bar is not None:
                self.bar.stop()
            try:
                yield
            finally:
                if self.bar is not None:
                    self.bar.start()

    def end(self) -> None:
        """Take the bar away."""
        self.timer.cancel()
        with self.lock:
            self.ended = True
            if self.bar is not None:
                self.bar.stop()
                self.bar = None


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Far(ProgressColumn):
        """How far it is, and the time left; else the time gone."""

        def render(self, task: Any) -> Text:
            if task.total is None:
                return Text(clock(task.elapsed))
            left = task.time_remaining
            words = "" if left is None else f"  {clock(left)} left"
            return Text(f"{task.completed:.0f}/{task.total:.0f}{words}")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Far(),
        console=console(stderr=True),
        transient=True,
    )


def clock(seconds: float | None) -> str:
    """Seconds as `0:07`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
