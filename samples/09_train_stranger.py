"""Train an ONNX file that came from anywhere on labels of your own: no source code, no framework that it was made with.

The file becomes a PyTorch module whose parameters bear the file's names; an ordinary loop trains it; the weights go
back into the very same graph. Here the stranger is a small network for digits, exported and then known as a file
alone, and the new labels count backwards: a nine is a zero.

    python samples/09_train_stranger.py -o out
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import lacoot_deploy as ld


def stranger(path: Path) -> None:
    """A file from somewhere else: random weights will do, for what follows trains them all."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    ).eval()
    example = (torch.zeros(2, 1, 8, 8),)
    batch = {"image": {0: torch.export.Dim("batch")}}
    shapes = (batch["image"],)
    torch.onnx.export(
        network, example, path, input_names=["image"], dynamic_shapes=shapes, dynamo=True, verbose=False
    )


def right(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent right, in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": images})
    return 100 * float((scores.argmax(1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out"))
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    model, trained = given.output / "stranger.onnx", given.output / "trained.onnx"
    stranger(model)

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = 9 - digits.target
    first, last = slice(0, 1400), slice(1400, None)

    module = ld.torch_module(model)
    print("parameters:", ", ".join(name for name, _ in module.named_parameters()))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    for _ in range(given.steps):
        batch = random.integers(0, 1400, 64)
        scores = module(torch.from_numpy(images[first][batch]))
        loss = functional.cross_entropy(scores, torch.from_numpy(labels[first][batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ld.save_weights(module, model, trained)

    before, after = (right(path, images[last], labels[last]) for path in (model, trained))
    print(f"right on new labels: {before:.1f} % before, {after:.1f} % after {given.steps} steps")


if __name__ == "__main__":
    main()
