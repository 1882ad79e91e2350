"""What healing a bare file gives back: share of the dense score kept, cut and healed, by samples, seeds and losses.

Each line of figures is one healing of one cut file: the cut is made by the search without repairs (or by blocks that
are named), healed on unlabelled samples, and all three files are scored on test samples that neither saw. With
`--scratch` the cut file's weights are drawn anew first, so that the same shallow network learns from the same teacher
on the same samples for the same steps.

    python samples/benchmarks/healing.py model.onnx --name resnet20 --data cifar10:PATH --count 3 --samples 500 \
        --augment flip,crop -o samples/benchmarks/results/healing_files_cpu.json
    python samples/benchmarks/healing.py model.onnx --step --data cifar10:PATH -o ...
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import nn
from torch.nn import functional

import lacoot_deploy as ld
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.healing.flat import flatten
from lacoot_deploy.healing.patch import write_weights
from lacoot_deploy.healing.weights import trainable_weights

SPLIT = "val"
"""Of image sources: samples that the network's own training did not see."""


def score(dense: Path, other: Path, spec: str, limit: int | None) -> dict[str, float]:
    """Accuracy of both and their agreement, in percent, on test samples."""
    found = ld.compare(
        dense, other, DataOptions(spec, split="test", limit=limit), runtime=ld.Runtime("cpu", 1)
    )
    assert found.accuracy is not None
    return {"dense": found.accuracy.a, "other": found.accuracy.b, "agreement": found.agreement or 0.0}


def drawn_anew(source: Path, target: Path, seed: int) -> None:
    """The same graph with weights as He and others draw them, shifts at zero."""
    graph, random = flatten(load_model(source), source.parent), np.random.default_rng(seed)
    weights = {}
    for name in trainable_weights(graph):
        shape = tuple(graph.constants[name].tensor.dims)
        fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[-1]
        spread = np.sqrt(2.0 / fan) if len(shape) > 1 else 0.0
        weights[name] = random.normal(0, spread, shape) if spread else np.zeros(shape)
    write_weights(source, target, weights)


