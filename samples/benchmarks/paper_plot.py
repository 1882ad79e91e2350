"""The plot of paper_table.py: accuracy against blocks removed and against latency (or MACs).

python samples/benchmarks/paper_plot.py samples/benchmarks/results/paper_resnet18_cpu.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

WAYS = {
    "paper": ("o-", "ascending distance"),
    "default": ("s--", "greedy, repaired"),
    "random": ("x:", "random"),
}
COLOURS = [colour for name in ("tab10", "Dark2") for colour in matplotlib.colormaps[name].colors]

ALONE = {"scratch": "*", "healed": "P"}
"""Networks that are no depth of another one."""


LEGEND_WIDTH = 150
"""Letters that the columns of the legend may have together."""


def plot(result: dict[str, Any], *targets: Path) -> None:
    """Draw the figures of `paper_table.py` and write them, one file per target."""
    matplotlib.rcParams["svg.hashsalt"] = "lacoot"
    names = [run["name"] for run in result["runs"]]
    columns = max(min(LEGEND_WIDTH // max(map(len, names)), 3), 1)
    height = 4.4 + 0.2 * -(-len(names) // columns)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, height), sharey=True, layout="constrained")
    timed = any(row["latency"] for run in result["runs"] for row in run["rows"])
    for number, run in enumerate(result["runs"]):
        colour = COLOURS[number % len(COLOURS)]
        whole = [row for row in run["rows"] if row["way"] == "dense"]
        if whole:
            left.plot([], [], color=colour, linewidth=4, label=run["name"])
        for way, (style, _) in WAYS.items():
            rows = [row for row in run["rows"] if row["way"] == way]
            if not rows:
                continue
            depths = sorted({row["removed"] for row in [*whole, *rows]})
            values = [
                np.mean([row["test_accuracy"] for row in [*whole, *rows] if row["removed"] == d])
                for d in depths
            ]
            left.plot(depths, values, style, color=colour, markersize=5)
            if way != "random":
                costs = [_cost(row, timed) for row in rows]
                right.plot(costs, [row["test_accuracy"] for row in rows], style, color=colour, markersize=5)
        for row in run["rows"]:
            if row["way"] in ALONE:
                look = {"marker": ALONE[row["way"]], "color": colour, "markersize": 11, "linestyle": ""}
                left.plot(row["removed"], row["test_accuracy"], label=run["name"], **look)
                right.plot(_cost(row, timed), row["test_accuracy"], **look)
    left.set_xlabel("blocks removed")
    left.set_ylabel("test accuracy, %")
    right.set_xlabel("latency relative to dense" if timed else "MMACs")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    for style, label in WAYS.values():
        right.plot([], [], style, color="black", markersize=5, label=label)
    right.legend(loc="lower right", fontsize=8)
    figure.legend(
        handles=left.get_legend_handles_labels()[0], loc="outside lower center", ncols=columns, fontsize=8
    )
    for target in targets:
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


def _cost(row: dict[str, Any], timed: bool) -> float:
    if not timed:
        return row["macs"] / 1e6
    return 1 / row["latency"]["speedup"] if row["latency"] else float("nan")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    plot(json.loads(source.read_text()), source.with_suffix(".svg"), source.with_suffix(".png"))
