"""Blocks or activations? Five training methods on four small networks, merged, with their controls beside them.

Every network is trained densely on the handwritten digits. EASIER, NEPENTHE, TLC and LayerCollapse go on from there,
each until validation has lost more than two points (six of 287 images), and what became linear is merged; LaCoOT
trains with its penalty and loses blocks under the same limit. `scratch` is the control: the network that the method
left, trained from the start for as many epochs.

    python samples/benchmarks/methods_table.py --runs runs/methods -o methods.json
    python samples/benchmarks/methods_table.py --runs runs/methods -o methods.json --latency

Cells that the file holds are not trained again. Latencies are taken by the second command, best on a quiet machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import common

from lacoot_deploy.api import collapse
from lacoot_deploy.bench import bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import LacootError
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.linear import merge_linear
from lacoot_deploy.graph.model.io import load_model, save_model
from lacoot_deploy.machine import load_average
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.training.checkpoint import CHECKPOINT_NAME
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.workflow.comparing import compare
from lacoot_deploy.workflow.training import train

COMMON: dict[str, Any] = {
    "data": "digits", "val_fraction": 0.2, "batch_size": 64, "measure_samples": 256, "device": "cpu",
}  # fmt: skip
LIMIT = {"max_drop": 2.0}
SGD = {"lr": 0.05, "nesterov": True, "weight_decay": 5e-4}
ADAM = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05}

# Settings of the network and its dense training; of the rounds; of LaCoOT, where there are blocks.
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "CNN with residual blocks": (
        SGD | {"model": "digits-resnet", "model_args": {"widths": [16, 32], "blocks": [2, 2]}, "epochs": 20},
        {"round_epochs": 5, "round_lr": 0.02},
        {"penalty": 5.0},
    ),
    "CNN without": (
        SGD | {"model": "plain-cnn", "model_args": {}, "epochs": 20},
        {"round_epochs": 5, "round_lr": 0.02, "move_padding": True},
        None,
    ),
    "MLP": (
        SGD | {"model": "mlp", "model_args": {"pixels": 64, "hidden": [256, 256, 256]}, "epochs": 30},
        {"round_epochs": 8, "round_lr": 0.02},
        None,
    ),
    "transformer": (
        ADAM
        | {
            "model": "patch-transformer",
            "model_args": {"size": 8, "patch": 2, "width": 32, "depth": 4, "norm_first": True},
            "epochs": 40,
        },
        {"round_epochs": 10, "round_lr": 1e-3},
        {"penalty": 1.0},
    ),
}
METHODS: dict[str, dict[str, Any]] = {
    "easier": {},
    "nepenthe": {"prune_limit": 0.8},
    "tlc": {},
    "layercollapse": {"slope_penalty": 0.1, "slope_layers": "all"},
}


class Table:
    """The cells, kept in a file as they come."""

    def __init__(self, path: Path, runs: Path) -> None:
        self.path, self.runs = path, runs
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            self.rows = json.loads(path.read_text())["rows"]

    def row(self, network: str, method: str) -> dict[str, Any] | None:
        """A cell, where it is there already."""
        return next((r for r in self.rows if (r["network"], r["method"]) == (network, method)), None)

    def has_control(self, row: dict[str, Any]) -> bool:
        """Whether the network that this method left was trained from the start, for this method or another."""
        controls = [
            r for r in self.rows if r["network"] == row["network"] and r["method"].startswith("scratch")
        ]
        same = [r for r in controls if set(r["removed"]) == set(row["removed"])]
        return any((r["method"] == "scratch of lacoot") == (row["method"] == "lacoot") for r in same)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a cell."""
        self.rows.append(row)
        self.save()
        print(markdown_row(row), flush=True)

    def save(self) -> None:
        """Write the file."""
        document = {
            "command": "python samples/benchmarks/methods_table.py --runs runs/methods -o OUT, then with --latency",
            "data": "scikit-learn's 1,797 handwritten digits: 20 % of them test images, 20 % of the rest validation",
            "machine": common.machine(),
            "rows": self.rows,
        }
        common.write(self.path, document)

    def run(self, network: str, method: str, settings: dict[str, Any]) -> tuple[Path, Any]:
        """Train, or go on with, one cell."""
        folder = self.runs / f"{network} {method}".replace(" ", "-").lower()
        folder.parent.mkdir(parents=True, exist_ok=True)
        recipe = Recipe.model_validate(COMMON | settings)
        return folder, train(recipe, folder, resume=(folder / CHECKPOINT_NAME).exists())


