"""Looking and cutting need neither torch nor, without data, ONNX Runtime: also where they are not installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from builders import residual_cnn

from lacoot_deploy.graph.model.io import save_model

WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from lacoot_deploy_cli.main import main
main()
"""
TRAINING = [
    "torch",
    "torchvision",
    "accelerate",
    "onnxscript",
    "safetensors",
    "matplotlib",
    "sklearn",
    "timm",
]


@pytest.fixture
def folder(tmp_path):
    save_model(residual_cnn(3)[0], tmp_path / "m.onnx")
    return tmp_path


def command(folder, missing, *arguments):
    code = WITHOUT.format(missing=missing)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_inspect_and_collapse(folder):
    missing = [*TRAINING, "onnxruntime"]
    ended = command(folder, missing, "inspect", "m.onnx", "--json")
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["blocks"]) == 3
    ended = command(folder, missing, "collapse", "m.onnx", "--blocks", "layer1", "-o", "o.onnx")
    assert ended.returncode == 0, ended.stderr
    assert (folder / "o.onnx").exists()


@pytest.mark.parametrize("arguments", [["doctor"], ["--help"], ["--version"], ["train", "--help"]])
def test_what_else_needs_no_torch(folder, arguments):
    ended = command(folder, TRAINING, *arguments)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("arguments", [["train", "-o", "run"], ["export", "m.onnx", "-o", "o.onnx"]])
def test_what_does_says_so(folder, arguments):
    ended = command(folder, TRAINING, *arguments)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: This needs the package ")
    assert "Traceback" not in ended.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx"]
