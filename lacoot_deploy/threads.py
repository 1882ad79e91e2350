"""How many threads to compute with, found by trying: beside busy processes one may be faster than all.

A thread that waits for others by spinning takes the processor from whoever would let it go on. With two processes busy
on two processors an epoch of a small network takes fifteen times as long with two spinning threads as with one.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping

ROUNDS = 3
"""Times that each number of threads is tried, in turns, so that a moment's load meets all of them."""

PATIENCE = 4.0
"""Seconds after which no further turn begins."""

WORTH = 0.95
"""More threads are taken where they need at most this share of the time."""

SLOW = 2.0
"""A unit of work that takes this many times the usual is a reason to try again."""


def waiting_threads_sleep() -> None:
    """Have OpenMP's waiting threads give their processor away; for before PyTorch is loaded. The user decides."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def usable_threads() -> int:
    """Threads that this process may run at once: its affinity, and the processor time of its container."""
    # Imported here: the help of the command line needs nothing of it.
    from lacoot_deploy import machine

    quota, cpus = machine.cpu_quota(), machine.usable_cpus()
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def counts_to_try(limit: int) -> list[int]:
    """1, 2, 4, ... and the limit itself."""
    counts = [1]
    while counts[-1] * 2 < limit:
        counts.append(counts[-1] * 2)
    return counts if limit <= 1 else [*counts, limit]


def fastest(trials: Mapping[int, Callable[[], object]]) -> int:
    """The number of threads that does a piece of work soonest; of numbers that are about equal the smallest.

    Args:
        trials: For each number of threads what does the work with it; it is called a few times, the first time not
            counted.
    """
    if len(trials) < 2:
        return next(iter(trials))
    began = time.perf_counter()
    taken: dict[int, list[float]] = {count: [] for count in trials}
    for turn in range(1 + ROUNDS):
        for count, work in trials.items():
            start = time.perf_counter()
            work()
            if turn:
                taken[count].append(time.perf_counter() - start)
        if turn and time.perf_counter() - began > PATIENCE:
            break
    # The middle one: a single turn may have met a busy moment.
    usual = {count: sorted(times)[len(times) // 2] for count, times in taken.items()}
    best = min(trials)
    for count in sorted(trials):
        if usual[count] < WORTH * usual[best]:
            best = count
    return best


class Watch:
    """Whether equal pieces of work have become slow, so that it is worth trying again."""

    def __init__(self) -> None:
        self.usual = math.inf

    def slow(self, seconds: float) -> bool:
        """Take note of one piece; whether it took far longer than the usual one, which is then forgotten."""
        if seconds > SLOW * self.usual:
            self.usual = math.inf
            return True
        self.usual = min(self.usual, seconds)
        return False