def costs_of(path: Path) -> dict[str, int | None]:
    costs = model_costs(load_model(path))
    return {"parameters": costs.parameters, "macs": costs.macs, "nodes": costs.nodes}


def judged(dense: Path, model: Path) -> dict[str, Any]:
    """Accuracy on test images, which chose nothing, and the drop from dense with its interval."""
    score = compare(dense, model, DataOptions("digits", split="test"), runtime=Runtime("cpu")).accuracy
    assert score is not None
    return {"accuracy": score.b, "drop": score.drop_points, "ci95": score.ci95}


def network_rows(table: Table, network: str) -> None:
    """All cells of one network."""
    settings, rounds, lacoot = NETWORKS[network]
    folder, done = table.run(network, "dense", settings | {"penalty": 0.0})
    dense = folder / "model.onnx"
    cost = costs_of(dense)
    if table.row(network, "dense") is None:
        table.add({"network": network, "method": "dense", "removed": [], "before": cost, "after": cost,
                   "model": str(dense.relative_to(table.runs)), "unmerged": None, "epochs": settings["epochs"],
                   "seconds": done.seconds} | judged(dense, dense))  # fmt: skip
    for method, options in METHODS.items():
        if table.row(network, method) is None:
            rounds_row(table, network, method, options | rounds, dense)
    if lacoot is not None and table.row(network, "lacoot") is None:
        lacoot_row(table, network, lacoot, dense)
    for method in (*METHODS, "lacoot"):
        row = table.row(network, method)
        if row is not None and row["removed"] and not table.has_control(row):
            scratch_row(table, network, row, dense)


def rounds_row(table: Table, network: str, method: str, options: dict[str, Any], dense: Path) -> None:
    settings = NETWORKS[network][0]
    given = {"method": method, "epochs": 0, "weights": str(dense.parent / CHECKPOINT_NAME)}
    if settings.get("optimizer") == "adamw" and method == "layercollapse":
        options = options | {"slope_rate": 20.0}
    folder, done = table.run(network, method, settings | LIMIT | options | given)
    assert done.merge is not None
    table.add({
        "network": network, "method": method, "removed": done.merge.linear,
        "rounds": [r.model_dump(mode="json") for r in done.rounds], "stopped": done.stopped,
        "merged": len(done.merge.merged), "refused": done.merge.refused,
        "before": done.merge.before.model_dump(), "after": done.merge.after.model_dump(),
        "model": str((folder / "model.onnx").relative_to(table.runs)),
        "unmerged": str((folder / "unmerged.onnx").relative_to(table.runs)),
        "epochs": settings["epochs"] + sum(r.epochs for r in done.rounds), "seconds": done.seconds,
    } | judged(dense, folder / "model.onnx"))  # fmt: skip


def lacoot_row(table: Table, network: str, options: dict[str, Any], dense: Path) -> None:
    settings = NETWORKS[network][0]
    folder, done = table.run(network, "lacoot", settings | LIMIT | options)
    short, blocks = folder / "model.onnx", []
    if done.plan is not None:
        short, blocks = folder / "short.onnx", [step.block for step in done.plan.steps]
        collapse(folder / "model.onnx", short)
    table.add({
        "network": network, "method": "lacoot", "removed": blocks, "before": costs_of(folder / "model.onnx"),
        "after": costs_of(short), "model": str(short.relative_to(table.runs)),
        "unmerged": str((folder / "model.onnx").relative_to(table.runs)), "epochs": settings["epochs"],
        "seconds": done.seconds,
    } | judged(dense, short))  # fmt: skip


