"""Accuracy against the number of removed blocks, without training: every criterion, every repair, and the controls.

Takes networks that `lacoot-deploy train` made and removes their blocks, as far as `--depth` says, by

ranked   in the fixed order of each criterion (`mswd` without repair is the paper's way), with each repair;
random   in random order, five seeds, with each repair: the control;
greedy   rescored after every removal, with each repair, and as `collapse` does by default (repair `auto`, the
         blocks that stay refitted).

Repairs are fitted on one part of the validation images, another part chooses, and what is printed comes from test
images that neither has seen. Networks trained from scratch without some of the blocks are the control that a user has.

    python samples/benchmarks/removal.py --data cifar10:PATH --run plain=runs/resnet56-plain \
        --scratch "13 blocks=runs/resnet56-scratch" -o samples/benchmarks/results/removal_resnet56_plain_cpu.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import common
import numpy as np
from depth_table import judge, latency, named, seconds_of

from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.runtime.measure import measure_blocks
from lacoot_deploy.runtime.options import DistanceOptions, Runtime
from lacoot_deploy.selection.criteria import CRITERIA, recorded_scores
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.search import Step, greedy
from lacoot_deploy.training.checkpoint import read_checkpoint
from lacoot_deploy.workflow.inspecting import open_model
from lacoot_deploy.workflow.training import training_evidence

RECORDED = ("mswd", "mswd-ascent", "paired", "cosine")
TRIALS = ("output", "loss")
REPAIRS = ("none", "affine", "linear")
# The search, its repair, and whether the blocks that stay are refitted; the last is the default of `collapse`.
SEARCHES = (("none", False), ("affine", False), ("linear", False), ("auto", False), ("auto", True))


class Network:
    """One trained network with its samples, judged on test images at chosen depths."""

    def __init__(self, name: str, run: Path, arguments: argparse.Namespace) -> None:
        self.name, self.path = name, run / "model.onnx"
        self.opened = open_model(self.path)
        assert self.opened.manifest is not None
        preprocessing = self.opened.manifest.preprocessing
        recipe = read_checkpoint(run / "checkpoint.safetensors").recipe
        self.recipe = recipe.model_copy(update={"data": arguments.data})
        self.training_seconds = seconds_of(run)
        evidence = training_evidence(self.recipe, preprocessing)
        images = load_images(arguments.data, "test", size=preprocessing.size)
        chosen = np.random.default_rng(0).permutation(len(images))[: arguments.test]
        self.test = Samples({"input": normalise(images.images[chosen], preprocessing)}, images.labels[chosen])
        self.fit, self.choose = (
            part.take(np.sort(np.random.default_rng(seed).permutation(len(part))[:limit]))
            for seed, part, limit in (
                (1, evidence.fit, arguments.fit),
                (2, evidence.choose, arguments.choose),
            )
        )
        self.blocks = [block for block in self.opened.blocks if block.collapsible]
        self.depth = min(arguments.depth, len(self.blocks))
        self.depths = sorted({d for d in arguments.depths if d <= self.depth} | {self.depth})
        self.memory = arguments.memory << 30
        self.dense = judge(self.opened.model, self.test)
        self.rows: list[dict[str, Any]] = []

    def note(self, **row: Any) -> None:
        """Keep and print one result."""
        self.rows.append({**row, "test_samples": len(self.test)})
        what = " ".join(
            str(value) for key, value in row.items() if key in ("way", "criterion", "repair", "seed")
        )
        print(f"{self.name}: {what}: {row['removed']} removed, {row['test_accuracy']:.2f} %", flush=True)

    def engine(self, judged_on: Samples) -> Engine:
        """The network split at its blocks; no sample is left out for want of memory."""
        engine = Engine(
            self.opened.model,
            self.blocks,
            self.fit,
            judged_on,
            runtime=Runtime("cpu"),
            memory_bytes=self.memory,
        )
        if len(engine.judge_samples) < len(judged_on):
            raise SystemExit("The samples do not fit into the memory given: raise --memory or take fewer.")
        return engine

    @cached_property
    def tester(self) -> Engine:
        """Judges on the test images."""
        return self.engine(self.test)

    def fixed_order(self, order: Sequence[str], repairs: Iterable[str], **names: Any) -> None:
        """Judge the removal of the first blocks of an order, with each repair."""
        for repair in repairs:
            for depth in self.depths:
                if depth > len(order):
                    continue
                variant = self.tester.remove(self.tester.dense, order[:depth], repair=repair)
                costs = model_costs(collapse_blocks(self.opened.model, self.tester.cuts(variant)))
                self.note(
                    **names,
                    repair=repair,
                    removed=depth,
                    test_accuracy=self.tester.quality(variant).accuracy,
                    macs=costs.macs,
                )

    def ranked(self) -> None:
        """Every criterion's own order."""
        distances = measure_blocks(
            self.opened.model,
            self.blocks,
            self.choose,
            runtime=Runtime("cpu"),
            options=DistanceOptions(ascent=True),
        )
        for criterion in RECORDED:
            scores = recorded_scores(CRITERIA[criterion], [b.name for b in self.blocks], distances)
            self.fixed_order(
                sorted(scores, key=scores.__getitem__), REPAIRS, way="ranked", criterion=criterion
            )
        engine = self.engine(self.choose)
        single = {n: engine.quality(engine.remove(engine.dense, [n], repair="none")) for n in engine.blocks}
        for criterion in TRIALS:
            trial = CRITERIA[criterion].trial
            assert trial is not None
            order = sorted(single, key=lambda n: trial(single[n]))
            self.fixed_order(order, REPAIRS, way="ranked", criterion=criterion)

    def random(self) -> None:
        """The control."""
        for seed in range(5):
            order = [self.blocks[i].name for i in np.random.default_rng(seed).permutation(len(self.blocks))]
            self.fixed_order(order, REPAIRS, way="random", criterion="random", seed=seed)

    def deep_enough(self) -> Callable[[Step], bool]:
        """Stops a search at the depth asked for."""
        taken = itertools.count(1)
        return lambda step: next(taken) >= self.depth

    def greedy(self, searches: Sequence[tuple[str, bool]], seconds: float) -> None:
        """The greedy search by loss, with each repair."""
        for repair, refit in searches:
            engine = self.engine(self.choose)
            start = time.perf_counter()
            path = greedy(
                engine,
                list(engine.blocks),
                CRITERIA["loss"],
                options=SearchOptions(repair=repair, refit=refit),
                stop=self.deep_enough(),
            )
            took = time.perf_counter() - start
            for depth, step in enumerate(path, 1):
                model = collapse_blocks(self.opened.model, step.cuts, step.refits)
                costs = model_costs(model)
                row = {
                    "way": "default" if refit else "greedy",
                    "criterion": "loss",
                    "repair": repair,
                    "removed": depth,
                    "block": step.block,
                    "kind": step.repair,
                    "refits": len(step.refits),
                    "choose_accuracy": step.quality.accuracy,
                    "test_accuracy": judge(model, self.test),
                    "macs": costs.macs,
                    "parameters": costs.parameters,
                    "search_seconds": took,
                }
                if refit and depth in self.depths and seconds > 0:
                    row["latency"] = latency(self.path, model, seconds)
                self.note(**row)

    def record(self) -> dict[str, Any]:
        """Everything as plain data."""
        recipe = self.recipe.model_copy(update={"data": self.recipe.data.partition(":")[0]})
        return {
            "name": self.name,
            "recipe": recipe.model_dump(mode="json"),
            "training_seconds": self.training_seconds,
            "blocks": len(self.blocks),
            "dense_accuracy": self.dense,
            "dense_macs": self.opened.costs.macs,
            "samples": {"fit": len(self.fit), "choose": len(self.choose), "test": len(self.test)},
            "rows": self.rows,
        }


