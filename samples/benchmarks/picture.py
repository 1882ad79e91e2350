"""The README's picture: what removing blocks costs a network that nobody trained for it.

    python samples/benchmarks/picture.py -o docs/removal.svg

ResNet-56 on CIFAR-10, from samples/benchmarks/results/removal_resnet56_plain_cpu.json: accuracy on test images against
blocks gone, without any training, beside the equally shallow network trained from scratch.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import common
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from tables import REPOSITORY, figures

LINES: tuple[tuple[str, dict[str, str], dict[str, Any]], ...] = (
    ("lacoot-deploy, default", {"way": "default"}, {"color": "#0b6e4f", "linewidth": 2.6, "marker": "o"}),
    (
        "rising distance, nothing in their place\n(the paper's way, on a plain network)",
        {"way": "ranked", "criterion": "mswd", "repair": "none"},
        {"color": "#b5541c", "linewidth": 1.8, "marker": "s"},
    ),
    (
        "at random, nothing in their place\n(mean of 5)",
        {"way": "random", "repair": "none"},
        {"color": "#777777", "linewidth": 1.4, "marker": "x"},
    ),
)


def draw(target: Path) -> None:
    """Write the picture, in the format of the target's suffix."""
    document = figures("removal_resnet56_plain_cpu")
    matplotlib.rcParams |= {"svg.hashsalt": "lacoot", "svg.fonttype": "none", "font.family": "sans-serif"}
    figure, axes = plt.subplots(figsize=(8.4, 3.9), layout="constrained")
    for label, wanted, look in LINES:
        rows = [row for row in document["rows"] if wanted.items() <= row.items()]
        depths = sorted({row["removed"] for row in rows})
        values = [mean(row["test_accuracy"] for row in rows if row["removed"] == depth) for depth in depths]
        axes.plot([0, *depths], [document["dense_accuracy"], *values], markersize=5, label=label, **look)
    control = [row for row in document["scratch"] if row["removed"] <= 13]
    axes.plot(
        [row["removed"] for row in control], [row["test_accuracy"] for row in control], "*", color="#1f4e9c",
        markersize=13, label="as shallow, trained from scratch", linestyle="",
    )  # fmt: skip
    axes.set_xlabel("residual blocks gone, of 27")
    axes.set_ylabel("accuracy on test images, %")
    axes.set_title(
        "ResNet-56 on CIFAR-10, trained plainly; blocks removed without any training", fontsize=10.5
    )
    axes.set_ylim(0, 90)
    axes.set_xlim(-0.3, 13.4)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    figure.savefig(target, dpi=120, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "removal.svg")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
