"""Checkpoints: tensors in safetensors and the rest as JSON in that file's header, so that one rename is atomic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lacoot_deploy.errors import InputError
from lacoot_deploy.files import atomic_path
from lacoot_deploy.manifest import CollapseRecord, PreprocessingRecord
from lacoot_deploy.training.methods.state import Edit, MethodState
from lacoot_deploy.training.recipe import Recipe, check_recipe

CHECKPOINT_NAME = "checkpoint.safetensors"
CHECKPOINT_KEY = "lacoot.checkpoint"
SCHEMA_VERSION = 2
"""2: settings of a method stand in a section of the recipe."""


class CheckpointHeader(BaseModel):
    """What a checkpoint holds beside tensors.

    No states of random generators: every draw is a function of seed, epoch and process.

    Attributes:
        schema_version: Version of this structure.
        epoch: Epochs completed.
        recipe: The recipe of the run.
        classes: Names of the classes.
        channels: Channels of the images.
        preprocessing: How bytes become inputs.
        optimizer: The optimiser's state with each tensor replaced by the name under which it is stored.
        seconds: Training time so far.
        history: What was cut out of the network before, for the manifest.
        rounds: How far a method of rounds is; None for a method without.
        threads: Threads that the CPU was found to be fastest with; None where nobody tried.
        method: What the method has to know besides.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    epoch: int
    recipe: dict[str, Any]
    classes: list[str]
    channels: int
    preprocessing: PreprocessingRecord
    optimizer: dict[str, Any] = Field(default_factory=dict)
    seconds: float
    history: list[CollapseRecord] = Field(default_factory=list)
    rounds: MethodState | None = None
    threads: int | None = None
    method: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        header: Everything that is no tensor.
        weights: The model's state, by parameter and buffer name.
        optimizer: The optimiser's `state_dict`.
        examples: A few validation images, uint8 [n, C, H, W], on which an export is checked.
        good: State of the last network of a method of rounds that stayed within its limit.
    """

    header: CheckpointHeader
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    examples: torch.Tensor
    good: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def edits(self) -> list[Edit]:
        """What a method of rounds changed in the network that the weights are of."""
        return [] if self.header.rounds is None else self.header.rounds.edits

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return check_recipe(self.header.recipe, origin="The checkpoint")


def save_checkpoint(target: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        target: The file.
        checkpoint: What to write; its header's `optimizer` is made here from the optimiser's state.

    Raises:
        InputError: It cannot be written; the one that was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"model/{name}": value for name, value in checkpoint.weights.items()}
    tensors |= {f"good/{name}": value for name, value in checkpoint.good.items()}
    tensors["examples"] = checkpoint.examples
    described = _store(checkpoint.optimizer, "optimizer", tensors)
    header = checkpoint.header.model_copy(update={"optimizer": described})
    # safetensors refuses tensors that share memory, as tied weights do: each name gets its own copy.
    owned = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with atomic_path(target) as temporary:
        try:
            save_file(owned, str(temporary), metadata={CHECKPOINT_KEY: header.model_dump_json()})
        except SafetensorError as error:
            raise InputError(f"Cannot write {target}: {error}.") from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the one in a run folder.

    Raises:
        InputError: It is missing, no checkpoint of ours, damaged or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        path = path / CHECKPOINT_NAME
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a run folder or a {CHECKPOINT_NAME}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(CHECKPOINT_KEY)
            if text is None:
                raise InputError(f"{path} holds weights but no training state; it is no checkpoint of a run.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no readable checkpoint: {error}.") from None
    header = _header(text, path)
    try:
        return Checkpoint(
            header=header,
            weights=_part(tensors, "model/"),
            optimizer=_restore(header.optimizer, tensors),
            examples=tensors["examples"],
            good=_part(tensors, "good/"),
        )
    except KeyError as error:
        raise InputError(f"{path} is damaged: it lacks the tensor {error}.") from None


def _header(text: str, path: Path) -> CheckpointHeader:
    try:
        data = json.loads(text)
        version = data.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema_version {version}, and this lacoot-deploy reads up to {SCHEMA_VERSION}: upgrade it."
            )
        return CheckpointHeader.model_validate(data)
    except (ValidationError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no checkpoint of ours: {str(error).splitlines()[0]}.") from None


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _store(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A JSON description of a state, its tensors put into `tensors`; integer keys survive as pairs."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"map": [[key, _store(inner, f"{name}/{key}", tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_store(inner, f"{name}/{i}", tensors) for i, inner in enumerate(value)]}
    return {"value": value}


def _restore(described: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if "tensor" in described:
        return tensors[described["tensor"]]
    if "map" in described:
        return {key: _restore(inner, tensors) for key, inner in described["map"]}
    if "list" in described:
        return [_restore(inner, tensors) for inner in described["list"]]
    return described["value"]
