from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lacoot_deploy import machine, threads


@pytest.mark.parametrize(
    ("limit", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])],
)
def test_numbers_of_threads_to_try(limit: int, counts: list[int]) -> None:
    assert threads.counts_to_try(limit) == counts


@pytest.mark.parametrize(
    ("seconds", "best"),
    [({1: 2.0, 2: 30.0}, 1), ({1: 2.0, 2: 1.2, 4: 0.7}, 4), ({1: 1.0, 2: 0.97}, 1), ({3: 1.0}, 3)],
)
def test_the_fastest_is_taken_and_of_equals_the_smallest(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], best: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(count: int) -> None:
        clock[0] += seconds[count]

    assert threads.fastest({count: lambda c=count: work(c) for count in seconds}) == best


def test_a_single_busy_moment_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], iter([1, 1, 9, 0.5, 0.5, 0.5, 0.5, 0.5] * 2)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(threads, "PATIENCE", 1e9)

    def work() -> None:
        clock[0] += next(calls)

    assert threads.fastest({1: work, 2: work}) == 1


def test_a_container_allows_fewer_threads_than_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 8)
    for quota, expected in ((None, 8), (1.5, 2), (0.2, 1), (64.0, 8)):
        monkeypatch.setattr(machine, "cpu_quota", lambda quota=quota: quota)
        assert threads.usable_threads() == expected


def test_what_has_become_slow_is_noticed_once() -> None:
    watch = threads.Watch()
    assert [watch.slow(s) for s in (1.0, 1.5, 1.9, 2.1, 2.1, 2.0)] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("before", "expected"), [("", "passive"), ("OMP_WAIT_POLICY=active", "active")])
def test_waiting_threads_do_not_spin_unless_told_to(before: str, expected: str) -> None:
    code = (
        "import os; os.environ.pop('OMP_WAIT_POLICY', None); os.environ.update([x.split('=') for x in [%r] if x])\n"
        "from lacoot_deploy.threads import waiting_threads_sleep; waiting_threads_sleep()\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    ended = subprocess.run([sys.executable, "-c", code % before], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == expected
