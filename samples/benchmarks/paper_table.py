"""The paper's table and more: what LaCoOT costs and gains at every depth, beside every fair control.

From one recipe it trains the dense network (lambda = 0), the network with the recipe's penalty, those of the sweeps,
and the shallow network from scratch. Of each trained network it removes blocks one after another:

paper    in ascending order of the MSWD distance, nothing put in their place (what LaCoOT does);
random   in random order, several seeds;
default  as `collapse` does without options: greedy by loss, repairs fitted, every form allowed.

With `--heal` the network that is left by default, as shallow as the one from scratch, is trained on for a few epochs.

The dense network's rows are the removal without the penalty. Every network is judged on validation and test images;
the test images chose nothing. Finished trainings and rows are kept in the folder and taken up again.

    python samples/benchmarks/paper_table.py samples/recipes/resnet18-cifar10.toml --set data=cifar10:PATH \
        --set device=cuda --set precision=bf16 --lambdas 0.5 1 2 10 --schedules linear cosine --estimators ascent \
        --folder runs/paper18 -o samples/benchmarks/results/paper_resnet18_cuda.json
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from depth_table import judge, latency, seconds_of
from paper_plot import plot

import lacoot_deploy as ld
from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.types import Samples
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.model.io import load_model, save_model
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.selection.criteria import CRITERIA, recorded_scores
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.search import greedy
from lacoot_deploy.training.recipe import Recipe, load_recipe
from lacoot_deploy.training.run import Progress, train
from lacoot_deploy.training.run_data import recipe_images
from lacoot_deploy.workflow.inspecting import open_model, recorded_distances
from lacoot_deploy.workflow.training import training_evidence


@dataclass(frozen=True)
class Row:
    """One network: how its blocks were chosen and what makes it out of the run's model."""

    way: str
    seed: int | None
    removed: int
    block: str | None
    cuts: tuple[Cut, ...]
    refits: tuple[Refit, ...] = ()


class Reporter(Progress):
    """Prints a line for every epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def epoch(self, report: Any) -> None:
        """One line."""
        print(
            f"{self.name}: epoch {report.epoch}/{report.epochs}  val {report.val_accuracy:.2f} %"
            f"  {report.seconds:.0f} s  left {report.remaining:.0f} s",
            flush=True,
        )


def variants(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The settings of each training, by the name of its folder."""
    main = f"lambda-{recipe.flat()['penalty']:g}"
    found: dict[str, dict[str, Any]] = {"dense": {"penalty": 0.0}, main: {}}
    found |= {f"lambda-{value:g}": {"penalty": value} for value in arguments.lambdas}
    found |= {f"{main}-{kind}": {"penalty_schedule": kind} for kind in arguments.schedules}
    found |= {f"{main}-{kind}": {"estimator": kind} for kind in arguments.estimators}
    for text in arguments.also:
        settings = text.split()
        changed = load_recipe(None, settings).model_dump()
        keys = [setting.partition("=")[0] for setting in settings]
        name = " ".join(settings).replace("penalty_", "").replace("penalty=", "lambda=")
        found[re.sub(r"[^\w.]+", "-", name).strip("-")] = {key: changed[key] for key in keys}
    return found


def trained(folder: Path, name: str, recipe: Recipe, changes: dict[str, Any]) -> Path:
    """The run folder, trained or trained to its end where it is not."""
    run = folder / name
    if not (run / "model.onnx").is_file():
        wanted = Recipe.model_validate(recipe.model_dump() | changes)
        train(wanted, run, resume=(run / "checkpoint.safetensors").is_file(), progress=Reporter(name))
    return run


def rows_of(run: Path, recipe: Recipe, seeds: int, deepest: int) -> list[Row]:
    """Every network that removal makes of a run's, in each way and at each depth up to the deepest."""
    opened = open_model(run / "model.onnx")
    able = {b.name: b for b in opened.blocks if b.collapsible and Form.BYPASS in b.forms}
    distances, _ = recorded_distances(opened.manifest, opened.blocks)
    scores = recorded_scores(CRITERIA["mswd"], list(able), distances)
    orders: list[tuple[str, int | None, Sequence[str]]] = [
        ("paper", None, sorted(able, key=scores.__getitem__))
    ]
    for seed in range(seeds):
        orders.append(("random", seed, list(np.random.default_rng(seed).permutation(list(able)))))
    rows = [Row("dense", None, 0, None, ())]
    for way, seed, order in orders:
        for depth in range(1, min(len(order), deepest) + 1):
            cuts = tuple(Cut(able[name], Form.BYPASS) for name in order[:depth])
            rows.append(Row(way, seed, depth, str(order[depth - 1]), cuts))
    evidence = training_evidence(recipe, opened.manifest.preprocessing)
    every = [block for block in opened.blocks if block.collapsible]
    engine = Engine(opened.model, every, evidence.fit, evidence.choose, runtime=Runtime("auto"))
    path = greedy(
        engine,
        list(engine.blocks),
        CRITERIA["loss"],
        options=SearchOptions(repair="auto", refit=True),
        stop=lambda step: len(step.cuts) >= deepest,
    )
    rows += [Row("default", None, k, step.block, step.cuts, step.refits) for k, step in enumerate(path, 1)]
    return rows


