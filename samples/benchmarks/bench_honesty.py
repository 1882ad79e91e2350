"""Is `lacoot-deploy bench` honest? Trials with a known answer, on a machine that others keep busy.

    python samples/benchmarks/bench_honesty.py                  # all trials, about 25 minutes on a quiet machine
    python samples/benchmarks/bench_honesty.py --trial peers --first 10 --runs 10 --out honesty.json

aa      The same file twice while another process keeps one core busy: the interval should cover 1, and no run should
        say faster or slower.
truth   A chain of n identical blocks against one of n/2. What the ratio is follows from the time per block, which is
        fitted to the fastest runs of chains of four lengths.
peers   One pair of models, many repetitions: how often bench, ONNX Runtime's own test script
        (`onnxruntime.tools.onnxruntime_test`) and a plain timing loop come within 3 % of the truth, each given the
        same time, on the machine as it is and with one core kept busy.
surgery ResNet-18 with the second block of each stage cut out of the file, against the same network built with one block
        a stage and exported from PyTorch: as many nodes, equal outputs, no detectable difference.

Prints every run and writes the figures as JSON. A file that is there already is added to: runs of the same trial and
number are replaced, and what the runs add up to is counted anew, so that a trial can be taken in pieces.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lacoot_deploy.bench import BenchResult, bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.runtime.options import Runtime

Row = dict[str, Any]

BUSY = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
while True:
    pass
"""
TOLERANCE = 0.03
CHANNELS, SIDE = 16, 32
PEERS = 24, 22
"""Blocks of the pair that all methods are held to: a difference of 9 %."""


def chain(blocks: int, folder: Path) -> Path:
    """A file with that many identical residual blocks h + conv(relu(h))."""
    kernel = (0.02 * np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS, 3, 3))).astype(np.float32)
    nodes = []
    for i in range(blocks):
        nodes += [
            helper.make_node("Relu", [f"h{i}"], [f"r{i}"]),
            helper.make_node("Conv", [f"r{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Add", [f"h{i}", f"c{i}"], [f"h{i + 1}" if i + 1 < blocks else "y"]),
        ]
    shape = [1, CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(kernel, f"w{i}") for i in range(blocks)],
    )
    path = folder / f"chain{blocks}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@contextlib.contextmanager
def busy_core(wanted: bool = True) -> Iterator[None]:
    """Another process keeps one core busy meanwhile; it ends with this block."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def row_of(run: int, result: BenchResult) -> Row:
    """What one run of bench said."""
    assert result.ci95 is not None
    assert result.speedup is not None
    low, high = result.ci95
    print(f"  {run:2}: {result.speedup:.4f} [{low:.4f}, {high:.4f}] {result.verdict}", flush=True)
    return {
        "run": run,
        "speedup": result.speedup,
        "ci95": [low, high],
        "noise_floor": result.noise_floor,
        "smallest_detectable": result.smallest_detectable,
        "verdict": result.verdict,
        "other_cpu": result.environment.other_cpu,
        "seconds": result.environment.seconds,
    }


def trial_aa(runs: Sequence[int], seconds: float, folder: Path) -> Iterator[Row]:
    model = chain(24, folder)
    with busy_core():
        for run in runs:
            yield row_of(
                run,
                bench(
                    model,
                    model,
                    options=BenchOptions(min_time=seconds, memory=False, seed=run),
                    runtime=Runtime("cpu"),
                ),
            )


def sum_aa(rows: Sequence[Row]) -> Row:
    claims = [row for row in rows if row["verdict"] != "no detectable difference"]
    return {
        "runs": len(rows),
        "interval_covers_1": sum(row["ci95"][0] <= 1 <= row["ci95"][1] for row in rows),
        "faster_or_slower": len(claims),
        "faster_or_slower_by_more_than_2_percent": sum(abs(row["speedup"] - 1) > 0.02 for row in claims),
        "worst_estimate": max((row["speedup"] for row in rows), key=lambda value: abs(math.log(value))),
    }


def fastest(path: Path, seconds: float = 2.0) -> float:
    """The fastest of many runs of one session, on one thread: what the model takes when nothing interrupts it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {"h0": np.zeros((1, CHANNELS, SIDE, SIDE), np.float32)}
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        best = min(best, time.perf_counter() - start)
    return best


