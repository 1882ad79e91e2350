"""Is `lacoot-deploy bench` honest? Trials with a known answer, on a machine that others keep busy.

    python samples/benchmarks/bench_honesty.py                  # all trials, about 20 minutes on a quiet machine
    python samples/benchmarks/bench_honesty.py --trial aa --runs 5

aa      The same file twice while another process keeps one core busy: the interval should cover 1, and no run should
        say faster or slower.
truth   A chain of n identical blocks against one of n/2. What the ratio is follows from the time per block, which is
        fitted to the fastest runs of chains of four lengths.
peers   One pair of models, many repetitions: how often bench, ONNX Runtime's own test script
        (`onnxruntime.tools.onnxruntime_test`) and a plain timing loop come within 3 % of the truth, each given the
        same time, on the machine as it is and with one core kept busy.
surgery ResNet-18 with the second block of each stage cut out of the file, against the same network built with one block
        a stage and exported from PyTorch: as many nodes, equal outputs, no detectable difference.

Prints a table and writes the figures as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lacoot_deploy.bench import bench

BUSY = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
while True:
    pass
"""
TOLERANCE = 0.03
CHANNELS, SIDE = 16, 32


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


def trial_aa(runs: int, seconds: float, folder: Path) -> dict[str, Any]:
    model = chain(24, folder)
    rows = []
    with busy_core():
        for run in range(runs):
            result = bench(model, model, min_time=seconds, memory=False, provider="cpu", seed=run)
            assert result.ci95 is not None
            assert result.speedup is not None
            rows.append(
                {
                    "speedup": result.speedup,
                    "ci95": result.ci95,
                    "noise_floor": result.noise_floor,
                    "verdict": result.verdict,
                    "other_cpu": result.environment.other_cpu,
                }
            )
            print(
                f"  {run + 1:2}: {result.speedup:.4f} [{result.ci95[0]:.4f}, {result.ci95[1]:.4f}] {result.verdict}"
            )
    covered = sum(row["ci95"][0] <= 1 <= row["ci95"][1] for row in rows)
    claims = [row for row in rows if row["verdict"] != "no detectable difference"]
    loud = [row for row in claims if abs(row["speedup"] - 1) > 0.02]
    print(
        f"interval covers 1: {covered} of {runs}; faster or slower: {len(claims)}, by more than 2 %: {len(loud)}"
    )
    return {"runs": rows, "covered": covered, "claims": len(claims), "claims_above_2_percent": len(loud)}


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
    """(c + a t) / (c + b t), fitted to the fastest runs of chains of four lengths."""
    lengths = sorted({a, b, a // 4, 3 * a // 4})
    times = [statistics.median(fastest(chain(n, folder), 1.0) for _ in range(3)) for n in lengths]
    slope, offset = np.polyfit(lengths, times, 1)
    return float((offset + a * slope) / (offset + b * slope))


def trial_truth(runs: int, seconds: float, folder: Path) -> dict[str, Any]:
    truth = true_ratio(24, 12, folder)
    print(f"truth from the time per block: {truth:.4f}")
    rows = []
    for run in range(runs):
        result = bench(
            chain(24, folder),
            chain(12, folder),
            min_time=seconds,
            memory=False,
            threads=1,
            provider="cpu",
            seed=run,
        )
        assert result.speedup is not None
        assert result.ci95 is not None
        error = result.speedup / truth - 1
        rows.append({"speedup": result.speedup, "ci95": result.ci95, "error": error})
        print(
            f"  {run + 1:2}: {result.speedup:.4f} [{result.ci95[0]:.4f}, {result.ci95[1]:.4f}] error {error:+.2%}"
        )
    worst = max(abs(row["error"]) for row in rows)
    print(f"worst error {worst:.2%} of {TOLERANCE:.0%} allowed")
    return {"truth": truth, "runs": rows, "worst_error": worst}


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


def trial_peers(runs: int, seconds: float, folder: Path) -> dict[str, Any]:
    a, b = 24, 22
    truth = true_ratio(a, b, folder)
    typical = fastest(chain(a, folder), 0.5)
    print(f"truth from the time per block: {truth:.4f}; each method gets {seconds:g} s of timed runs")
    found: dict[str, Any] = {"truth": truth}
    for busy in (False, True):
        ratios: dict[str, list[float]] = {
            "lacoot-deploy bench": [],
            "onnxruntime_test, A then B": [],
            "plain loop, ratio of means": [],
            "plain loop, ratio of medians": [],
        }
        with busy_core(busy):
            for run in range(runs):
                result = bench(
                    chain(a, folder),
                    chain(b, folder),
                    min_time=seconds,
                    memory=False,
                    provider="cpu",
                    seed=run,
                )
                assert result.speedup is not None
                ratios["lacoot-deploy bench"].append(result.speedup)
                first, second = (ort_test(chain(n, folder), seconds / 2, typical) for n in (a, b))
                ratios["onnxruntime_test, A then B"].append(first / second)
                loop_a, loop_b = (plain_loop(chain(n, folder), seconds / 2) for n in (a, b))
                ratios["plain loop, ratio of means"].append(
                    statistics.fmean(loop_a) / statistics.fmean(loop_b)
                )
                ratios["plain loop, ratio of medians"].append(
                    statistics.median(loop_a) / statistics.median(loop_b)
                )
        state = "one core kept busy" if busy else "machine as it is"
        found[state] = {}
        for method, values in ratios.items():
            errors = [value / truth - 1 for value in values]
            right = sum(abs(error) <= TOLERANCE for error in errors)
            worst = max(errors, key=abs)
            spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
            print(
                f"  {state:18}  {method:30} within 3 %: {right:2} of {runs}   sd {spread:.1%}   worst {worst:+.1%}"
            )
            found[state][method] = {"ratios": values, "right": right, "sd": spread, "worst": worst}
    return found


def trial_surgery(runs: int, seconds: float, folder: Path) -> dict[str, Any]:
    import torch
    from torchvision.models.resnet import BasicBlock, ResNet

    from lacoot_deploy.graph.cuts import Cut
    from lacoot_deploy.graph.discovery import find_blocks
    from lacoot_deploy.graph.surgery import collapse_blocks
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
    outputs = [open_session(path, provider="cpu").run({"input": example.numpy()})["logits"] for path in paths]
    drift = float(np.abs(outputs[0] - outputs[1]).max())
    nodes = [len(model.graph.node) for model in (exported, collapsed)]
    print(f"nodes: {nodes[0]} exported, {nodes[1]} collapsed; largest difference of outputs {drift:.2g}")
    rows = []
    for run in range(runs):
        result = bench(*paths, min_time=seconds, memory=False, provider="cpu", threads=1, seed=run)
        assert result.speedup is not None
        assert result.ci95 is not None
        rows.append({"speedup": result.speedup, "ci95": result.ci95, "verdict": result.verdict})
        print(
            f"  {run + 1:2}: {result.speedup:.4f} [{result.ci95[0]:.4f}, {result.ci95[1]:.4f}] {result.verdict}"
        )
    within = sum(abs(row["speedup"] - 1) <= 0.01 for row in rows)
    claims = sum(row["verdict"] != "no detectable difference" for row in rows)
    print(f"within 1 %: {within} of {runs}; faster or slower: {claims}")
    return {"nodes": nodes, "drift": drift, "runs": rows, "within_1_percent": within, "claims": claims}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trial", choices=["aa", "truth", "peers", "surgery", "all"], default="all")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="timed seconds of one measurement")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    trials = {"aa": trial_aa, "truth": trial_truth, "peers": trial_peers, "surgery": trial_surgery}
    found: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, trial in trials.items():
            if arguments.trial in (name, "all"):
                print(name)
                found[name] = trial(arguments.runs, arguments.seconds, Path(folder))
                if arguments.out:
                    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
