"""Times the blocks of a model, by ONNX Runtime's profile or by running the model up to each block's ends."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lacoot_deploy.bench.cutting import name_nodes, node_owners, prefix, read_profile
from lacoot_deploy.bench.harness import Plan, Runner, measure_rounds, undisturbed
from lacoot_deploy.bench.opener import Opener
from lacoot_deploy.bench.protocol import Request
from lacoot_deploy.bench.runners import make_runner

if TYPE_CHECKING:
    import onnx

PROFILE_ROUNDS = 3
MOST_PROFILED_RUNS = 500


def profiled(bench: Opener, request: Request, model: onnx.ModelProto) -> tuple[float, dict[str, float]]:
    """Latency of the model, and each block's part by ONNX Runtime's profile, in fresh sessions of both kinds."""
    file = next(iter(request.models.values()))
    named = name_nodes(model)
    owners = node_owners(model, {block.name: block.nodes for block in request.blocks})
    totals: list[float] = []
    shares: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as folder:

        def profile(options: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")

        for number in range(PROFILE_ROUNDS):
            plain = make_runner(bench.open(file), bench.feeds, False)
            budget = request.options.min_time / PROFILE_ROUNDS / 2
            totals.append(undisturbed(_runs(plain, budget)))
            plain.close()
            session = bench.open(file, named, profile)
            count = len(_runs(make_runner(session, bench.feeds, False), budget))
            seconds = read_profile(Path(session.ort.end_profiling()), named, owners, count)
            whole = sum(seconds.values())
            shares.append({block.name: seconds.get(block.name, 0.0) / whole for block in request.blocks})
            print(f"{number + 1} {PROFILE_ROUNDS}", flush=True)
    total = float(np.median(totals))
    return total, {name: total * float(np.median([one[name] for one in shares])) for name in shares[0]}


def _runs(runner: Runner, seconds: float) -> list[float]:
    """Times of runs for so long, three at least, two warm-up runs before."""
    for _ in range(2):
        runner.run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < MOST_PROFILED_RUNS):
        start = time.perf_counter()
        runner.run()
        times.append(time.perf_counter() - start)
    return times


def by_prefix(bench: Opener, request: Request, model: onnx.ModelProto) -> tuple[float, dict[str, float]]:
    """Latency of the model, and each block's as that of the model up to its output less that up to its input."""
    file = next(iter(request.models.values()))
    inputs = {value.name for value in model.graph.input}
    ends = [value for block in request.blocks for value in (block.input, block.output)]
    values = [value for value in dict.fromkeys(ends) if value not in inputs]
    cuts = {value: prefix(model, [value]) for value in values}
    whole = ""

    def runner(value: str) -> Runner:
        session = bench.open(file, cuts.get(value))
        feeds = {info.name: bench.feeds[info.name] for info in session.inputs if info.name in bench.feeds}
        return make_runner(session, feeds, bench.io_binding)

    def progress(done: int, total: int) -> None:
        print(f"{done} {total}", flush=True)

    plan = Plan(rounds=PROFILE_ROUNDS, seconds=request.options.min_time, seed=request.options.seed)
    measured = measure_rounds([*values, whole], runner, plan, progress=progress)
    typical = {
        name: float(np.median(np.concatenate([np.exp(found[name].cycles()) for found in measured])))
        for name in (*values, whole)
    }
    found = {
        block.name: max(0.0, typical[block.output] - typical.get(block.input, 0.0))
        for block in request.blocks
    }
    return typical[whole], found
