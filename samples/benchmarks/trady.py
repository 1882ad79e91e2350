"""What does a memory budget cost? Fine-tuning by every sampler: accuracy against slots, measured bytes and time.

A narrow ResNet-20 is trained on five classes of CIFAR-10 and fine-tuned on the other five and on the handwritten
digits, all at 16 x 16 pixels, so that one core does it in some minutes:

    python samples/benchmarks/trady.py --data cifar10.zip --json samples/benchmarks/results/trady.json

Bytes are those that autograd keeps between the forward and the backward pass of a step of 16 images, parameters left
out; milliseconds are the process's own processor time of such a step, the median of nine. The line at the end has both
for a plain PyTorch step of the whole network.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from lacoot_deploy.data import ImageSet, load_images, preprocessing_of
from lacoot_deploy.training.budget.samplers import SAMPLERS, Draw, keep_layers
from lacoot_deploy.training.budget.thrifty import make_thrifty, norms_behind
from lacoot_deploy.training.budget.units import chosen_slots, find_layers, total_slots
from lacoot_deploy.training.methods.registry import METHODS
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run import _accelerator
from lacoot_deploy.training.run_data import RunData
from lacoot_deploy.training.schedule import Epochs
from lacoot_deploy.training.session import Progress, Session

SIDE = 16
NETWORK: dict[str, Any] = {"model": "resnet20", "model_args": {"widths": [8, 16, 32]}, "device": "cpu"}
TUNING = {"epochs": 5, "warmup": 1, "batch_size": 16, "lr": 0.125, "momentum": 0.0, "weight_decay": 0.0}
RUNS = [
    *[(name, 0.05) for name in ("trady", "medyate", "static", "full", "oracle")],
    *[(name, 0.25) for name in ("trady", "static", "full")],
    ("everything", 1.0),
    ("head", 0.0),
]


def small(images: ImageSet, classes: list[int], count: int, seed: int) -> ImageSet:
    """That many images of those classes in three colours at 16 x 16 pixels, drawn at random."""
    wanted = np.flatnonzero(np.isin(images.labels, classes))
    wanted = np.sort(np.random.default_rng(seed).permutation(wanted)[:count])
    labels = np.searchsorted(np.sort(classes), images.labels[wanted])
    pixels = [
        np.asarray(Image.fromarray(image.transpose(1, 2, 0).squeeze()).convert("RGB").resize((SIDE, SIDE)))
        for image in images.images[wanted]
    ]
    names = tuple(images.classes[c] if images.classes else str(c) for c in classes)
    return ImageSet(np.stack(pixels).transpose(0, 3, 1, 2).copy(), labels.astype(np.int64), names)


def data_of(train: ImageSet, val: ImageSet, classes: list[int], counts: tuple[int, int]) -> RunData:
    """Training and validation images of some classes."""
    parts = [small(images, classes, count, 0) for images, count in zip((train, val), counts, strict=True)]
    return RunData(parts[0], parts[1], preprocessing_of(parts[0].images))


def run(recipe: Recipe, data: RunData, folder: Path) -> Session:
    """Train by a recipe on that data, without the export."""
    folder.mkdir(parents=True)
    session = Session(recipe, folder, _accelerator(recipe), data, Progress())
    schedule = Epochs(session, METHODS[recipe.method].method(recipe.settings))
    schedule.begin(None, None)
    schedule.train()
    return session


def kept_bytes(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes that autograd keeps for a backward pass, parameters and buffers left out."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    return sum(kept.values())


def step_ms(session: Session, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Processor time of a step in milliseconds."""
    learner, times = session.trainer.learner, []
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0
    learner.companion.begin_step(1.0, 0.0)
    for _ in range(10):
        began = time.process_time()
        learner.optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(learner.model(images), labels).backward()
        learner.optimizer.step()
        learner.companion.after_step()
        times.append(time.process_time() - began)
    return 1000 * statistics.median(times[1:])


def measured(session: Session) -> dict[str, float]:
    """Accuracy, and what a step of 16 images keeps and takes."""
    session.plain.train()
    images, labels = session.images[0].batch(torch.arange(16))
    return {
        "accuracy": session.reports[-1].val_accuracy,
        "bytes": kept_bytes(session.plain, images, labels),
        "ms": step_ms(session, images, labels),
    }


def layer_scores(session: Session) -> dict[str, float]:
    """The relative gradient norm of every layer."""
    companion, method = session.trainer.learner.companion, session.method
    norms = companion._norms(0)
    return {layer.path: float(norms[layer.path].sum()) / layer.cost() for layer in method.layers}


