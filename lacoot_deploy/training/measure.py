"""Distances of a trained model's blocks on clean validation images, for the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lacoot_deploy.manifest import BlockRecord, DistanceRecord
from lacoot_deploy.training.blocks import BlockCapture, TrackedBlock
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.export import evaluating
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.transport import cosine_distance, floor, max_sliced_wasserstein, paired_distance
from lacoot_deploy.transport.options import Estimator

BATCH = 128
ESTIMATES: tuple[tuple[str, Estimator, int | None, int], ...] = (
    ("mswd", "sampled", None, 9),
    ("mswd-ascent", "ascent", 256, 3),
)
"""Name in the manifest, estimator, most samples, draws for the floor: the ascent's cost grows with their square."""

BUDGET_BYTES = 1 << 30
"""Activations kept at a time; more blocks than fit are measured in further passes over the images."""


def measure_blocks(
    model: nn.Module, tracked: Sequence[TrackedBlock], images: DeviceImages, recipe: Recipe
) -> list[BlockRecord]:
    """Records of all tracked blocks: `mswd` (sampled, with floor), `mswd-ascent`, `paired` and `cosine`.

    Args:
        model: The trained network, on the device of the images.
        tracked: Its blocks.
        images: Validation images, of which `recipe.measure_samples` are chosen at random: they may be in the order
            of their classes.
        recipe: Gives p, projections, seed and the number of samples.
    """
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed))
    chosen = chosen[: recipe.measure_samples]
    records: list[BlockRecord] = []
    for group in _groups(tracked, len(chosen)):
        values = _collect(model, group, images, chosen)
        for block in group:
            before, after = values.pop(block.name)
            records.append(_record(block, before, after, recipe))
    return records


def _groups(tracked: Sequence[TrackedBlock], samples: int) -> Iterator[list[TrackedBlock]]:
    group: list[TrackedBlock] = []
    held = 0
    for block in tracked:
        sizes = [n for n in (block.block.shape or ())[1:] if isinstance(n, int)]
        need = 2 * 4 * samples * int(torch.tensor(sizes or [1]).prod())
        if group and held + need > BUDGET_BYTES:
            yield group
            group, held = [], 0
        group.append(block)
        held += need
    if group:
        yield group


@torch.no_grad()
def _collect(
    model: nn.Module, group: Sequence[TrackedBlock], images: DeviceImages, chosen: torch.Tensor
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {block.name: [] for block in group}
    capture = BlockCapture(group)
    try:
        with evaluating(model):
            for indices in torch.split(chosen, BATCH):
                with capture.watching():
                    model(images.batch(indices)[0])
                for name, pair in capture.take().items():
                    parts[name].append(pair)
    finally:
        capture.remove()
    return {
        name: (torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]))
        for name, pairs in parts.items()
    }


def _record(tracked: TrackedBlock, before: torch.Tensor, after: torch.Tensor, recipe: Recipe) -> BlockRecord:
    generator = torch.Generator(device=before.device)
    common: dict[str, Any] = {"samples": len(before), "split": "val"}
    sliced: dict[str, Any] = {
        "p": recipe.p,
        "projections": recipe.projections,
        "seed": recipe.seed,
        "split": "val",
    }
    distances: dict[str, DistanceRecord] = {}
    for name, estimator, limit, draws in ESTIMATES:
        x, y = before[:limit], after[:limit]
        options = replace(recipe.distance, estimator=estimator)
        generator.manual_seed(recipe.seed)
        distances[name] = DistanceRecord(
            value=float(max_sliced_wasserstein(x, y, options, generator=generator)),
            floor=floor(x, options, draws=draws, generator=generator),
            estimator=estimator,
            samples=len(x),
            **sliced,
        )
    distances["paired"] = DistanceRecord(value=float(paired_distance(before, after)), **common)
    distances["cosine"] = DistanceRecord(value=float(cosine_distance(before, after)), **common)
    block = tracked.block
    return BlockRecord(
        name=block.name,
        input=block.input,
        output=block.output,
        shape=None if block.shape is None else list(block.shape),
        units=[unit.name for unit in block.units],
        distances=distances,
    )
