"""The measuring process: opens sessions, times them, writes its answer to a file.

It is a process of its own because all its sessions share one pool of threads, which ONNX Runtime allows only where it
was decided before the first session. With a pool for each session, the idle threads of one go on spinning while the
other is timed, which read up to 50 % wrong; sharing the pool, sessions run as they do alone. A run that exhausts the
memory ends this process and not the caller's.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.bench.block_timing import by_prefix, profiled
from lacoot_deploy.bench.environment import Watch, gpu_memory_used
from lacoot_deploy.bench.harness import WARM_SECONDS, Plan, Runner, measure_rounds
from lacoot_deploy.bench.opener import NVIDIA, Opener
from lacoot_deploy.bench.protocol import (
    REQUEST,
    RESPONSE,
    ContestantReport,
    NodePlacement,
    Request,
    Response,
)
from lacoot_deploy.bench.runners import make_runner
from lacoot_deploy.errors import InputError, LacootError, UsageError
from lacoot_deploy.runtime.feeds import check_feeds
from lacoot_deploy.runtime.providers import short_name

DEFAULT_ROUNDS, FEWEST_ROUNDS = 10, 5


def main(folder: Path) -> None:
    """Answer the request in a folder; errors that the user can mend are part of the answer."""
    request = Request.model_validate_json((folder / REQUEST).read_text())
    # Where the memory runs out, the system should end this process and no other.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    try:
        response = {"latency": _latency, "memory": _memory, "blocks": _blocks}[request.kind](request)
    except LacootError as error:
        response = Response(error=(type(error).__name__, str(error)))
    except MemoryError:
        response = Response(error=("InputError", "The input does not fit into memory; use a smaller batch."))
    (folder / RESPONSE).write_text(response.model_dump_json())


def _end_with_the_caller() -> None:
    """Nobody waits for an answer once the caller has gone: its end of the pipe then closes."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _latency(request: Request) -> Response:
    import onnxruntime

    bench = Opener(request)
    contestants: dict[str, ContestantReport] = {}
    slowest = 0.0
    for name, model in request.models.items():
        session = bench.open(model)
        check_feeds(session.inputs, bench.feeds, what=model.label)
        contestants[name] = ContestantReport(
            provider=session.provider,
            nodes=[
                NodePlacement(node=p.node, op=p.op, provider=short_name(p.provider))
                for p in session.placement
            ],
            cpu_nodes=[p.node or p.op for p in session.fallback_nodes()],
        )
        slowest += _one_run(make_runner(session, bench.feeds, bench.io_binding))
        del session
    gc.collect()
    rounds = request.options.rounds or (
        FEWEST_ROUNDS if 4 * slowest > request.options.min_time / DEFAULT_ROUNDS else DEFAULT_ROUNDS
    )
    watch = Watch(gpu=bench.provider in NVIDIA)

    def progress(done: int, total: int) -> None:
        print(f"{done} {total}", flush=True)

    measured = measure_rounds(
        list(request.models),
        lambda name: bench.runner(request.models[name]),
        Plan(
            rounds=rounds,
            seconds=request.options.min_time,
            seed=request.options.seed,
            warm_seconds=WARM_SECONDS if request.options.warmup_time is None else request.options.warmup_time,
            warm_runs=request.options.warmup_runs,
        ),
        progress=progress,
    )
    activity = watch.stop()
    for name, report in contestants.items():
        _fill(report, [found[name] for found in measured])
    return Response(
        contestants=contestants,
        shapes={name: list(array.shape) for name, array in bench.feeds.items()},
        batch=_batch(bench.feeds),
        provider=bench.provider,
        why=bench.why,
        io_binding=bench.io_binding,
        thread_pool="shared" if bench.shared else "own",
        onnxruntime=onnxruntime.__version__,
        activity=activity,
    )


def _fill(report: ContestantReport, rounds: list[Any]) -> None:
    report.creation = [found.creation for found in rounds]
    report.first = [found.first for found in rounds]
    report.warm_runs = [found.warm_runs for found in rounds]
    report.stable = sum(not found.stable for found in rounds) * 2 < len(rounds)
    report.samples = [found.samples for found in rounds]
    report.interrupted = sum(found.interrupted for found in rounds)
    report.cycles = [found.cycles().tolist() for found in rounds]


def _one_run(runner: Runner) -> float:
    """Seconds of the second run; the first may set things up."""
    runner.run()
    start = time.perf_counter()
    runner.run()
    seconds = time.perf_counter() - start
    runner.close()
    return seconds


def _batch(feeds: dict[str, NDArray[Any]]) -> int:
    sizes = {array.shape[0] for array in feeds.values() if array.ndim}
    return sizes.pop() if len(sizes) == 1 else 1


def _memory(request: Request) -> Response:
    import onnxruntime

    del onnxruntime
    before, on_gpu = _peak(), gpu_memory_used()
    bench = Opener(request)
    runner = bench.runner(next(iter(request.models.values())))
    for _ in range(2):
        runner.run()
    after = _peak()
    # ONNX Runtime keeps what it took on the device, so what is in use now is the most that was.
    on_gpu_after = gpu_memory_used() if bench.provider in NVIDIA else None
    return Response(
        peak_bytes=None if before is None or after is None else max(0, after - before),
        gpu_bytes=None if on_gpu is None or on_gpu_after is None else max(0, on_gpu_after - on_gpu),
    )


def _blocks(request: Request) -> Response:
    from lacoot_deploy.runtime.reading import read_model

    bench = Opener(request)
    file = next(iter(request.models.values()))
    model = read_model(file.path)
    method = request.method or ("profile" if bench.provider == "cpu" else "prefix")
    if method == "profile" and bench.provider != "cpu":
        raise UsageError(f"A profile tells nothing of the time on {bench.provider}; use the method 'prefix'.")
    total, found = (profiled if method == "profile" else by_prefix)(bench, request, model)
    return Response(
        total_seconds=total,
        block_seconds=found,
        method=method,
        shapes={name: list(array.shape) for name, array in bench.feeds.items()},
        batch=_batch(bench.feeds),
        provider=bench.provider,
    )


def _peak() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not tell."""
    try:
        # Not `getrusage`: what that tells survives exec, so a large parent would show in it.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise InputError("This module is run by `lacoot_deploy.bench` with one folder.")
    main(Path(sys.argv[1]))