def table(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every sampler on both data sets with every seed."""
    cifar = [load_images(f"cifar10:{arguments.data}", part, val_fraction=0.1) for part in ("train", "val")]
    digits = [load_images("digits", part, val_fraction=0.4) for part in ("train", "val")]
    targets = {
        "cifar10 classes 5-9": data_of(*cifar, [5, 6, 7, 8, 9], (600, 600)),
        "digits": data_of(*digits, list(range(10)), (600, 600)),
    }
    rows: list[dict[str, Any]] = []
    ranks: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.seeds):
            folder = Path(name) / str(seed)
            first = Recipe.model_validate(
                NETWORK | {"seed": seed, "epochs": 8, "batch_size": 64, "penalty": 0.0, "lr": 0.1}
            )
            source = run(first, data_of(*cifar, [0, 1, 2, 3, 4], (3000, 600)), folder / "source")
            layers, _ = find_layers(source.build().eval(), source.data.example())
            total = total_slots(layers)
            scores = []
            for target, data in targets.items():
                for sampler, share in RUNS:
                    settings = NETWORK | TUNING | {"method": "trady", "seed": seed, "sampler": sampler}
                    settings |= {"weights": str(folder / "source" / "checkpoint.safetensors")}
                    settings |= {"budget": round(share * total)} if 0 < share < 1 else {}
                    session = run(
                        Recipe.model_validate(settings), data, folder / f"{target} {sampler} {share}"
                    )
                    chosen = {p: m.chosen for p, m in session.trainer.learner.companion.thrifty.items()}
                    row = {"data": target, "sampler": sampler, "share": share, "seed": seed}
                    row |= {"slots": chosen_slots(layers, chosen)} | measured(session)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                    if sampler == "everything":
                        scores.append(layer_scores(session))
            ranks.append(float(spearmanr(list(scores[0].values()), list(scores[1].values())).statistic))
            images, labels = source.images[0].batch(torch.arange(16))
            source.plain.train()
            plain = {"bytes": kept_bytes(source.plain, images, labels), "ms": step_ms(source, images, labels)}
    return {"network": NETWORK, "slots": total, "plain": plain, "rows": rows, "spearman": ranks}


def lines(found: dict[str, Any]) -> list[str]:
    """The table of the results page."""
    shown = ["| data | sampler | slots | accuracy | kept bytes | ms a step |", "|---|---|---|---|---|---|"]
    keys = dict.fromkeys((row["data"], row["sampler"], row["share"]) for row in found["rows"])
    for data, sampler, share in keys:
        same = [r for r in found["rows"] if (r["data"], r["sampler"], r["share"]) == (data, sampler, share)]
        accuracies = [r["accuracy"] for r in same]
        spread = statistics.stdev(accuracies) if len(same) > 1 else 0.0
        mean = {key: statistics.mean(r[key] for r in same) for key in ("slots", "bytes", "ms")}
        shown.append(
            f"| {data} | {sampler} | {mean['slots']:,.0f} ({100 * mean['slots'] / found['slots']:.0f} %) | "
            f"{statistics.mean(accuracies):.1f} ± {spread:.1f} | {mean['bytes']:,.0f} | {mean['ms']:.1f} |"
        )
    return shown


def steps() -> list[dict[str, Any]]:
    """A step with a tenth of the slots, drawn over the layers that TraDy keeps, beside a whole one in plain PyTorch."""
    rows = []
    for name, batch in [(name, batch) for name in ("mobilenetv2-cifar", "resnet20") for batch in (1, 16)]:
        torch.manual_seed(0)
        plain = build_model(Recipe(model=name), classes=10, channels=3).to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(10, (batch,))
        ours = copy.deepcopy(plain)
        layers, head = find_layers(ours, images)
        thrifty = make_thrifty(ours, tuple(layer.path for layer in layers), norms_behind(ours, images))
        ours.get_submodule(head).requires_grad_(True)
        for layer in layers:
            thrifty[layer.path].choose(torch.arange(layer.channels))
        functional.cross_entropy(ours.train()(images), labels).backward()
        scores = {ly.path: float(thrifty[ly.path].norms().sum()) / ly.cost() for ly in layers}
        kept, budget = keep_layers(scores), total_slots(layers) // 10
        draw = Draw(layers, kept, budget, 1, torch.Generator().manual_seed(0), lambda: {})
        chosen = SAMPLERS["trady"](draw)
        for path, layer in thrifty.items():
            layer.choose(chosen.get(path, torch.empty(0, dtype=torch.int64)))
        row = {"network": name, "batch": batch, "layers": len(layers), "kept": len(kept)}
        row |= {"slots": chosen_slots(layers, chosen), "all": total_slots(layers)}
        row |= {
            "bytes": kept_bytes(ours, images, labels),
            "plain_bytes": kept_bytes(plain.train(), images, labels),
        }
        times: dict[str, list[float]] = {"ms": [], "plain_ms": []}
        for key, model in [("ms", ours), ("plain_ms", plain)] * 9:
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
            began = time.process_time()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            for layer in thrifty.values() if key == "ms" else ():
                layer.step(0.0)
            times[key].append(1000 * (time.process_time() - began))
            model.zero_grad(set_to_none=True)
        row |= {key: statistics.median(values[1:]) for key, values in times.items()}
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="CIFAR-10, a zip or folder; without it a step's bytes and time alone are measured"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"steps": steps()}
    if arguments.data is not None:
        found |= table(arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.data is None:
        return
    print("\n".join(lines(found)))
    print(f"plain step: {found['plain']}; layer ranks agree across the data sets by {found['spearman']}")


if __name__ == "__main__":
    main()
