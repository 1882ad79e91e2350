from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lacoot_deploy.errors import InputError
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.training.checkpoint import (
    CHECKPOINT_KEY,
    Checkpoint,
    CheckpointHeader,
    read_checkpoint,
    save_checkpoint,
)
from lacoot_deploy.training.recipe import Recipe


def stepped(kind: type[torch.optim.Optimizer], **options: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = kind(model.parameters(), lr=0.1, **options)
    for _ in range(2):
        model(torch.rand(4, 1, 3, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    header = CheckpointHeader(
        epoch=2,
        recipe=Recipe(seed=5).model_dump(mode="json"),
        classes=["a", "b"],
        channels=1,
        preprocessing=PreprocessingRecord(mean=[0.5], std=[0.25], size=(3, 3), channels=1),
        seconds=1.5,
    )
    examples = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    save_checkpoint(path, Checkpoint(header, model.state_dict(), optimizer.state_dict(), examples))


@pytest.mark.parametrize(("kind", "options"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {})])
def test_a_step_after_reading_back_is_the_step_without_saving(
    tmp_path: Path, kind: type[torch.optim.Optimizer], options: dict[str, float]
) -> None:
    model, optimizer = stepped(kind, **options)
    save(tmp_path / "c.safetensors", model, optimizer)
    recorded = read_checkpoint(tmp_path / "c.safetensors")
    twin, other = stepped(kind, **options)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(recorded.weights)
    other.load_state_dict(recorded.optimizer)
    batch = torch.rand(4, 1, 3, 3)
    for net, optim in ((model, optimizer), (twin, other)):
        optim.zero_grad()
        net(batch).square().sum().backward()
        optim.step()
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert recorded.header.epoch == 2
    assert recorded.recipe == Recipe(seed=5)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="no readable checkpoint"):
        read_checkpoint(tmp_path)
    save_file({"w": torch.zeros(1)}, str(path))
    with pytest.raises(InputError, match="no training state"):
        read_checkpoint(tmp_path)
    save_file({"w": torch.zeros(1)}, str(path), metadata={CHECKPOINT_KEY: "[1"})
    with pytest.raises(InputError, match="no checkpoint of ours"):
        read_checkpoint(path)
    save_file({"w": torch.zeros(1)}, str(path), metadata={CHECKPOINT_KEY: '{"schema_version": 99}'})
    with pytest.raises(InputError, match="upgrade"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    model, optimizer = stepped(torch.optim.SGD)
    path = tmp_path / "c.safetensors"
    save(path, model, optimizer)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="no readable checkpoint"):
        read_checkpoint(path)
