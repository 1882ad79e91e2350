"""Timing in interleaved pairs: rounds of fresh sessions, warmed until stable, visited in palindromic order.

Each cycle visits every contestant twice, in a random order and then back (A B B A), so that a machine that slows down
or speeds up steadily treats them alike. A visit first runs once untimed, to have the caches to itself again, and then a
few times timed, equally often for every contestant; the fastest counts, because what interrupts a run only ever adds to
it, and to a longer run more often. Runs during which the system took a processor away are made up for, so that on an
overloaded machine the longer model, which is interrupted more often, still has as many whole runs. One cycle gives one
log-ratio per pair of contestants.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

VISIT_SECONDS = 0.008
"""What a visit aims to take on average; short models are run several times in it."""

MOST_VISIT_RUNS = 20
FEWEST_VISIT_RUNS = ((0.02, 6), (0.1, 3), (float("inf"), 1))
"""Runs that a visit has at least, for runs up to so many seconds. On a busy machine the fastest of six varies half as
much as the fastest of three; models of a tenth of a second and more would take too long."""

MOST_REPEATS = 5
"""A visit has at most so many times its runs where interruptions spoil them."""

GROUP = 3
"""Runs in a group of `undisturbed`."""

UNTIMED_BELOW_SECONDS = 0.02
"""Models slower than this read more than any cache holds: the untimed run of a visit would gain them nothing."""

WARM_SECONDS = 0.05
WARM_RUNS = 3
WARM_LIMIT_SECONDS = 1.0
"""A warm-up that has not settled ends so much later than its least time."""

STABLE = 0.05
"""Warm when the last runs are within this share of the ones before."""


try:
    import resource
except ImportError:  # Windows does not count what it interrupts
    resource = None  # type: ignore[assignment]


def interruptions() -> int:
    """How often the system has taken a processor away from this process so far; 0 where that is not counted."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Runner(Protocol):
    """A model ready to run on fixed feeds."""

    def run(self) -> None:
        """Run once; returns when the result is there."""

    def close(self) -> None:
        """Free the session."""


@dataclass
class ContestantRound:
    """What one contestant showed in one round; times in seconds.

    Attributes:
        creation: Loading, optimising and placing the session.
        first: The first run.
        warm_runs: Number of warm-up runs after the first.
        stable: Whether the warm-up settled.
        samples: Every timed run, in order.
        interrupted: How many of them the system interrupted.
        visits: The fastest whole run of each visit, two per cycle.
    """

    creation: float = 0.0
    first: float = 0.0
    warm_runs: int = 0
    stable: bool = True
    samples: list[float] = field(default_factory=list)
    interrupted: int = 0
    visits: list[float] = field(default_factory=list)

    def cycles(self) -> NDArray[np.float64]:
        """Log of the latency in each cycle: the mean of the logs of its two visits."""
        return np.asarray(np.log(np.asarray(self.visits).reshape(-1, 2)).mean(axis=1), dtype=np.float64)


