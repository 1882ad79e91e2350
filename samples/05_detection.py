"""A detector: two outputs, no class labels, a metric of one's own.

Made and trained here in half a minute: images of 48 x 48 with one bright rectangle in noise, a residual backbone, and
a head that says for each of 6 x 6 cells whether the rectangle's centre is there and where its sides are. Blocks are
chosen by how far they move the outputs (no labels), and the result is judged by boxes found: intersection over union
above one half. It shows the way, not what a detector on photographs would lose.

    python samples/05_detection.py -o out
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lacoot_deploy as ld

SIDE, CELLS = 48, 6


def scenes(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images [N, 1, 48, 48] and boxes [N, 4] as left, top, right, bottom in pixels."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.4, (count, 1, SIDE, SIDE)).astype(np.float32)
    sizes = rng.integers(8, 20, (count, 2))
    corners = (rng.random((count, 2)) * (SIDE - sizes)).astype(np.int64)
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    for image, (left, top, right, bottom) in zip(images, boxes, strict=True):
        image[0, top:bottom, left:right] += 1.0
    return images, boxes


def best_boxes(outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The box [N, 4] of the cell with the largest score; `boxes` holds sides as shares of the image."""
    scores = outputs["scores"].reshape(len(outputs["scores"]), -1)
    boxes = outputs["boxes"].reshape(len(scores), 4, -1)
    return SIDE * np.take_along_axis(boxes, scores.argmax(1)[:, None, None], axis=2)[:, :, 0]


def found(outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The metric: whether each sample's box is found. Labels are whole numbers, so four of 0..63 travel as one."""
    true = np.stack([(labels >> shift) & 63 for shift in (0, 6, 12, 18)], axis=1)
    box = best_boxes(outputs)
    overlap = np.minimum(box[:, 2:], true[:, 2:]) - np.maximum(box[:, :2], true[:, :2])
    common = np.clip(overlap, 0, None).prod(1)
    areas = [np.clip(one[:, 2:] - one[:, :2], 0, None).prod(1) for one in (box, true)]
    return np.asarray(common / np.maximum(areas[0] + areas[1] - common, 1e-9) > 0.5)


def train_detector(path: Path, steps: int) -> None:
    """Train and export it with plain PyTorch."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.branch = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.branch(x))

    class Detector(nn.Module):
        def __init__(self, width: int = 24) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(1, width, 4, stride=4), nn.ReLU(), nn.Conv2d(width, width, 2, stride=2), nn.ReLU()
            )
            self.backbone = nn.Sequential(*(Block(width) for _ in range(6)))
            self.scores, self.sides = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 4, 1)
            centre = (torch.arange(CELLS) + 0.5) / CELLS
            self.register_buffer("centre", torch.stack([centre.repeat(CELLS, 1), centre.repeat(CELLS, 1).T]))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.backbone(self.stem(x))
            reach = 0.5 * torch.sigmoid(self.sides(features))
            boxes = torch.cat([self.centre - reach[:, :2], self.centre + reach[:, 2:]], dim=1)
            return self.scores(features)[:, 0], boxes

    torch.manual_seed(0)
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        images, boxes = (torch.from_numpy(part) for part in scenes(32, seed=1000 + step))
        column, row = ((boxes[:, :2] + boxes[:, 2:]) / 2 * (CELLS / SIDE)).long().T
        scores, sides = model(images)
        at = torch.arange(len(images))
        loss = nn.functional.cross_entropy(scores.flatten(1), row * CELLS + column)
        loss = loss + 20 * nn.functional.smooth_l1_loss(sides[at, :, row, column], boxes / SIDE, beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.onnx.export(
        model.eval(), (images[:2],), path, input_names=["image"], output_names=["scores", "boxes"], dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("detection"), help="folder for all that is made"
    )
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument(
        "--max-drift", type=float, default=0.15, help="relative RMS by which outputs may move"
    )
    arguments = parser.parse_args()
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    model, short = out / "detector.onnx", out / "short.onnx"
    train_detector(model, arguments.steps)
    np.savez(out / "calibration.npz", image=scenes(400, seed=1)[0])
    images, boxes = scenes(500, seed=2)
    packed = (boxes << np.array([0, 6, 12, 18])).sum(1)
    np.savez(out / "test.npz", image=images, labels=packed)
    try:
        result = ld.collapse(
            model,
            short,
            max_drift=arguments.max_drift,
            data=f"npz:{out / 'calibration.npz'}",
        )
    except ld.LacootError as error:
        print(error)
        return error.exit_code
    sys.path.insert(0, str(Path(__file__).parent))
    compared = ld.compare(model, short, f"npz:{out / 'test.npz'}", metric="05_detection:found")
    assert compared.accuracy is not None
    low, high = compared.accuracy.ci95
    print(f"gone: {', '.join(step.block for step in result.plan.steps)}")
    print(
        f"boxes found: {compared.accuracy.a:.1f} -> {compared.accuracy.b:.1f} %, a drop of "
        f"{compared.accuracy.drop_points:.1f} points (95 % interval {low:.1f} to {high:.1f})"
    )
    for name, drift in compared.outputs.items():
        print(f"output {name} moves by {drift.rel_rms:.3f} (relative RMS)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