def control(name: str, run: Path, network: Network, seconds: float) -> dict[str, Any]:
    """The shallow network from scratch on the same test images."""
    opened = open_model(run / "model.onnx")
    model, costs = opened.model, opened.costs
    result = {
        "name": name,
        "removed": len(network.blocks) - sum(block.collapsible for block in opened.blocks),
        "training_seconds": seconds_of(run),
        "test_accuracy": judge(model, network.test),
        "macs": costs.macs,
        "parameters": costs.parameters,
    }
    if seconds > 0:
        result["latency"] = latency(network.path, model, seconds)
    print(f"{name} from scratch: {result['test_accuracy']:.2f} %", flush=True)
    return result


def markdown(result: dict[str, Any]) -> str:
    """A table of every way, one column for each depth that was judged."""
    depths = sorted({row["removed"] for row in result["rows"] if row["way"] != "greedy"})
    lines = [
        f"{result['name']}: dense {result['dense_accuracy']:.2f} %, {result['blocks']} removable blocks\n",
        "| order | repair | " + " | ".join(f"{d} gone" for d in depths) + " |",
        "|---|---|" + "---:|" * len(depths),
    ]
    ways: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for row in result["rows"]:
        key = (row["way"], row["criterion"], row["repair"])
        ways.setdefault(key, {}).setdefault(row["removed"], []).append(row["test_accuracy"])
    for (way, criterion, repair), found in ways.items():
        title = {"default": "**default**", "random": "random, mean of 5"}.get(way, f"{way} {criterion}")
        cells = [f"{np.mean(found[d]):.1f}" if d in found else "-" for d in depths]
        lines.append(f"| {title} | {repair} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(result: dict[str, Any], target: Path) -> None:
    """Accuracy over depth as a vector graphic: the paper's way, random, greedy and the default."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {
        ("ranked", "mswd", "none"): ("the paper's way", "s:"),
        ("random", "random", "none"): ("random, mean of 5", "x:"),
        ("ranked", "loss", "none"): ("ranked by loss, no repair", "d--"),
        ("greedy", "loss", "none"): ("greedy, no repair", "v--"),
        ("greedy", "loss", "linear"): ("greedy, linear maps", "^-."),
        ("default", "loss", "auto"): ("default", "o-"),
    }
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for (way, criterion, repair), (title, style) in shown.items():
        points: dict[int, list[float]] = {0: [result["dense_accuracy"]]}
        for row in result["rows"]:
            if (row["way"], row["criterion"], row["repair"]) == (way, criterion, repair):
                points.setdefault(row["removed"], []).append(row["test_accuracy"])
        if len(points) > 1:
            depths = sorted(points)
            axes.plot(depths, [np.mean(points[d]) for d in depths], style, label=title, markersize=5)
    for made in result["scratch"]:
        axes.plot(
            [made["removed"]],
            [made["test_accuracy"]],
            "*",
            markersize=12,
            label=f"from scratch: {made['name']}",
        )
    axes.set(xlabel="blocks removed", ylabel="test accuracy, %", title=result["name"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target)
    pyplot.close(figure)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True, help="cifar10:PATH or another image source")
    parser.add_argument("--run", required=True, metavar="NAME=FOLDER", help="a training run")
    parser.add_argument("--scratch", action="append", default=[], metavar="NAME=FOLDER", help="a control")
    parser.add_argument("--parts", nargs="+", default=["ranked", "random", "greedy"], help="what to run")
    parser.add_argument(
        "--searches", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="which greedy searches"
    )
    parser.add_argument("--depth", type=int, default=13, help="how many blocks to remove")
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 9, 12, 13], help="where to judge")
    parser.add_argument("--fit", type=int, default=512, help="images that repairs are fitted on")
    parser.add_argument("--choose", type=int, default=1000, help="images that choose")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--memory", type=int, default=6, help="GiB that the activations may take")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="timed seconds of each latency; 0 for none"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file; rows in it are kept")
    arguments = parser.parse_args()
    network = Network(*named(arguments.run), arguments)
    print(f"{network.name}: dense {network.dense:.2f} %", flush=True)
    result: dict[str, Any] = {"scratch": [], "rows": []}
    if arguments.output.exists():
        result = json.loads(arguments.output.read_text())
        redone = {"ranked": ("ranked",), "random": ("random",), "greedy": ("greedy", "default")}
        gone = {way for part in arguments.parts for way in redone.get(part, ())}
        network.rows = [row for row in result["rows"] if row["way"] not in gone]
    if "ranked" in arguments.parts:
        network.ranked()
    if "random" in arguments.parts:
        network.random()
    if "greedy" in arguments.parts:
        network.greedy([SEARCHES[i] for i in arguments.searches], arguments.seconds)
    scratch = [control(name, run, network, arguments.seconds) for name, run in map(named, arguments.scratch)]
    result = {
        "machine": common.machine(),
        **network.record(),
        "scratch": scratch or result["scratch"],
    }
    common.write(arguments.output, result)
    plot(result, arguments.output.with_suffix(".svg"))
    print(markdown(result))


if __name__ == "__main__":
    main()