def scratch_row(table: Table, network: str, row: dict[str, Any], dense: Path) -> None:
    """What a method left, trained from the start: its activations linear, or its blocks gone."""
    settings = NETWORKS[network][0]
    key = "without" if row["method"] == "lacoot" else "linear"
    shallow = settings | {key: row["removed"], "epochs": row["epochs"], "penalty": 0.0}
    folder, done = table.run(network, f"scratch of {row['method']}", shallow)
    merged = folder / "merged.onnx"
    save_model(merge_linear(load_model(folder / "model.onnx")).model, merged)
    table.add({
        "network": network, "method": f"scratch of {row['method']}", "removed": row["removed"],
        "before": costs_of(folder / "model.onnx"), "after": costs_of(merged),
        "model": str(merged.relative_to(table.runs)), "unmerged": str((folder / "model.onnx").relative_to(table.runs)),
        "epochs": row["epochs"], "seconds": done.seconds,
    } | judged(dense, merged))  # fmt: skip


def add_latencies(table: Table, seconds: float) -> None:
    """Latency of every network that has one of its own, in pairs: against dense, and against itself unmerged."""
    for row in table.rows:
        if not row["removed"] or "latency" in row:
            continue  # dense, or as good as
        base = table.row(row["network"], "dense")
        assert base is not None
        model = table.runs / row["model"]
        found: dict[str, Any] = {}
        for name, other in (("dense", base["model"]), ("unmerged", row["unmerged"])):
            result = bench(
                table.runs / other,
                model,
                runtime=Runtime("cpu", threads=1),
                options=BenchOptions(min_time=seconds, memory=False),
            )
            found[name] = {"ms": result.a.p50_ms, "own_ms": result.b.p50_ms, "speedup": result.speedup,
                           "ci95": result.ci95, "verdict": result.verdict}  # fmt: skip
        # Pairs are interleaved, so that a busy machine widens the intervals and shifts the milliseconds of both.
        row["latency"] = found | {"load_average": load_average()}
        table.save()
        print(markdown_row(row), flush=True)


HEADER = (
    "| network | method | gone | accuracy | drop (95 %) | parameters | merged | MMACs | merged | ms | merged "
    "| speed-up |\n"
    "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---|"
)


def markdown_row(row: dict[str, Any]) -> str:
    macs = [f"{row[k]['macs'] / 1e6:.3f}" if row[k]["macs"] is not None else "?" for k in ("before", "after")]
    time = ["", "", ""]
    if "latency" in row:
        own, dense = row["latency"]["unmerged"], row["latency"]["dense"]
        low, high = dense["ci95"]
        time = [
            f"{own['ms']:.3f}",
            f"{own['own_ms']:.3f}",
            f"{dense['speedup']:.2f} ({low:.2f} to {high:.2f})",
        ]
    low, high = row["ci95"]
    drop = "" if row["method"] == "dense" else f"{row['drop']:.2f} ({low:.2f} to {high:.2f})"
    cells = [
        row["network"], row["method"], len(row["removed"]), f"{row['accuracy']:.2f}", drop,
        f"{row['before']['parameters']:,}", f"{row['after']['parameters']:,}", *macs, *time,
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"), help="where the training runs go")
    parser.add_argument("-o", "--out", type=Path, default=Path("methods_cpu.json"))
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--latency", action="store_true", help="add latencies to the cells that are there")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of one latency comparison")
    args = parser.parse_args()
    table = Table(args.out, args.runs)
    print(HEADER, flush=True)
    try:
        if args.latency:
            add_latencies(table, args.seconds)
        else:
            for network in args.networks:
                network_rows(table, network)
    except LacootError as error:
        sys.exit(str(error))
    print("\n" + "\n".join([HEADER, *map(markdown_row, table.rows)]))


if __name__ == "__main__":
    main()