def true_ratio(a: int, b: int, folder: Path) -> float:
    """(c + a t) / (c + b t), fitted to the fastest runs of chains of four lengths, looked for in turns."""
    lengths = sorted({a, b, a // 4, 3 * a // 4})
    turns = [[fastest(chain(n, folder), 0.5) for n in lengths] for _ in range(8)]
    slope, offset = np.polyfit(lengths, np.min(turns, axis=0), 1)
    return float((offset + a * slope) / (offset + b * slope))


def trial_truth(runs: Sequence[int], seconds: float, folder: Path) -> Iterator[Row]:
    truth = true_ratio(24, 12, folder)
    print(f"  truth from the time per block: {truth:.4f}")
    pair = chain(24, folder), chain(12, folder)
    options = BenchOptions(min_time=seconds, memory=False)
    for run in runs:
        row = row_of(run, bench(*pair, options=replace(options, seed=run), runtime=Runtime("cpu", threads=1)))
        yield row | {"truth": truth, "error": row["speedup"] / truth - 1}


def sum_truth(rows: Sequence[Row]) -> Row:
    return {
        "runs": len(rows),
        "within_3_percent": sum(abs(row["error"]) <= TOLERANCE for row in rows),
        "interval_covers_truth": sum(row["ci95"][0] <= row["truth"] <= row["ci95"][1] for row in rows),
        "worst_error": max((row["error"] for row in rows), key=abs),
    }


def ort_test(path: Path, seconds: float, typical: float) -> float:
    """Average latency that ONNX Runtime's test script prints."""
    command = [
        sys.executable,
        "-m",
        "onnxruntime.tools.onnxruntime_test",
        str(path),
        str(max(1, int(seconds / typical))),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"avg latency: ([0-9.]+) ms", answer.stdout)
    assert found, answer.stdout
    return float(found.group(1)) / 1e3


def plain_loop(path: Path, seconds: float) -> list[float]:
    """Every run of one session in a loop, ten warm-up runs before."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {"h0": np.zeros((1, CHANNELS, SIDE, SIDE), np.float32)}
    for _ in range(10):
        session.run(None, feeds)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return times


def trial_peers(runs: Sequence[int], seconds: float, folder: Path) -> Iterator[Row]:
    a, b = (chain(blocks, folder) for blocks in PEERS)
    truth = true_ratio(*PEERS, folder)
    typical = fastest(a, 0.5)
    print(f"  truth from the time per block: {truth:.4f}; each method gets {seconds:g} s of timed runs")
    for run in runs:
        for busy in (False, True):
            with busy_core(busy):
                ours = row_of(
                    run,
                    bench(
                        a,
                        b,
                        options=BenchOptions(min_time=seconds, memory=False, seed=run),
                        runtime=Runtime("cpu"),
                    ),
                )
                first, second = (ort_test(path, seconds / 2, typical) for path in (a, b))
                loop_a, loop_b = (plain_loop(path, seconds / 2) for path in (a, b))
            ratios = {
                "lacoot-deploy bench": ours["speedup"],
                "onnxruntime_test, A then B": first / second,
                "plain loop, ratio of means": statistics.fmean(loop_a) / statistics.fmean(loop_b),
                "plain loop, ratio of medians": statistics.median(loop_a) / statistics.median(loop_b),
            }
            errors = {method: ratio / truth - 1 for method, ratio in ratios.items()}
            state = "one core kept busy" if busy else "machine as it is"
            yield {"run": run, "state": state, "truth": truth, "errors": errors, "bench": ours}


def sum_peers(rows: Sequence[Row]) -> Row:
    found: Row = {}
    for state in dict.fromkeys(row["state"] for row in rows):
        errors = [row["errors"] for row in rows if row["state"] == state]
        found[state] = {"runs": len(errors)} | {
            method: {
                "within_3_percent": sum(abs(one[method]) <= TOLERANCE for one in errors),
                "rms_error": math.sqrt(statistics.fmean(one[method] ** 2 for one in errors)),
                "worst_error": max((one[method] for one in errors), key=abs),
            }
            for method in errors[0]
        }
    return found


def trial_surgery(runs: Sequence[int], seconds: float, folder: Path) -> Iterator[Row]:
    import torch
    from torchvision.models.resnet import BasicBlock, ResNet

    from lacoot_deploy.graph.discovery import find_blocks
    from lacoot_deploy.graph.surgery.collapse import collapse_blocks
    from lacoot_deploy.graph.surgery.cuts import Cut
    from lacoot_deploy.runtime.sessions import open_session
    from lacoot_deploy.training.export import to_onnx

    torch.manual_seed(0)
    deep, shallow = (ResNet(BasicBlock, [n] * 4).eval() for n in (2, 1))
    shallow.load_state_dict({name: deep.state_dict()[name] for name in shallow.state_dict()})
    example = torch.randn(2, 3, 64, 64)
    dense, exported = to_onnx(deep, example), to_onnx(shallow, example)
    second = [block for block in find_blocks(dense) if block.name.endswith(".1")]
    collapsed = collapse_blocks(dense, [Cut(block, block.forms[0]) for block in second])
    paths = []
    for name, model in (("exported", exported), ("collapsed", collapsed)):
        paths.append(folder / f"{name}.onnx")
        onnx.save(model, str(paths[-1]))
    outputs = [
        open_session(path, runtime=Runtime("cpu")).run({"input": example.numpy()})["logits"] for path in paths
    ]
    drift = float(np.abs(outputs[0] - outputs[1]).max())
    nodes = [len(model.graph.node) for model in (exported, collapsed)]
    print(f"  nodes: {nodes[0]} exported, {nodes[1]} collapsed; largest difference of outputs {drift:.2g}")
    options = BenchOptions(min_time=seconds, memory=False)
    for run in runs:
        yield row_of(
            run, bench(*paths, options=replace(options, seed=run), runtime=Runtime("cpu", threads=1))
        ) | {
            "nodes": nodes,
            "output_drift": drift,
        }


def sum_surgery(rows: Sequence[Row]) -> Row:
    logs = [math.log(row["speedup"]) for row in rows]
    return {
        "runs": len(rows),
        "same_number_of_nodes": all(len(set(row["nodes"])) == 1 for row in rows),
        "largest_output_drift": max(row["output_drift"] for row in rows),
        "within_1_percent": sum(abs(row["speedup"] - 1) <= 0.01 for row in rows),
        "no_detectable_difference": sum(row["verdict"] == "no detectable difference" for row in rows),
        "speedup_over_all_runs": math.exp(statistics.fmean(logs)),
        "standard_deviation": statistics.stdev(logs) if len(logs) > 1 else None,
    }


TRIALS = {
    "aa": (trial_aa, sum_aa),
    "truth": (trial_truth, sum_truth),
    "surgery": (trial_surgery, sum_surgery),
    "peers": (trial_peers, sum_peers),
}


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Old runs that were not taken again, and the new ones, in order."""
    rows = {(int(row["run"]), str(row.get("state", ""))): row for row in (*old, *new)}
    return [rows[key] for key in sorted(rows)]


def main() -> None:
    import onnxruntime

    parser = common.parser(__doc__)
    parser.add_argument("--trial", choices=[*TRIALS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first run, which is also its seed"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="timed seconds of one measurement")
    parser.add_argument("--out", type=Path, help="add the figures to this JSON file")
    arguments = parser.parse_args()
    runs = range(arguments.first, arguments.first + arguments.runs)
    found: Row = {}
    if arguments.out and arguments.out.is_file():
        found = json.loads(arguments.out.read_text())
    machine = common.machine()
    for name, (trial, add_up) in TRIALS.items():
        if arguments.trial not in (name, "all"):
            continue
        print(name)
        old, new = found.get(name, {}).get("runs", []), []
        with tempfile.TemporaryDirectory() as folder:
            for row in trial(runs, arguments.seconds, Path(folder)):
                new.append(row)
                rows = merged(old, new)
                found[name] = {
                    "seconds": arguments.seconds,
                    "onnxruntime": onnxruntime.__version__,
                    "machine": machine,
                    "summary": add_up(rows),
                    "runs": rows,
                }
                # As they come: a trial takes minutes, and what it has is not to be lost with it.
                if arguments.out:
                    common.write(arguments.out, found)
        print(json.dumps(found[name]["summary"], indent=1))


if __name__ == "__main__":
    main()
