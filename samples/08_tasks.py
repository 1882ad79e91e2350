"""One network for each task, on data that is there anyway: trained in seconds, cut, judged by what it is for.

regression      a year's progress of diabetes from ten measurements (scikit-learn)
multilabel      which digits a picture of two holds
segmentation    which digit, or none, each pixel of such a picture belongs to
embedding       vectors of digits; pairs of them, and whether they are the same digit
tokens          the next character of the Python documentation
denoising       the noise in a noisy digit

    python samples/08_tasks.py segmentation -o out
    python samples/08_tasks.py -o out
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lacoot_deploy as ld
from lacoot_deploy.data.types import Samples
from lacoot_deploy.tasks import TaskOptions, fit_task

Arrays = dict[str, np.ndarray]


class Residual(nn.Module):
    """y = x + F(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return x + self.branch(x)


def dense(width: int) -> nn.Module:
    return Residual(
        nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    )


def convolution(width: int) -> nn.Module:
    return Residual(
        nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
    )


class Causal(nn.Module):
    """A convolution over the characters so far."""

    def __init__(self, width: int, gap: int) -> None:
        super().__init__()
        self.gap, self.inner = gap, nn.Conv1d(width, width, 3, dilation=gap)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return torch.relu(self.inner(nn.functional.pad(x, (2 * self.gap, 0))))


class Characters(nn.Module):
    """Scores of the next character, [n, positions, characters]."""

    def __init__(self, characters: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.blocks = nn.Sequential(*(Residual(Causal(width, gap)) for gap in (1, 2, 4, 8, 1, 2)))
        self.head = nn.Linear(width, characters)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.head(self.blocks(self.embed(ids).transpose(1, 2)).transpose(1, 2))


class Unit(nn.Module):
    """Vectors of length one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return nn.functional.normalize(x, dim=1)


@dataclass(frozen=True)
class Example:
    """A network to train, its data, and the names of what goes in and comes out."""

    network: nn.Module
    feeds: Arrays
    labels: Arrays
    output: str
    loss: Callable[[torch.Tensor, Any], torch.Tensor] | None = None


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64)


def two_digits(count: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [n, 1, 12, 20] of two digits, which they are [n, 2], and each pixel's digit, 10 for none."""
    images, labels = digits()
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(images), (count, 2))
    pictures, maps = np.zeros((count, 1, 12, 20), np.float32), np.full((count, 12, 20), 10)
    for side in (0, 1):
        rows, columns = random.integers(0, 5, count), 10 * side + random.integers(0, 3, count)
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            image = images[chosen[i, side]]
            pictures[i, 0, row : row + 8, column : column + 8] = image
            maps[i, row : row + 8, column : column + 8][image > 0.3] = labels[chosen[i, side]]
    return pictures, labels[chosen], maps


def regression() -> Example:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    x = (data.data / data.data.std(axis=0)).astype(np.float32)
    y = ((data.target - data.target.mean()) / data.target.std()).astype(np.float32)
    network = nn.Sequential(nn.Linear(10, 24), *(dense(24) for _ in range(6)), nn.Linear(24, 1))
    return Example(network, {"measurements": x}, {"labels": y[:, None]}, "progress")


def multilabel() -> Example:
    pictures, which, _ = two_digits()
    labels = np.zeros((len(which), 10), np.int64)
    np.put_along_axis(labels, which, 1, axis=1)
    blocks = [convolution(24) for _ in range(6)]
    head = [nn.AdaptiveAvgPool2d((2, 4)), nn.Flatten(), nn.Linear(24 * 8, 10), nn.Sigmoid()]
    network = nn.Sequential(nn.Conv2d(1, 24, 3, stride=2, padding=1), *blocks, *head)
    return Example(network, {"picture": pictures}, {"labels": labels}, "present")


def segmentation() -> Example:
    pictures, _, maps = two_digits()
    blocks = [convolution(24) for _ in range(6)]
    network = nn.Sequential(nn.Conv2d(1, 24, 5, padding=2), *blocks, nn.Conv2d(24, 11, 1))
    return Example(network, {"picture": pictures}, {"labels": maps}, "scores")


def embedding() -> Example:
    images, labels = digits()
    random, half = np.random.default_rng(0), 850
    first = random.permutation(len(images))[: 2 * half]
    # Half of the pairs are of one digit.
    order = np.concatenate([np.sort(first[:half]), first[half:]])
    order[:half] = order[:half][np.argsort(labels[order[:half]], kind="stable")]
    same = labels[order[0::2]] == labels[order[1::2]]
    feeds = {"digit": images[order][:, None]}
    pairs = {"labels.pair": np.arange(2 * half) // 2, "labels.score": np.repeat(same, 2).astype(np.float32)}
    blocks = [convolution(16) for _ in range(6)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 32), Unit()]
    network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *blocks, *head)

    def loss(vectors: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        kinds = torch.as_tensor(labels[order])[chosen]
        alike = (kinds[:, None] == kinds[None]).float()
        return ((vectors @ vectors.T - alike) ** 2).mean()

    return Example(network, feeds, pairs, "embedding", loss)


def tokens() -> Example:
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
    letters = sorted(set(text))
    ids = np.array([letters.index(letter) for letter in text])
    rows = ids[: len(ids) // 48 * 48].reshape(-1, 48)
    return Example(Characters(len(letters)), {"input_ids": rows}, {"labels": rows}, "logits")


def denoising() -> Example:
    images, _ = digits()
    random = np.random.default_rng(0)
    clean = np.repeat(images.reshape(-1, 64), 2, axis=0) * 2 - 1
    noise = random.standard_normal(clean.shape).astype(np.float32)
    share = random.random((len(clean), 1)).astype(np.float32)
    noisy = np.sqrt(1 - share) * clean + np.sqrt(share) * noise
    network = nn.Sequential(nn.Linear(64, 96), *(dense(96) for _ in range(6)), nn.Linear(96, 64))
    return Example(network, {"noisy": noisy.astype(np.float32)}, {"labels.noise": noise}, "noise")


EXAMPLES = {f.__name__: f for f in (regression, multilabel, segmentation, embedding, tokens, denoising)}


def part(arrays: Arrays, indices: np.ndarray) -> Arrays:
    return {name: values[indices] for name, values in arrays.items()}


def train(example: Example, chosen: np.ndarray, task: str, steps: int) -> None:
    """Train by what the task says that a sample costs: the very number that the search looks at."""
    inputs, network = next(iter(example.feeds.values())), example.network
    labels = {n.removeprefix("labels."): values for n, values in example.labels.items()}
    plain = labels.pop("labels", None)
    samples = Samples(
        part(example.feeds, chosen),
        None if plain is None else plain[chosen],
        further_labels=part(labels, chosen),
    )
    x = torch.as_tensor(inputs[chosen])
    with torch.no_grad():
        outputs = {example.output: network.eval()(x[:64]).numpy()}
    fitted = fit_task(outputs, samples, TaskOptions(task))
    truth = fitted.truth(samples.label_arrays, samples.own_feeds)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        found = network(x[batch])
        if example.loss is not None:
            loss = example.loss(found, torch.as_tensor(chosen)[batch])
        else:
            loss = fitted.torch_costs({example.output: found}, truth.take(batch.numpy())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def split(example: Example) -> tuple[np.ndarray, ...]:
    """Samples to train on, to choose by and to judge by; a pair stays together."""
    count = len(next(iter(example.feeds.values())))
    pairs = np.random.default_rng(1).permutation(count // 2)
    order = np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)
    return order[: count // 2], order[count // 2 : count * 3 // 4], order[count * 3 // 4 :]


def run(task: str, out: Path, steps: int, count: int) -> None:
    """Train, export, cut and compare one example."""
    torch.manual_seed(0)
    example, path = EXAMPLES[task](), out / f"{task}.onnx"
    training, choosing, judging = split(example)
    train(example, training, task, steps)
    name, inputs = next(iter(example.feeds.items()))
    torch.onnx.export(
        example.network, (torch.as_tensor(inputs[:2]),), path, input_names=[name], output_names=[example.output],
        dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
    )  # fmt: skip
    for kind, indices in (("choose", choosing), ("judge", judging)):
        np.savez(out / f"{task}.{kind}.npz", **part(example.feeds, indices), **part(example.labels, indices))
    short = out / f"{task}.short.onnx"
    result = ld.collapse(path, short, data=f"npz:{out / f'{task}.choose.npz'}", count=count)
    found = ld.compare(path, short, f"npz:{out / f'{task}.judge.npz'}")
    score = found.accuracy
    assert score is not None
    print(
        f"{task}: {len(result.plan.steps)} blocks gone, {score.metric} {score.a:.4g} -> {score.b:.4g}, "
        f"{score.drop_points:.3g} {score.unit} worse ({score.ci95[0]:.3g} to {score.ci95[1]:.3g})",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", nargs="?", default="all", choices=[*EXAMPLES, "all"], help="all if not given")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("tasks"), help="folder for all that is made"
    )
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--count", type=int, default=2, help="blocks to remove")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for task in EXAMPLES if arguments.task == "all" else (arguments.task,):
        run(task, arguments.output, arguments.steps, arguments.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
