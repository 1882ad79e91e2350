"""Accuracy, cost and latency at every depth: what each removal costs, with and without the penalty.

For each run folder of `lacoot-deploy train` the blocks are removed one after another in two ways, the paper's (rising
MSWD distance, no repair) and this tool's default (greedy by loss, repairs fitted in order), and every network on the
way is judged on test images that neither training nor selection has seen. Networks trained from scratch without some
of the blocks are the control.

    python samples/benchmarks/depth_table.py --data cifar10:PATH --run "penalty 1=runs/resnet20" \
        --scratch "2 blocks=runs/scratch" -o samples/benchmarks/results/resnet20_depth_cpu.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import common

from lacoot_deploy.bench import bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.io import load_model, save_model
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.runtime.evaluate import accuracy, predict
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.criteria import CRITERIA, recorded_scores
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.search import greedy, ranked
from lacoot_deploy.training.checkpoint import read_checkpoint
from lacoot_deploy.workflow.inspecting import open_model, recorded_distances
from lacoot_deploy.workflow.training import training_evidence


def named(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name, Path(path)


def judge(model: Any, test: Samples) -> float:
    return accuracy(predict(open_session(model, runtime=Runtime("cpu")), test)["logits"], test.labels)


def latency(dense: Path, model: Any, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder) / "short.onnx"
        save_model(model, short)
        result = bench(
            dense, short, runtime=Runtime("cpu"), options=BenchOptions(min_time=seconds, memory=False)
        )
    return {
        "p50_ms": result.b.p50_ms,
        "dense_ms": result.a.p50_ms,
        "speedup": result.speedup,
        "ci95": result.ci95,
    }


def seconds_of(run: Path) -> float:
    return sum(json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines())


def depths(name: str, run: Path, data: str, test: Samples, seconds: float) -> dict[str, Any]:
    opened = open_model(run / "model.onnx")
    recipe = read_checkpoint(run / "checkpoint.safetensors").recipe.model_copy(update={"data": data})
    evidence = training_evidence(recipe, opened.manifest.preprocessing)
    able = [block for block in opened.blocks if block.collapsible]
    engine = Engine(opened.model, able, evidence.fit, evidence.choose, runtime=Runtime("cpu"))
    distances, _ = recorded_distances(opened.manifest, opened.blocks)

    def never(step: Any) -> bool:
        return False

    ways = {
        "paper": ranked(
            engine,
            recorded_scores(CRITERIA["mswd"], list(engine.blocks), distances),
            options=SearchOptions(repair="none"),
            stop=never,
        ),
        "default": greedy(
            engine, list(engine.blocks), CRITERIA["loss"], options=SearchOptions(repair="auto"), stop=never
        ),
    }
    rows = []
    for way, path in ways.items():
        for depth in range(len(path) + 1):
            cuts = path[depth - 1].cuts if depth else ()
            model = collapse_blocks(opened.model, cuts)
            costs = model_costs(model)
            row = {
                "way": way,
                "removed": depth,
                "block": path[depth - 1].block if depth else None,
                "repair": path[depth - 1].repair if depth else None,
                "test_accuracy": judge(model, test),
                "macs": costs.macs,
                "parameters": costs.parameters,
                "nodes": costs.nodes,
            }
            if way == "default" and depth:
                row["latency"] = latency(run / "model.onnx", model, seconds)
            rows.append(row)
            print(f"{name}: {way} {depth} removed: {row['test_accuracy']:.2f} %", flush=True)
    return {
        "name": name,
        "recipe": recipe.model_copy(update={"data": data.partition(":")[0]}).model_dump(mode="json"),
        "training_seconds": seconds_of(run),
        "blocks": [block.name for block in able],
        "rows": rows,
    }


def scratch(name: str, run: Path, dense: Path, test: Samples, seconds: float) -> dict[str, Any]:
    model = load_model(run / "model.onnx")
    costs = model_costs(model)
    recipe = read_checkpoint(run / "checkpoint.safetensors").recipe
    return {
        "name": name,
        "without": list(recipe.without),
        "training_seconds": seconds_of(run),
        "test_accuracy": judge(model, test),
        "macs": costs.macs,
        "parameters": costs.parameters,
        "nodes": costs.nodes,
        "latency": latency(dense, model, seconds),
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of the README."""
    runs = result["runs"]
    most = max(row["removed"] for run in runs for row in run["rows"])
    head = ["blocks removed"]
    for run in runs:
        head += [f"{run['name']}, paper's way", f"{run['name']}, default", "MMACs", "speed-up"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for depth in range(most + 1):
        cells = [str(depth)]
        for run in runs:
            found = {row["way"]: row for row in run["rows"] if row["removed"] == depth}
            paper, default = found.get("paper"), found.get("default")
            cells.append("-" if paper is None else f"{paper['test_accuracy']:.2f}")
            cells.append("-" if default is None else f"{default['test_accuracy']:.2f}")
            cells.append("-" if default is None else f"{default['macs'] / 1e6:.1f}")
            measured = (default or {}).get("latency")
            cells.append("1" if measured is None else f"{measured['speedup']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    for run in runs:
        lines.append(f"\n{run['name']}: trained in {run['training_seconds'] / 60:.1f} minutes.")
    for control in result["scratch"]:
        lines.append(
            f"\n{control['name']} from scratch: {control['test_accuracy']:.2f} %, {control['macs'] / 1e6:.1f} MMACs, "
            f"{control['latency']['speedup']:.2f} times as fast as dense, trained in "
            f"{control['training_seconds'] / 60:.1f} minutes."
        )
    return "\n".join(lines)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True, help="cifar10:PATH or another image source")
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER", help="a training run")
    parser.add_argument("--scratch", action="append", default=[], metavar="NAME=FOLDER", help="a control")
    parser.add_argument("--seconds", type=float, default=3.0, help="timed seconds of each latency")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    first = named(arguments.run[0])[1] / "model.onnx"
    preprocessing = open_model(first).manifest.preprocessing
    images = load_images(arguments.data, "test", size=preprocessing.size)

    def test_for(model: Path) -> Samples:
        record = open_model(model / "model.onnx").manifest.preprocessing
        return Samples({"input": normalise(images.images, record)}, images.labels)

    result = {
        "machine": common.machine(),
        "test_images": len(images),
        "runs": [
            depths(name, run, arguments.data, test_for(run), arguments.seconds)
            for name, run in map(named, arguments.run)
        ],
        "scratch": [
            scratch(name, run, first, test_for(run), arguments.seconds)
            for name, run in map(named, arguments.scratch)
        ],
    }
    common.write(arguments.output, result)
    print(markdown(result))


if __name__ == "__main__":
    main()