def measure(
    run: Path, name: str, recipe: Recipe, dense: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The figures of a run at every depth; kept in its folder, so that another start only adds what is missing."""
    kept = run / "paper_rows.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {"rows": []}
    if not known["rows"]:
        opened = open_model(run / "model.onnx")
        val, test = _samples(recipe, opened.manifest.preprocessing)
        judged: dict[Any, tuple[float, float]] = {}
        for row in rows_of(run, recipe, arguments.seeds, arguments.deepest):
            model = collapse_blocks(opened.model, row.cuts, row.refits)
            costs = model_costs(model)
            # Different orders meet: the same blocks gone without repair are the same network.
            same = row.way if row.way == "default" else frozenset(c.block.name for c in row.cuts)
            key = (same, row.removed)
            if key not in judged:
                judged[key] = judge(model, val), judge(model, test)
            figures = {
                "way": row.way,
                "seed": row.seed,
                "removed": row.removed,
                "block": row.block,
                "repairs": sum(cut.repair is not None for cut in row.cuts),
                "val_accuracy": judged[key][0],
                "test_accuracy": judged[key][1],
                "macs": costs.macs,
                "parameters": costs.parameters,
                "latency": None,
            }
            known["rows"].append(figures)
            if _timed(figures):
                _file(run, figures).parent.mkdir(exist_ok=True)
                save_model(model, _file(run, figures))
            print(f"{name}: {row.way} {row.removed}: test {figures['test_accuracy']:.2f} %", flush=True)
        known["training_seconds"] = seconds_of(run)
        atomic_write_text(kept, json.dumps(known))
    for row in known["rows"]:
        if arguments.seconds > 0 and _timed(row) and row["latency"] is None:
            row["latency"] = latency(dense, load_model(_file(run, row)), arguments.seconds)
            atomic_write_text(kept, json.dumps(known))
    return {"name": name, "training_seconds": known["training_seconds"], "rows": known["rows"]}


def _timed(row: dict[str, Any]) -> bool:
    return row["way"] in ("paper", "default")


def _file(run: Path, row: dict[str, Any]) -> Path:
    return run / "removed" / f"{row['way']}-{row['removed']}.onnx"


def _samples(recipe: Recipe, preprocessing: Any) -> tuple[Samples, Samples]:
    size = None if recipe.size is None else (recipe.size, recipe.size)
    _, val = recipe_images(recipe, size=size)
    test = load_images(recipe.data, "test", size=size)
    one, other = (Samples({"input": normalise(i.images, preprocessing)}, i.labels) for i in (val, test))
    return one, other


def healed(folder: Path, name: str, recipe: Recipe, removed: int, epochs: int, run: Path) -> Path:
    """The run folder of a network cut by default and trained on; made where it is not there."""
    plan = folder / f"{name}-{removed}.plan.json"
    if not plan.is_file():
        ld.collapse(
            folder / name / "model.onnx",
            folder / f"{name}-{removed}.onnx",
            limit=ld.Limit(count=removed),
            data=ld.DataOptions(recipe.data, split="val"),
            plan_out=plan,
        )
    if not (run / "model.onnx").is_file():
        started = (run / "checkpoint.safetensors").is_file()
        ld.heal_run(
            folder / name,
            plan,
            run,
            overrides=(f"epochs={epochs}",),
            resume=started,
            progress=Reporter(run.name),
        )
    return run


def control(run: Path, way: str, recipe: Recipe, removed: int, dense: Path, seconds: float) -> dict[str, Any]:
    """The figures of a network that stands for itself: the shallow one from scratch, or a healed one."""
    kept = run / "paper_rows.json"
    if kept.is_file():
        row = json.loads(kept.read_text())["rows"][0]
    else:
        opened = open_model(run / "model.onnx")
        val, test = _samples(recipe, opened.manifest.preprocessing)
        costs = model_costs(opened.model)
        row = {
            "way": way,
            "seed": None,
            "removed": removed,
            "block": None,
            "repairs": 0,
            "val_accuracy": judge(opened.model, val),
            "test_accuracy": judge(opened.model, test),
            "macs": costs.macs,
            "parameters": costs.parameters,
            "latency": None,
        }
    if seconds > 0 and row["latency"] is None:
        row["latency"] = latency(dense, load_model(run / "model.onnx"), seconds)
    atomic_write_text(kept, json.dumps({"rows": [row]}))
    return {"name": run.name, "training_seconds": seconds_of(run), "rows": [row]}


def shallow(dense: Path) -> list[str]:
    """The blocks that the shallow control is built without: every removable one that does not open its stage."""
    names = [b.name for b in open_model(dense / "model.onnx").blocks if Form.BYPASS in b.forms]
    inner = [name for name in names if not name.endswith(".0")]
    return inner or names


def markdown(result: dict[str, Any]) -> str:
    """The table, one line per network; random removal as mean and range over its seeds."""
    head = [
        "network",
        "blocks gone",
        "way",
        "val %",
        "test %",
        "MMACs",
        "M parameters",
        "latency ms",
        "speed-up",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for run in result["runs"]:
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in run["rows"]:
            groups.setdefault((row["way"], row["removed"]), []).append(row)
        for (way, removed), rows in groups.items():
            cells = [
                run["name"],
                str(removed),
                way,
                *(_over(rows, key) for key in ("val_accuracy", "test_accuracy")),
            ]
            cells += [f"{np.mean([r['macs'] for r in rows]) / 1e6:.1f}"]
            cells += [f"{np.mean([r['parameters'] for r in rows]) / 1e6:.2f}"]
            timed = rows[0]["latency"]
            cells += ["-", "-"] if timed is None else [f"{timed['p50_ms']:.2f}", f"{timed['speedup']:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    for run in result["runs"]:
        lines.append(f"\n{run['name']}: trained in {run['training_seconds'] / 60:.1f} minutes.")
    return "\n".join(lines)


def _over(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--lambdas", type=float, nargs="*", default=[], help="beside 0 and the recipe's own")
    parser.add_argument("--schedules", nargs="*", default=[], help="of lambda: linear, cosine")
    parser.add_argument("--estimators", nargs="*", default=[], help="of the distance: ascent")
    parser.add_argument(
        "--also",
        nargs="*",
        default=[],
        metavar="'KEY=VALUE ...'",
        help="one training with all of these changed",
    )
    parser.add_argument(
        "--scratch-epochs", type=int, nargs="*", default=[], help="of further controls from scratch"
    )
    parser.add_argument("--heal", nargs="*", default=[], metavar="RUN", help="trainings to cut and train on")
    parser.add_argument("--heal-epochs", type=int, nargs="+", default=[3], help="of each healing")
    parser.add_argument("--seeds", type=int, default=5, help="of the random removal")
    parser.add_argument("--deepest", type=int, default=100, help="remove at most that many blocks")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="timed seconds of each latency; 0 for none"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder of the training runs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file; the plot goes beside it")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.settings)
    settings = variants(arguments, recipe)
    unknown = sorted(set(arguments.heal) - set(settings))
    if unknown:
        parser.error(f"--heal knows no {', '.join(unknown)}; there are: {', '.join(settings)}")
    runs = {name: trained(arguments.folder, name, recipe, changes) for name, changes in settings.items()}
    dense = runs["dense"] / "model.onnx"
    without = shallow(runs["dense"])
    plain = {"penalty": 0.0, "without": tuple(without)}
    alone = [("scratch", trained(arguments.folder, f"scratch-{len(without)}", recipe, plain))]
    for epochs in arguments.scratch_epochs:
        name = f"scratch-{len(without)}-{epochs}-epochs"
        alone.append(("scratch", trained(arguments.folder, name, recipe, plain | {"epochs": epochs})))
    for run in arguments.heal:
        for epochs in arguments.heal_epochs:
            longer = "" if epochs == arguments.heal_epochs[0] else f"-{epochs}-epochs"
            target = arguments.folder / f"healed-{run}{longer}"
            alone.append(("healed", healed(arguments.folder, run, recipe, len(without), epochs, target)))
    result = {
        "machine": common.machine(),
        "recipe": recipe.model_copy(update={"data": recipe.data.partition(":")[0]}).model_dump(mode="json"),
        "scratch_without": without,
        "runs": [
            *(measure(run, name, recipe, dense, arguments) for name, run in runs.items()),
            *(control(run, way, recipe, len(without), dense, arguments.seconds) for way, run in alone),
        ],
    }
    common.write(arguments.output, result)
    plot(result, arguments.output.with_suffix(".svg"), arguments.output.with_suffix(".png"))
    print(markdown(result))


if __name__ == "__main__":
    main()
