"""How many threads the pieces of a network run with: found by trying, and tried again when they become slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lacoot_deploy.selection.pieces import Opener, Parts, Piece
from lacoot_deploy.selection.variant import Values
from lacoot_deploy.threads import Watch, counts_to_try, fastest, usable_threads

LEAST_SECONDS = 0.002
"""A piece that takes less with one thread gains nothing from a second."""

MOST_TRIALS = 4
"""How often the number is chosen in one search at most."""


class Pace:
    """Runs pieces, with the number of threads that does the slowest of them soonest.

    What the user said decides. Where another device than the processor runs them, one thread serves it.

    Args:
        pieces: The pieces; all are run once before the number is chosen.
        parts: Parts of blocks, which are opened anew with a new number.
        opener: What opens sessions.
    """

    def __init__(self, pieces: Sequence[Piece], parts: Parts, opener: Opener) -> None:
        self._pieces, self._parts, self._opener = pieces, parts, opener
        self._seconds = [0.0] * len(pieces)
        self._slowest: int | None = None
        self._size = 0
        self._watch = Watch()
        self._left = MOST_TRIALS if opener.runtime.threads is None else 0
        if self._left:
            opener.runtime = replace(opener.runtime, threads=1)

    @property
    def threads(self) -> int | None:
        """Threads that sessions are opened with now."""
        return self._opener.runtime.threads

    def run(self, i: int, values: Values, outputs: Sequence[str]) -> Values:
        """Run a piece; see `Piece.run`."""
        start = time.perf_counter()
        found = self._pieces[i].run(values, outputs)
        self._seconds[i] = time.perf_counter() - start
        if i == self._slowest and self._entries(values) == self._size and self._watch.slow(self._seconds[i]):
            self.choose(values)
        return found

    def _entries(self, values: Mapping[str, Any]) -> int:
        """Entries of what the slowest piece reads: equal ones make equal work."""
        assert self._slowest is not None, "it was chosen"
        names = self._pieces[self._slowest].segment.inputs
        return sum(getattr(values[name], "size", 0) for name in names)

    def choose(self, values: Mapping[str, Any]) -> None:
        """Choose the number of threads by the piece that took longest, on a batch that has run through the network."""
        if not self._left:
            return
        self._left -= 1
        # In the middle of a network what later pieces read is not there yet.
        ready = [
            i for i, one in enumerate(self._pieces) if all(name in values for name in one.segment.inputs)
        ]
        self._slowest = max(ready, key=self._seconds.__getitem__)
        counts = counts_to_try(usable_threads())
        self._size = self._entries(values)
        idle = self._pieces[self._slowest].provider != "cpu" or self._seconds[self._slowest] < LEAST_SECONDS
        if len(counts) < 2 or idle:
            self._left = 0
            return
        before, segment = self.threads, self._pieces[self._slowest].segment
        trials: dict[int, Callable[[], object]] = {}
        for count in counts:
            self._opener.runtime = replace(self._opener.runtime, threads=count)
            trials[count] = partial(Piece(segment, self._opener).run, values)
            trials[count]()
        best = fastest(trials)
        self._opener.runtime = replace(self._opener.runtime, threads=best)
        if best != before:
            for piece in self._pieces:
                piece.forget()
            self._parts.forget()