Round = dict[str, ContestantRound]


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: Rounds of fresh sessions.
        seconds: Time to spend on timed runs, all rounds together.
        least_cycles: Cycles in each round at least, however long they take.
        seed: Seed of the orders.
        warm_seconds: Each session's warm-up takes that long at least, and goes on until the runs are stable.
        warm_runs: And has that many runs at least; None for three, or two of a model that takes long.
    """

    rounds: int = 10
    seconds: float = 8.0
    least_cycles: int = 2
    seed: int = 0
    warm_seconds: float = WARM_SECONDS
    warm_runs: int | None = None


def measure_rounds(
    contestants: Sequence[str],
    open_runner: Callable[[str], Runner],
    plan: Plan,
    *,
    clock: Callable[[], float] = time.perf_counter,
    switches: Callable[[], int] = interruptions,
    progress: Callable[[int, int], None] | None = None,
) -> list[Round]:
    """Time all contestants against each other.

    Args:
        contestants: Their names.
        open_runner: Makes a fresh runner of a contestant; its time counts as session creation.
        plan: How long to measure.
        clock: Seconds since some start.
        switches: How often the system has interrupted this process so far.
        progress: Called with rounds done and rounds in all.
    """
    rng = np.random.default_rng(plan.seed)
    rounds = []
    for number in range(plan.rounds):
        rounds.append(_round(contestants, open_runner, plan, rng, clock, switches))
        if progress is not None:
            progress(number + 1, plan.rounds)
    return rounds


def _round(
    contestants: Sequence[str],
    open_runner: Callable[[str], Runner],
    plan: Plan,
    rng: np.random.Generator,
    clock: Callable[[], float],
    switches: Callable[[], int],
) -> Round:
    found: Round = {}
    runners: dict[str, Runner] = {}
    latency: dict[str, float] = {}
    try:
        for index in rng.permutation(len(contestants)):
            name = contestants[index]
            record = found[name] = ContestantRound()
            start = clock()
            runners[name] = open_runner(name)
            record.creation = clock() - start
            record.first = _timed(runners[name], clock)
            latency[name] = _warm_up(runners[name], record, plan, clock)
        runs = _visit_runs(float(np.mean(list(latency.values()))))
        end = clock() + plan.seconds / plan.rounds
        cycles = 0
        while cycles < plan.least_cycles or clock() < end:
            order = [contestants[i] for i in rng.permutation(len(contestants))]
            for name in (*order, *reversed(order)):
                if latency[name] < UNTIMED_BELOW_SECONDS:
                    runners[name].run()
                _visit(runners[name], found[name], runs, clock, switches)
            cycles += 1
    finally:
        for runner in runners.values():
            runner.close()
    return {name: found[name] for name in contestants}


def _timed(runner: Runner, clock: Callable[[], float]) -> float:
    start = clock()
    runner.run()
    return clock() - start


def _warm_up(runner: Runner, record: ContestantRound, plan: Plan, clock: Callable[[], float]) -> float:
    """Run until time, count and stability are reached, or the limit is; gives the undisturbed latency."""
    times: list[float] = []
    start = clock()
    while True:
        times.append(_timed(runner, clock))
        elapsed = clock() - start
        runs = len(times)
        enough = runs >= max(2, plan.warm_runs or WARM_RUNS) and elapsed >= plan.warm_seconds
        if enough and _settled(times):
            break
        if runs >= max(2, plan.warm_runs or 0) and elapsed >= plan.warm_seconds + WARM_LIMIT_SECONDS:
            record.stable = _settled(times)
            break
    record.warm_runs = len(times)
    return min(times)


def _settled(times: Sequence[float]) -> bool:
    """Whether the second half of the runs is not faster than the first by more than the tolerance."""
    half = len(times) // 2
    before, after = float(np.median(times[:half])), float(np.median(times[half:]))
    return after >= before * (1 - STABLE)


def undisturbed(times: Sequence[float]) -> float:
    """The median over groups of a few successive runs of the fastest in the group, as visits count."""
    whole = len(times) // GROUP * GROUP
    groups = np.asarray(times[:whole]).reshape(-1, GROUP) if whole else np.asarray([times])
    return float(np.median(groups.min(axis=1)))


def _visit_runs(seconds: float) -> int:
    """How many timed runs a visit has when a run takes that long."""
    fewest = next(runs for limit, runs in FEWEST_VISIT_RUNS if seconds <= limit)
    return int(min(MOST_VISIT_RUNS, max(fewest, round(VISIT_SECONDS / max(seconds, 1e-9)))))


def _visit(
    runner: Runner,
    record: ContestantRound,
    runs: int,
    clock: Callable[[], float],
    switches: Callable[[], int],
) -> None:
    whole: list[float] = []
    times: list[float] = []
    while len(whole) < runs and len(times) < MOST_REPEATS * runs:
        before = switches()
        times.append(_timed(runner, clock))
        if switches() == before:
            whole.append(times[-1])
    record.samples.extend(times)
    record.interrupted += len(times) - len(whole)
    record.visits.append(max(min(whole or times), 1e-9))
