"""From a checkpoint to the ONNX file: distances, manifest, export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from lacoot_deploy.data import ImageSet
from lacoot_deploy.files import atomic_write_text, check_target, sha256_file
from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.manifest import BlockRecord, Manifest, SourceRecord
from lacoot_deploy.training.blocks import LocatedBlocks, locate_blocks
from lacoot_deploy.training.checkpoint import CHECKPOINT_NAME, Checkpoint, read_checkpoint
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.export import Drift, export_module
from lacoot_deploy.training.measure import measure_blocks
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.weights import restore_weights
from lacoot_deploy.userfunctions import check_trust
from lacoot_deploy.version import PRODUCER

DISTANCES_NAME = "distances.json"


def finish_run(
    checkpoint: Path, target: Path, *, val: ImageSet, device: torch.device, note: Callable[[str], None]
) -> tuple[Manifest, Drift]:
    """Measure the blocks on clean validation images and export the model with its manifest.

    The distances are also kept beside the checkpoint, for later exports.

    Raises:
        VerificationError: The exported model differs from PyTorch.
    """
    recorded, digest = read_checkpoint(checkpoint), sha256_file(checkpoint)
    recipe = recorded.recipe
    note("Measuring the distances of the blocks on validation images.")
    model, found, example = load_run(recorded)
    images = DeviceImages(val, recorded.header.preprocessing, device=device)
    blocks = measure_blocks(model.to(device), found.tracked, images, recipe)
    model.cpu()
    atomic_write_text(
        checkpoint.parent / DISTANCES_NAME,
        json.dumps(
            {"checkpoint_sha256": digest, "blocks": [b.model_dump(mode="json") for b in blocks]}, indent=1
        ),
    )
    manifest = _manifest(recorded, digest, blocks)
    proto, drift = export_module(model, example, manifest, exported=found.exported)
    save_model(proto, target)
    note(f"Exported {target}; it differs from PyTorch by at most {drift.relative:.1g} of the largest output.")
    return manifest, drift


def export_checkpoint(checkpoint: Path, target: Path) -> tuple[Manifest, Drift]:
    """Export a checkpoint (a run folder or a checkpoint file) to ONNX, checked before it is written.

    The distances are those that the run measured, where it got that far with this very checkpoint.

    Raises:
        InputError: The checkpoint is not usable or the target cannot be written.
        VerificationError: The exported model differs from PyTorch.
    """
    path = checkpoint / CHECKPOINT_NAME if checkpoint.is_dir() else checkpoint
    check_target(target)
    recorded, digest = read_checkpoint(path), sha256_file(path)
    model, found, example = load_run(recorded)
    blocks = _known_distances(path.parent / DISTANCES_NAME, digest)
    manifest = _manifest(recorded, digest, blocks)
    proto, drift = export_module(model, example, manifest, exported=found.exported)
    save_model(proto, target)
    return manifest, drift


def load_run(recorded: Checkpoint) -> tuple[torch.nn.Module, LocatedBlocks, torch.Tensor]:
    """The network of a checkpoint in evaluation mode, its blocks, and real inputs for it, on the CPU."""
    model, example = restore_run(recorded)
    return model, locate_blocks(model, example), example


def restore_run(recorded: Checkpoint) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network of a checkpoint in evaluation mode and real inputs for it, on the CPU."""
    header = recorded.header
    sizes = {"classes": len(header.classes), "channels": header.channels}
    check_trust(recorded.recipe.model, "The checkpoint")
    model = build_model(recorded.recipe, **sizes, edits=recorded.edits)
    restore_weights(model, recorded.weights)
    model.eval()
    labels = torch.zeros(len(recorded.examples), dtype=torch.int64)
    examples = ImageSet(recorded.examples.numpy(), labels.numpy(), tuple(header.classes))
    images = DeviceImages(examples, header.preprocessing, device=torch.device("cpu"))
    example, _ = images.batch(torch.arange(len(examples)))
    return model, example


def _manifest(recorded: Checkpoint, digest: str, blocks: list[BlockRecord]) -> Manifest:
    recipe, rounds = recorded.recipe, recorded.header.rounds
    return Manifest(
        producer=PRODUCER,
        source=SourceRecord(
            model=recipe.model,
            checkpoint_sha256=digest,
            dataset=_portable(recipe)["data"],
            recipe=_portable(recipe),
            rounds=[] if rounds is None else rounds.records,
            stopped=None if rounds is None else rounds.stopped,
        ),
        preprocessing=recorded.header.preprocessing,
        blocks=blocks,
        history=recorded.header.history,
    )


def _portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it may be published: file names without the folders of this machine."""
    settings = recipe.flat()
    kind, colon, path = recipe.data.partition(":")
    settings["data"] = kind + colon + (Path(path).name if kind != "python" else path)
    if recipe.weights is not None:
        settings["weights"] = Path(recipe.weights).name
    if recipe.teacher is not None:
        settings["teacher"] = Path(recipe.teacher).name
    return settings


def _known_distances(path: Path, digest: str) -> list[BlockRecord]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["checkpoint_sha256"] != digest:
            return []
        return [BlockRecord.model_validate(block) for block in data["blocks"]]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return []
