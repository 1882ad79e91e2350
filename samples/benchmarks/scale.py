"""Does the tool stay quick and small on large models?

    python samples/benchmarks/scale.py
    python samples/benchmarks/scale.py --gigabytes 0.5 --folder /scratch

external  A model with 3 GB of external weights: `inspect` in under 3 s and 500 MB; `collapse` of every other block
          within 1.3 times the time in which Python copies a file of the bytes that survive, to the same disk and synced
          as well, also under 500 MB. Copy and collapse take turns.
search    A model of half as many gigabytes, searched for one block with 64 samples: with the defaults in at most 2.5
          times the processor time of `--repair none`, and in at most 1.3 times the model's size and 100 MB.
nodes     A graph of 8,000 nodes: `inspect` and `collapse` of every other block together in under 3 s.
start     `--help` in 0.4 s; `inspect` of ResNet-50 in 2 s and without importing torch.

Every command runs in a process of its own, as a user starts it: times are of the wall clock from start to end, the
median of the repetitions, memory is the largest resident set of the process. Processor seconds stand beside the wall
clock, because other work on the machine disturbs them less. Prints the figures and writes them as
JSON. Ends with exit code 6 where a limit is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
from onnx import TensorProto, helper

LIMITS = {
    "external inspect seconds": 3.0,
    "external inspect megabytes": 500.0,
    "external collapse against copying": 1.3,
    "external collapse megabytes": 500.0,
    "search default against none": 2.5,
    "search megabytes over size": 1.3,
    "nodes inspect and collapse seconds": 3.0,
    "help seconds": 0.4,
    "resnet50 inspect seconds": 2.0,
    "resnet50 inspect imports torch": 0.0,
}
WIDTH, HIDDEN = 2048, 4096


@dataclass(frozen=True)
class Run:
    """One process: wall clock and processor seconds, largest resident set in megabytes, what it printed."""

    seconds: float
    processor: float
    megabytes: float
    text: str


def command(*arguments: str | Path, code: str | None = None) -> Run:
    """Run lacoot-deploy, or `code`, in a process of its own."""
    start = ["-c", code] if code else ["-m", "lacoot_deploy"]
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *start, *map(str, arguments)], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{arguments} ended with exit code {process.returncode}")
        output.seek(0)
        text = output.read().decode()
    scale = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * scale / 1e6, text)


def chain(blocks: int, weight: Any, *, width: int, hidden: int) -> onnx.ModelProto:
    """Y = x + W2 relu(W1 x), many times over; `weight` makes the TensorProto of a name and shape."""
    nodes, weights, value = [helper.make_node("Identity", ["x"], ["v0"], name="stem")], [], "v0"
    for number in range(blocks):
        name = f"block{number}"
        weights += [weight(f"{name}.w1", (width, hidden)), weight(f"{name}.w2", (hidden, width))]
        nodes += [
            helper.make_node("MatMul", [value, f"{name}.w1"], [f"{name}.h"], name=f"{name}.fc1"),
            helper.make_node("Relu", [f"{name}.h"], [f"{name}.r"], name=f"{name}.relu"),
            helper.make_node("MatMul", [f"{name}.r", f"{name}.w2"], [f"{name}.b"], name=f"{name}.fc2"),
            helper.make_node("Add", [f"{name}.b", value], [f"v{number + 1}"], name=f"{name}.add"),
        ]
        value = f"v{number + 1}"
    shape = ["N", width]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def external_model(folder: Path, gigabytes: float) -> Path:
    """A model with that much of external weights, of real bytes."""
    size = WIDTH * HIDDEN * 4
    blocks = max(2, round(gigabytes * 1e9 / (2 * size)))
    offset = 0

    def weight(name: str, shape: tuple[int, int]) -> TensorProto:
        nonlocal offset
        tensor = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", "big.data"), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        offset += size
        return tensor

    model = chain(blocks, weight, width=WIDTH, hidden=HIDDEN)
    with (folder / "big.data").open("wb") as file:
        noise = np.random.default_rng(0).standard_normal(size // 4, dtype=np.float32) * np.float32(0.01)
        for number in range(2 * blocks):
            file.write(np.roll(noise, number).tobytes())
    (folder / "big.onnx").write_bytes(model.SerializeToString())
    return folder / "big.onnx"


def copy_synced(source: Path, target: Path) -> float:
    """Seconds that it takes to copy a file and to sync the copy."""
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began


def every_other(model: Path) -> tuple[str, Run]:
    """Names of every other block that can go, and what inspecting took."""
    run = command("inspect", model, "--json")
    names = [block["name"] for block in json.loads(run.text)["blocks"] if block["collapsible"]]
    return ",".join(names[::2]), run


def summary(name: str, runs: Sequence[Run]) -> dict[str, float]:
    """Medians of the times, the largest memory."""
    return {
        f"{name} seconds": statistics.median(run.seconds for run in runs),
        f"{name} processor seconds": statistics.median(run.processor for run in runs),
        f"{name} megabytes": max(run.megabytes for run in runs),
    }


def measure_external(folder: Path, gigabytes: float, rounds: int) -> dict[str, float]:
    """Inspect and collapse a model with external weights, in turns with a plain copy."""
    model = external_model(folder, gigabytes)
    looks = [every_other(model) for _ in range(rounds)]
    out, copy = folder / "out.onnx", folder / "copy.data"
    cuts, copies, survived = [], [], 0
    for _ in range(rounds):
        for old in folder.glob("out.onnx*"):
            old.unlink()
        cuts.append(command("collapse", model, "--blocks", looks[0][0], "-o", out))
        survived = out.with_name("out.onnx.data").stat().st_size
        copies.append(copy_synced(out.with_name("out.onnx.data"), copy))
    ratios = [cut.seconds / copied for cut, copied in zip(cuts, copies, strict=True)]
    return {
        "external gigabytes": model.with_name("big.data").stat().st_size / 1e9,
        "external surviving gigabytes": survived / 1e9,
        **summary("external inspect", [look for _, look in looks]),
        **summary("external collapse", cuts),
        "external copy seconds": statistics.median(copies),
        "external collapse against copying": statistics.median(ratios),
    }


BASE_MEGABYTES = 100.0
"""What Python and its libraries take without any model."""


def measure_search(folder: Path, gigabytes: float, rounds: int) -> dict[str, float]:
    """Search a large model by default and without repairs; threads are not chosen, so that processor time compares."""
    model = external_model(folder, gigabytes)
    data, out = folder / "samples.npz", folder / "searched.onnx"
    name = onnx.load(model, load_external_data=False).graph.input[0].name
    np.savez(data, **{name: np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)})
    asked = ["collapse", model, "--count", "1", "--data", f"npz:{data}", "--threads", "1", "-o", out]
    plain, default = [], []
    for _ in range(rounds):
        plain.append(command(*asked, "--repair", "none"))
        default.append(command(*asked))
    megabytes = model.with_name("big.data").stat().st_size / 1e6
    ratios = [one.processor / other.processor for one, other in zip(default, plain, strict=True)]
    memory = max(run.megabytes for run in default) - BASE_MEGABYTES
    return {
        "search gigabytes": megabytes / 1e3,
        **summary("search without repair", plain),
        **summary("search", default),
        "search default against none": statistics.median(ratios),
        "search megabytes over size": memory / megabytes,
    }


def measure_nodes(folder: Path, rounds: int) -> dict[str, float]:
    """Inspect and collapse a graph of 8,000 nodes."""
    rng = np.random.default_rng(0)

    def weight(name: str, shape: tuple[int, int]) -> TensorProto:
        return onnx.numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)

    model = chain(2000, weight, width=8, hidden=8)
    path, out = folder / "many.onnx", folder / "fewer.onnx"
    onnx.save(model, path)
    looks = [every_other(path) for _ in range(rounds)]
    cuts = [command("collapse", path, "--blocks", looks[0][0], "-o", out) for _ in range(rounds)]
    parts = {
        **summary("nodes inspect", [look for _, look in looks]),
        **summary("nodes collapse", cuts),
    }
    total = parts["nodes inspect seconds"] + parts["nodes collapse seconds"]
    return {"nodes": len(model.graph.node), **parts, "nodes inspect and collapse seconds": total}


EXPORT_RESNET50 = """
import sys, torch, torchvision
module = torchvision.models.resnet50(weights=None).eval()
torch.onnx.export(module, (torch.randn(1, 3, 224, 224),), sys.argv[1], dynamo=True, external_data=False, verbose=False)
"""

INSPECT_WITHOUT_TORCH = """
import sys
import common
from lacoot_deploy_cli.main import cli
cli(sys.argv[1:], standalone_mode=False)
print("torch" in sys.modules)
"""


def measure_start(folder: Path, rounds: int) -> dict[str, float]:
    """How soon help and a first inspection are there."""
    # In a process of its own: a child starts with its parent's largest resident set.
    path = folder / "resnet50.onnx"
    command(path, code=EXPORT_RESNET50)
    imported = command("inspect", path, code=INSPECT_WITHOUT_TORCH).text.splitlines()[-1] == "True"
    return {
        **summary("help", [command("--help") for _ in range(rounds)]),
        **summary("resnet50 inspect", [command("inspect", path) for _ in range(rounds)]),
        "resnet50 inspect imports torch": float(imported),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 6 where a limit is missed."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--gigabytes", type=float, default=3.0, help="size of the external weights (default: 3)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of everything (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="where the large files go for a while (default: the system's)"
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=["external", "search", "nodes", "start"])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    options = parser.parse_args(arguments)

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if "external" not in options.skip and free < 3 * options.gigabytes * 1e9:
            raise SystemExit(
                f"{folder} has only {free / 1e9:.1f} GB free; {3 * options.gigabytes:.1f} are needed."
            )
        if "start" not in options.skip:
            figures |= measure_start(folder, options.rounds)
        if "nodes" not in options.skip:
            figures |= measure_nodes(folder, options.rounds)
        if "external" not in options.skip:
            figures |= measure_external(folder, options.gigabytes, options.rounds)
        if "search" not in options.skip:
            figures |= measure_search(folder, options.gigabytes / 2, options.rounds)

    missed = []
    for key, value in figures.items():
        limit = LIMITS.get(key)
        verdict = "" if limit is None else f"   limit {limit:g}: {'met' if value <= limit else 'MISSED'}"
        print(f"{key:40} {value:10.3f}{verdict}")
        if limit is not None and value > limit:
            missed.append(key)
    report = {
        "figures": {key: round(value, 4) for key, value in figures.items()},
        "limits": LIMITS,
        "missed": missed,
        "rounds": options.rounds,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "machine": common.machine(),
    }
    common.write(options.output, report)
    return 6 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
