"""No code runs because a file says so: not from pickles, not from the model that a checkpoint names."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from lacoot_deploy_cli.main import run

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.training.checkpoint import Checkpoint, CheckpointHeader, read_checkpoint, save_checkpoint
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.weights import read_weights
from lacoot_deploy.userfunctions import check_trust, load_function, trusting

NET = """
from pathlib import Path
from torch import nn
Path("imported").touch()

class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, classes)
    def forward(self, x):
        x = x.flatten(1)
        return self.head(x + self.inner(x))

def build(classes, channels):
    return Net(classes, channels)
"""


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint that names a module beside it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strangers_net.py").write_text(NET)
    weights = {"inner.weight": (4, 4), "inner.bias": (4,), "head.weight": (2, 4), "head.bias": (2,)}
    header = CheckpointHeader(
        epoch=1,
        recipe=Recipe(model="python:strangers_net:build", device="cpu").model_dump(mode="json"),
        classes=["a", "b"],
        channels=1,
        preprocessing=PreprocessingRecord(mean=[0.5], std=[1], size=(2, 2), channels=1),
        seconds=1.0,
    )
    ones = {name: torch.ones(shape) for name, shape in weights.items()}
    examples = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    save_checkpoint(tmp_path / "checkpoint.safetensors", Checkpoint(header, ones, {}, examples))
    return tmp_path / "checkpoint.safetensors"


def test_the_model_that_a_checkpoint_names_is_not_imported(checkpoint, capsys):
    assert run(["export", str(checkpoint), "-o", "out.onnx"]) == 2
    assert "give --trust" in capsys.readouterr().err
    assert sorted(os.listdir(checkpoint.parent)) == ["checkpoint.safetensors", "strangers_net.py"]


def test_unless_the_user_says_so(checkpoint):
    command = [sys.executable, "-m", "lacoot_deploy", "export", str(checkpoint), "-o", "out.onnx", "--trust"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {"imported", "out.onnx"} <= set(os.listdir(checkpoint.parent))


def test_what_is_trusted():
    with pytest.raises(UsageError, match="--trust"):
        check_trust("python:strangers_net:build", "x")
    with pytest.raises(UsageError, match="--trust"):
        check_trust("python:torch.hub:load", "x")
    load_function("json:dumps", "function")  # as when the recipe on the command line names it
    check_trust("python:json:dumps", "x")
    check_trust("digits-resnet", "x")
    with trusting(True):
        check_trust("python:strangers_net:build", "x")
    with trusting(False), pytest.raises(UsageError):
        check_trust("python:strangers_net:build", "x")


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("payload", [{"w": Evil()}, Evil(), {"state_dict": {"w": Evil()}}])
def test_code_in_a_pickle_of_weights(tmp_path, monkeypatch, payload, old):
    monkeypatch.chdir(tmp_path)
    torch.save(payload, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError, match=r"would run code|no readable"):
        read_weights(tmp_path / "w.pt")
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(payload))
        with pytest.raises(InputError):
            read_weights(tmp_path / name)
        with pytest.raises(InputError, match="no readable checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "pwned").exists()