def study(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    cut, healed = folder / "cut.onnx", folder / "healed.onnx"
    blocks = None if given.blocks is None else tuple(given.blocks.split(","))
    limit = ld.Limit(count=given.count, blocks=blocks)
    search = DataOptions(given.data, split=SPLIT, limit=500)
    made = ld.collapse(
        given.model, cut, limit=limit, data=search, repair=given.repair, runtime=ld.Runtime("cpu", 1)
    )
    gone = [step.block for step in made.plan.steps]
    before = score(given.model, cut, given.data, given.test)
    rows = []
    for samples in given.samples:
        for seed in range(given.seeds):
            start = cut
            if given.scratch:
                start = folder / "scratch.onnx"
                drawn_anew(cut, start, seed)
            options = ld.HealOptions(
                steps=given.steps,
                minutes=None,
                rate=given.rate,
                seed=seed,
                augment=tuple(given.augment.split(",")) if given.augment else (),
                ends=given.ends,
                features=given.features,
                answers=given.answers,
                head=given.scratch,
                device="cpu",
            )
            data = DataOptions(given.learn or given.data, split=SPLIT, limit=samples, seed=seed)
            began, wall = time.process_time(), time.perf_counter()
            result = ld.heal(
                given.model, start, healed, data=data, options=options, runtime=ld.Runtime("cpu", 1)
            )
            seconds, passed = time.process_time() - began, time.perf_counter() - wall
            after = score(given.model, healed, given.data, given.test)
            rows.append(
                {
                    "network": given.name,
                    "gone": gone,
                    "repair": given.repair,
                    "samples": result.record.samples + result.record.held_back,
                    "learnt_from": given.learn or given.data.partition(":")[0],
                    "seed": seed,
                    "steps": given.steps,
                    "rate": given.rate,
                    "augment": given.augment or "",
                    "loss": {"ends": given.ends, "features": given.features, "answers": given.answers},
                    "scratch": given.scratch,
                    "dense": before["dense"],
                    "cut": before["other"],
                    "healed": after["other"],
                    "kept_cut": 100 * before["other"] / before["dense"],
                    "kept_healed": 100 * after["other"] / before["dense"],
                    "agreement": after["agreement"],
                    "was_healed": result.healed,
                    "drift": [result.record.before.drift, result.record.after.drift],
                    "processor_seconds": round(seconds, 1),
                    "wall_seconds": round(passed, 1),
                }
            )
            print(
                {
                    key: rows[-1][key]
                    for key in ("network", "samples", "seed", "cut", "healed", "kept_healed")
                },
                flush=True,
            )
    return rows


class ByHand(nn.Module):
    """The network of a file with residual blocks of two 3 x 3 convolutions, written by hand, batch norms folded in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        weights = {name: nn.Parameter(value.detach().clone()) for name, value in module.weights.items()}
        self.own = nn.ParameterList(weights.values())
        self.named = dict(zip(weights, self.own, strict=True))

    def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """A convolution with its bias."""
        weight = self.named[f"{name}.weight"]
        return functional.conv2d(x, weight, self.named[f"{name}.weight_bias"], stride, weight.shape[-1] // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scores."""
        x = functional.relu(self.conv(x, "stem.0.0"))
        for stage in (1, 2, 3):
            number = 0
            while f"layer{stage}.{number}.conv1.0.weight" in self.named:
                name = f"layer{stage}.{number}"
                short = f"{name}.shortcut.0.weight" in self.named
                stride = 2 if short and stage > 1 else 1
                y = self.conv(functional.relu(self.conv(x, f"{name}.conv1.0", stride)), f"{name}.conv2.0")
                x = functional.relu(y + (self.conv(x, f"{name}.shortcut.0", stride) if short else x))
                number += 1
        return functional.linear(x.mean((2, 3)), self.named["head.weight"], self.named["head.bias"])


def step_cost(given: argparse.Namespace) -> dict[str, Any]:
    """A step of the file's module against one of the same network by hand, in turns, in processor time."""
    torch.set_num_threads(1)
    module = ld.torch_module(given.model)
    hand = ByHand(module)
    x, target = torch.randn(64, 3, 32, 32), torch.randn(64, module(torch.zeros(1, 3, 32, 32)).shape[1])
    assert torch.allclose(module(x), hand(x), atol=1e-4), "the network by hand is another"
    steps = {}
    for name, network in (("file", module), ("hand", hand)):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

        def step(network: nn.Module = network, optimizer: torch.optim.Optimizer = optimizer) -> float:
            began = time.process_time()
            optimizer.zero_grad()
            functional.mse_loss(network(x), target).backward()
            optimizer.step()
            return time.process_time() - began

        steps[name] = step
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.repeats):
        for name in sorted(steps, reverse=bool(turn % 2)):
            times[name].append(steps[name]())
    ratios = np.array(times["file"]) / np.array(times["hand"])
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return {
        "network": given.name,
        "seconds": medians,
        "ratio": float(np.median(ratios)),
        "repeats": given.repeats,
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", default="network")
    parser.add_argument("--data", required=True)
    parser.add_argument("--learn", help="other data to learn from, as after --data")
    parser.add_argument("--count", type=int)
    parser.add_argument("--blocks")
    parser.add_argument("--repair", default="none")
    parser.add_argument("--samples", type=int, nargs="+", default=[500])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--rate", type=float, default=ld.HealOptions().rate)
    parser.add_argument("--augment")
    for name in ("ends", "features", "answers"):
        parser.add_argument(f"--{name}", type=float, default=getattr(ld.HealOptions(), name))
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--test", type=int, help="test samples, all by default")
    parser.add_argument("--step", action="store_true", help="measure what a step costs")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.step:
        found: dict[str, Any] = {"steps": [step_cost(given) | {"command": common.command()}]}
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = study(given, Path(folder))
        found = {"healed": [row | {"command": common.command()} for row in rows]}
    document = common.written(given.output, {"machine": common.machine()})
    for key, rows in found.items():
        document[key] = [*document.get(key, ()), *rows]
    common.write(given.output, document)


if __name__ == "__main__":
    main()
