"""Bring your own PyTorch model: a function that builds it is all that training needs.

Trains the network below with the penalty on its residual blocks, takes out what can go, and says what that cost.

    python samples/03_own_model.py -o out
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

import lacoot_deploy as ld


class Block(nn.Module):
    """x + branch(x), activation first; found by itself, whatever the class is called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, width, H, W] to the same shape."""
        return x + self.branch(x)


def build(*, classes: int, channels: int, width: int = 16, depth: int = 5) -> nn.Module:
    """What `model = "python:03_own_model:build"` in a recipe calls; `model_args` in the recipe are passed on."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        *(Block(width) for _ in range(depth)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("own-model"), help="folder for all that is made"
    )
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    out: Path = arguments.output
    shutil.rmtree(out / "run", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    # So that the recipe finds this very file.
    sys.path.insert(0, str(Path(__file__).parent))
    settings = ("model=python:03_own_model:build", f"epochs={arguments.epochs}", "penalty=3", "max_drop=2")
    summary = ld.train(None, out / "run", overrides=settings)
    if summary.plan is None:
        print("No block can go within 2 points; train for longer or with a larger penalty.")
        return 0
    result = ld.collapse(summary.model, out / "short.onnx")
    found = ld.compare(summary.model, out / "short.onnx", "digits")
    assert found.accuracy is not None
    low, high = found.accuracy.ci95
    print(f"gone: {', '.join(step.block for step in result.plan.steps)}")
    print(
        f"test accuracy {found.accuracy.a:.2f} -> {found.accuracy.b:.2f} %, a drop of "
        f"{found.accuracy.drop_points:.2f} points (95 % interval {low:.2f} to {high:.2f})"
    )
    ld.report([out / "run", out / "short.onnx"], out / "report.html", data="digits")
    print(f"the whole story: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
