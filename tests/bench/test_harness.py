from __future__ import annotations

import math

import numpy as np
import pytest

from lacoot_deploy.bench.harness import Plan, measure_rounds
from lacoot_deploy.bench.statistics import ratio_interval


class Machine:
    """A clock that only models and sessions move, at a speed that may drift."""

    def __init__(self, drift: float = 0.0, noise: float = 0.0) -> None:
        self.now = 0.0
        self.drift = drift
        self.rng = np.random.default_rng(0)
        self.noise = noise
        self.log: list[str] = []
        self.open = 0

    def clock(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        slow = 1 + self.drift * self.now
        self.now += seconds * slow * (1 + self.noise * self.rng.exponential())


class Model:
    def __init__(self, machine: Machine, name: str, seconds: float, cold: float = 0.0) -> None:
        self.machine, self.name, self.seconds = machine, name, seconds
        self.cold = cold
        machine.open += 1
        machine.spend(0.1)

    def run(self) -> None:
        self.machine.log.append(self.name)
        self.machine.spend(self.seconds + self.cold)
        self.cold *= 0.5 if self.cold > 1e-9 else 0.0

    def close(self) -> None:
        self.machine.open -= 1


def never() -> int:
    """Simulated time knows no interruptions."""
    return 0


def warm_runs(plan: Plan, seconds: float, cold: float = 0.0) -> tuple[int, bool]:
    machine = Machine()
    [found] = measure_rounds(
        ["a"], lambda name: Model(machine, name, seconds, cold), plan, clock=machine.clock, switches=never
    )
    return found["a"].warm_runs, found["a"].stable


def speedup(machine: Machine, latencies: dict[str, float], plan: Plan, cold: float = 0.0) -> float:
    rounds = measure_rounds(
        list(latencies),
        lambda name: Model(machine, name, latencies[name], cold),
        plan,
        clock=machine.clock,
        switches=never,
    )
    return ratio_interval([r["a"].cycles() - r["b"].cycles() for r in rounds]).value


@pytest.mark.parametrize("seconds", [0.0001, 0.003, 0.04])
def test_the_true_ratio_is_found_on_a_quiet_machine(seconds):
    machine = Machine()
    latencies = {"a": 1.5 * seconds, "a_again": 1.5 * seconds, "b": seconds}
    assert speedup(machine, latencies, Plan(rounds=3, seconds=1.0)) == pytest.approx(1.5, rel=1e-9)
    assert machine.open == 0


def test_a_machine_that_slows_down_steadily_does_not_favour_anyone():
    """One after the other, A would look 1.5 times faster here than it is."""
    machine = Machine(drift=0.2)
    assert speedup(machine, {"a": 0.01, "b": 0.01}, Plan(rounds=4, seconds=4.0)) == pytest.approx(
        1.0, abs=1e-3
    )


def test_noise_averages_out():
    machine = Machine(noise=0.3)
    ratio = speedup(machine, {"a": 0.02, "b": 0.01}, Plan(rounds=5, seconds=30.0))
    assert ratio == pytest.approx(2.0, rel=0.02)


def test_interruptions_that_hit_long_runs_more_often_do_not_flatter_the_short_model():
    """A preemption of 5 ms every 4 ms of run time, on average: means read 2.0 too, medians of single runs do not."""

    class Busy(Machine):
        def spend(self, seconds: float) -> None:
            self.now += seconds + 0.005 * self.rng.poisson(seconds / 0.004)

    ratio = speedup(Busy(), {"a": 0.0024, "b": 0.0012}, Plan(rounds=5, seconds=20.0))
    assert ratio == pytest.approx(2.0, rel=0.01)


def test_on_an_overloaded_machine_the_longer_model_is_not_the_one_that_is_interrupted():
    """Slices of 2.6 ms with 20 ms between them: nine of ten runs of A are interrupted, and less than half of B."""

    class Overloaded(Machine):
        switched = 0

        def spend(self, seconds: float) -> None:
            left = 0.0026 * self.rng.random()
            while seconds > left:
                self.now += left + 0.02 * self.rng.exponential()
                seconds -= left
                left = 0.0026
                self.switched += 1
            self.now += seconds

    def ratio(told: bool) -> float:
        machine = Overloaded()
        rounds = measure_rounds(
            ["a", "b"],
            lambda name: Model(machine, name, {"a": 0.0024, "b": 0.0012}[name]),
            Plan(rounds=5, seconds=60.0),
            clock=machine.clock,
            switches=lambda: machine.switched if told else 0,
        )
        if told:
            shares = [
                sum(r[n].interrupted for r in rounds) / sum(len(r[n].samples) for r in rounds) for n in "ab"
            ]
            assert shares == pytest.approx([0.92, 0.46], abs=0.03)
        return ratio_interval([r["a"].cycles() - r["b"].cycles() for r in rounds]).value

    assert ratio(told=True) == pytest.approx(2.0, rel=0.01)
    assert ratio(told=False) > 2.2


def test_cold_runs_are_warm_up_and_not_samples():
    machine = Machine()
    rounds = measure_rounds(
        ["a"],
        lambda name: Model(machine, name, 0.01, cold=1.0),
        Plan(rounds=2, seconds=0.5),
        clock=machine.clock,
        switches=never,
    )
    for found in rounds:
        record = found["a"]
        assert record.creation == pytest.approx(0.1)
        assert record.first == pytest.approx(1.01)
        assert record.warm_runs >= 3
        assert max(record.samples) < 0.05


def test_the_warm_up_ends_by_time_and_by_count_and_not_before_the_runs_are_stable():
    assert warm_runs(Plan(rounds=1, seconds=0.1), 0.03) == (3, True)
    assert warm_runs(Plan(rounds=1, seconds=0.1), 0.001)[0] == pytest.approx(0.05 / 0.001, abs=2)
    assert warm_runs(Plan(rounds=1, seconds=0.1, warm_seconds=0.6), 0.03)[0] == pytest.approx(20, abs=1)
    assert warm_runs(Plan(rounds=1, seconds=0.1, warm_runs=12), 0.03) == (12, True)
    longer, stable = warm_runs(Plan(rounds=1, seconds=0.1), 0.03, cold=0.2)
    assert (longer > 6, stable) == (True, True)


def test_a_warm_up_that_does_not_settle_ends_and_is_told():
    class Improving(Model):
        def run(self) -> None:
            super().run()
            self.seconds *= 0.9

    machine = Machine()
    plan = Plan(rounds=1, seconds=0.1)
    [found] = measure_rounds(
        ["a"], lambda name: Improving(machine, name, 0.5), plan, clock=machine.clock, switches=never
    )
    assert not found["a"].stable


def test_a_slow_model_is_given_up_on_early_but_not_before_the_runs_asked_for():
    assert warm_runs(Plan(rounds=1, seconds=0.1), 2.0)[0] == 2
    assert warm_runs(Plan(rounds=1, seconds=0.1, warm_runs=5), 2.0)[0] == 5


def test_every_cycle_is_a_palindrome_and_the_orders_vary():
    machine = Machine()
    plan = Plan(rounds=1, seconds=12.0)
    # Slow enough for one run a visit and no untimed run before it.
    latencies = {"a": 0.2, "a_again": 0.2, "b": 0.2}
    rounds = measure_rounds(
        list(latencies),
        lambda name: Model(machine, name, latencies[name]),
        plan,
        clock=machine.clock,
        switches=never,
    )
    cycles = len(rounds[0]["a"].cycles())
    visits = machine.log[-6 * cycles :]
    orders = [tuple(visits[i : i + 6]) for i in range(0, len(visits), 6)]
    assert all(order == order[::-1] and len(set(order)) == 3 for order in orders)
    assert len(set(orders)) > 1


def test_slow_models_still_get_their_cycles_and_short_ones_several_runs_a_visit():
    machine = Machine()
    plan = Plan(rounds=2, seconds=0.1, least_cycles=3)
    slow = measure_rounds(
        ["a"], lambda name: Model(machine, name, 2.0), plan, clock=machine.clock, switches=never
    )
    assert [len(r["a"].cycles()) for r in slow] == [3, 3]
    short = measure_rounds(
        ["a"], lambda name: Model(machine, name, 0.001), plan, clock=machine.clock, switches=never
    )
    assert len(short[0]["a"].samples) == 8 * len(short[0]["a"].visits)


def test_sessions_are_closed_when_a_run_fails():
    machine = Machine()

    class Broken(Model):
        def run(self) -> None:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        measure_rounds(
            ["a", "b"], lambda name: Broken(machine, name, 1.0), Plan(), clock=machine.clock, switches=never
        )
    assert machine.open == 0


def test_the_same_seed_gives_the_same_orders():
    logs = []
    for _ in range(2):
        machine = Machine()
        measure_rounds(
            ["a", "b"],
            lambda name, m=machine: Model(m, name, 0.01),
            Plan(rounds=2, seconds=1),
            clock=machine.clock,
            switches=never,
        )
        logs.append(machine.log)
    assert logs[0] == logs[1]
    assert math.isclose(len(logs[0]), len(logs[1]))
