"""The measuring process: opens sessions, times them, writes its answer to a file.

It is a process of its own because all its sessions share one pool of threads, which ONNX Runtime allows only where it
was decided before the first session. With a pool for each session, the idle threads of one go on spinning while the
other is timed, which read up to 50 % wrong; sharing the pool, sessions run as they do alone. A run that exhausts the
memory ends this process and not the caller's.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.bench.cutting import name_nodes, node_owners, prefix, read_profile
from lacoot_deploy.bench.environment import Watch
from lacoot_deploy.bench.harness import Plan, Runner, measure_rounds, undisturbed
from lacoot_deploy.bench.protocol import REQUEST, RESPONSE, ContestantReport, ModelFile, Request, Response
from lacoot_deploy.bench.runners import make_runner
from lacoot_deploy.errors import InputError, LacootError, UsageError
from lacoot_deploy.runtime.feeds import check_feeds, generate_feeds, index_limits
from lacoot_deploy.runtime.providers import short_name
from lacoot_deploy.runtime.sessions import Session, open_session

if TYPE_CHECKING:
    import onnx

DEFAULT_ROUNDS, FEWEST_ROUNDS = 10, 5
PROFILE_ROUNDS = 3
NVIDIA = ("cuda", "tensorrt", "nvtensorrtrtx")
MOST_PROFILED_RUNS = 500


def main(folder: Path) -> None:
    """Answer the request in a folder; errors that the user can mend are part of the answer."""
    request = Request.model_validate_json((folder / REQUEST).read_text())
    try:
        response = {"latency": _latency, "memory": _memory, "blocks": _blocks}[request.kind](request)
    except LacootError as error:
        response = Response(error=(type(error).__name__, str(error)))
    except MemoryError:
        response = Response(error=("InputError", "The input does not fit into memory; use a smaller batch."))
    (folder / RESPONSE).write_text(response.model_dump_json())


class _Bench:
    """The sessions and feeds of one request."""

    def __init__(self, request: Request) -> None:
        import onnxruntime

        self.request = request
        self.options = request.options
        self.shared = hasattr(onnxruntime, "set_global_thread_pool_sizes")
        if self.shared:
            onnxruntime.set_global_thread_pool_sizes(self.options.threads or 0, 1)
        self.provider = self.options.provider
        first = next(iter(request.models.values()))
        session = self.open(first)
        self.provider = session.provider
        self.io_binding = (
            session.provider in ("cuda", "tensorrt")
            if self.options.io_binding is None
            else self.options.io_binding
        ) or self.options.cuda_graph
        self.feeds = self._feeds(session, first)

    def open(
        self, model: ModelFile, content: onnx.ModelProto | None = None, configure: Any = None
    ) -> Session:
        """A fresh session of a model, or of another model made from it, whose weights are in the same place."""
        options = self.options
        given = dict(options.provider_options)
        if options.cuda_graph:
            given["enable_cuda_graph"] = "1"
        return open_session(
            model.path if content is None else content,
            provider=self.provider,
            threads=None if self.shared else options.threads,
            optimization=options.optimization,
            provider_options=given,
            use_tf32=options.use_tf32,
            allow_cpu_nodes=options.allow_cpu_nodes,
            label=model.label,
            session_config=self._config(model),
            source=None if content is None else model.path,
            configure=lambda made: self._configure(made, configure),
        )

    def runner(self, model: ModelFile) -> Runner:
        return make_runner(self.open(model), self.feeds, self.io_binding)

    def _config(self, model: ModelFile) -> dict[str, str]:
        config = {}
        if model.source is not None:
            config["session.model_external_initializers_file_folder_path"] = str(model.source.resolve())
        if not self.shared:
            config["session.force_spinning_stop"] = "1"
        return config

    def _configure(self, options: Any, further: Any) -> None:
        if self.shared:
            options.use_per_session_threads = False
        if further is not None:
            further(options)

    def _feeds(self, session: Session, model: ModelFile) -> dict[str, NDArray[Any]]:
        wanted = self.request.feeds
        if wanted.file is not None:
            with np.load(wanted.file, allow_pickle=False) as archive:
                feeds = {name: archive[name] for name in archive.files}
            check_feeds(session.inputs, feeds, what=session.label)
            return feeds
        import onnx

        limits = index_limits(onnx.load(str(model.path), load_external_data=False))
        return generate_feeds(
            session.inputs, batch=wanted.batch, dims=wanted.dims, seed=wanted.seed, limits=limits
        )


def _latency(request: Request) -> Response:
    import onnxruntime

    bench = _Bench(request)
    contestants: dict[str, ContestantReport] = {}
    slowest = 0.0
    for name, model in request.models.items():
        session = bench.open(model)
        check_feeds(session.inputs, bench.feeds, what=model.label)
        placed = Counter(short_name(p.provider) for p in session.placement)
        contestants[name] = ContestantReport(
            provider=session.provider,
            placement=dict(placed),
            cpu_nodes=[p.node or p.op for p in session.fallback_nodes()],
        )
        slowest += _one_run(make_runner(session, bench.feeds, bench.io_binding))
        del session
    gc.collect()
    rounds = request.rounds or (
        FEWEST_ROUNDS if 4 * slowest > request.seconds / DEFAULT_ROUNDS else DEFAULT_ROUNDS
    )
    watch = Watch(gpu=bench.provider in NVIDIA)

    def progress(done: int, total: int) -> None:
        print(f"{done} {total}", flush=True)

    measured = measure_rounds(
        list(request.models),
        lambda name: bench.runner(request.models[name]),
        Plan(rounds=rounds, seconds=request.seconds, seed=request.seed),
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
        io_binding=bench.io_binding,
        thread_pool="shared" if bench.shared else "own",
        onnxruntime=onnxruntime.__version__,
        activity=activity,
    )


def _fill(report: ContestantReport, rounds: list[Any]) -> None:
    report.creation = [found.creation for found in rounds]
    report.first = [found.first for found in rounds]
    report.stable = sum(not found.stable for found in rounds) * 2 < len(rounds)
    report.samples = [found.samples for found in rounds]
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
    before = _peak()
    bench = _Bench(request)
    runner = bench.runner(next(iter(request.models.values())))
    for _ in range(2):
        runner.run()
    after = _peak()
    if before is None or after is None:
        return Response()
    return Response(peak_bytes=max(0, after - before))


def _blocks(request: Request) -> Response:
    import onnx

    bench = _Bench(request)
    file = next(iter(request.models.values()))
    model = onnx.load(str(file.path), load_external_data=False)
    method = request.method or ("profile" if bench.provider == "cpu" else "prefix")
    if method == "profile" and bench.provider != "cpu":
        raise UsageError(f"A profile tells nothing of the time on {bench.provider}; use the method 'prefix'.")
    total, found = (_profiled if method == "profile" else _by_prefix)(bench, file, model)
    return Response(
        total_seconds=total,
        block_seconds=found,
        method=method,
        batch=_batch(bench.feeds),
        provider=bench.provider,
    )


def _profiled(bench: _Bench, file: ModelFile, model: onnx.ModelProto) -> tuple[float, dict[str, float]]:
    """Latency of the model, and each block's part by ONNX Runtime's profile, in fresh sessions of both kinds."""
    named = name_nodes(model)
    owners = node_owners(model, {block.name: block.nodes for block in bench.request.blocks})
    totals: list[float] = []
    shares: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as folder:

        def profile(options: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")

        for number in range(PROFILE_ROUNDS):
            plain = make_runner(bench.open(file), bench.feeds, False)
            budget = bench.request.seconds / PROFILE_ROUNDS / 2
            totals.append(undisturbed(_runs(plain, budget)))
            plain.close()
            session = bench.open(file, named, profile)
            count = len(_runs(make_runner(session, bench.feeds, False), budget))
            seconds = read_profile(Path(session.ort.end_profiling()), named, owners, count)
            whole = sum(seconds.values())
            shares.append(
                {block.name: seconds.get(block.name, 0.0) / whole for block in bench.request.blocks}
            )
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


def _by_prefix(bench: _Bench, file: ModelFile, model: onnx.ModelProto) -> tuple[float, dict[str, float]]:
    """Latency of the model, and each block's as that of the model up to its output less that up to its input."""
    inputs = {value.name for value in model.graph.input}
    ends = [value for block in bench.request.blocks for value in (block.input, block.output)]
    values = [value for value in dict.fromkeys(ends) if value not in inputs]
    cuts = {value: prefix(model, [value]) for value in values}
    whole = ""

    def runner(value: str) -> Runner:
        session = bench.open(file, cuts.get(value))
        feeds = {info.name: bench.feeds[info.name] for info in session.inputs if info.name in bench.feeds}
        return make_runner(session, feeds, bench.io_binding)

    def progress(done: int, total: int) -> None:
        print(f"{done} {total}", flush=True)

    plan = Plan(rounds=PROFILE_ROUNDS, seconds=bench.request.seconds, seed=bench.request.seed)
    measured = measure_rounds([*values, whole], runner, plan, progress=progress)
    typical = {
        name: float(np.median(np.concatenate([np.exp(found[name].cycles()) for found in measured])))
        for name in (*values, whole)
    }
    found = {
        block.name: max(0.0, typical[block.output] - typical.get(block.input, 0.0))
        for block in bench.request.blocks
    }
    return typical[whole], found


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
