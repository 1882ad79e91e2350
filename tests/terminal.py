"""Runs a command on a pseudo terminal of 80 columns, and says what it wrote there and what then stands on it."""

from __future__ import annotations

import os
import sys
import time

import pytest


def screen(text: str, *, columns: int = 80) -> list[str]:
    """The lines that stand on a terminal after a text was written to it, trailing blanks cut."""
    pyte = pytest.importorskip("pyte")
    shown = pyte.Screen(columns, 200)
    pyte.Stream(shown).feed(text)
    lines = [line.rstrip() for line in shown.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def on_terminal(
    arguments: list[str], *, columns: int = 80, environment: dict[str, str] | None = None, limit=60
):
    """Exit code and text that `python ARGUMENTS` writes to a terminal (stdout and stderr together)."""
    pty = pytest.importorskip("pty", reason="needs pseudo terminals")
    import fcntl
    import struct
    import subprocess
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    running = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **(environment or {})},
        close_fds=True,
    )
    os.close(theirs)
    pieces, until = [], time.monotonic() + limit
    try:
        while time.monotonic() < until:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            pieces.append(piece)
        return running.wait(max(until - time.monotonic(), 1)), b"".join(pieces).decode(errors="replace")
    finally:
        running.kill()
        running.wait()
        os.close(ours)
