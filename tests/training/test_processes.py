"""Two processes that share each batch compute what one process computes with the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lacoot_deploy.training.checkpoint import read_checkpoint

NETWORK = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.branch(x))

def build(*, classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), Block(), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )
"""

SCRIPT = """
import sys
from pathlib import Path
from lacoot_deploy.training.recipe import load_recipe
from lacoot_deploy.training.run import train

train(load_recipe(None, sys.argv[2:]), Path(sys.argv[1]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(folder: Path, out: str, processes: int, *settings: str) -> Path:
    """Train in so many processes, started as `torchrun` starts them."""
    (folder / "two_net.py").write_text(NETWORK)
    (folder / "script.py").write_text(SCRIPT)
    recipe = ["model=python:two_net:build", "device=cpu", "measure_samples=32", *settings]
    port = str(free_port())
    started = []
    for rank in range(processes):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
        started.append(
            subprocess.Popen(
                [sys.executable, "script.py", out, *recipe],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        for process in started:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()
    return folder / out


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_global_batch(tmp_path: Path) -> None:
    # 101 leaves unequal shares, 1293 images a short last batch.
    settings = ["epochs=2", "batch_size=101", 'augment=["crop"]', "penalty=1.0", "lr=0.05"]
    one = run(tmp_path, "one", 1, *settings)
    two = run(tmp_path, "two", 2, *settings)
    import json

    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, two)
    ]
    for alone, together in zip(*lines, strict=True):
        for key in ("loss", "penalty", "val_loss", "train_accuracy", "val_accuracy"):
            assert together[key] == pytest.approx(
                alone[key], rel=1e-3, abs=0.1 if "accuracy" in key else 1e-6
            )
    assert lines[0][0]["penalty"] == pytest.approx(lines[1][0]["penalty"], rel=1e-4)
    a, b = (read_checkpoint(folder).weights for folder in (one, two))
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
    assert (two / "model.onnx").is_file()
