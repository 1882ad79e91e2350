"""The shipped recipes for a CPU really run, on a few made-up images of CIFAR-10's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lacoot_deploy.training.recipe import load_recipe
from lacoot_deploy.training.run import train

RECIPES = Path(__file__).parents[2] / "samples" / "recipes"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 2)):
        for label in range(10):
            target = folder / part / f"class{label}"
            target.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (32, 32, 3), dtype=np.uint8)
                pixels[label : label + 10, :, label % 3] += 55
                Image.fromarray(pixels).save(target / f"{index}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet20-cifar10",
        "resnet20-cifar10-plain",
        "resnet18-cifar10-cpu",
        "mobilenetv2-cifar10-cpu",
        "swin_t-finetune-cpu",
    ],
)
def test_a_recipe_runs(name: str, pictures: Path, tmp_path: Path) -> None:
    overrides = [
        f"data=cifar10:{pictures}",
        "epochs=1",
        "warmup=0",
        "batch_size=40",
        "lr=0.001",
        "measure_samples=10",
    ]
    result = train(load_recipe(RECIPES / f"{name}.toml", overrides), tmp_path / "run")
    assert len(result.manifest.blocks) in (5, 7, 10, 12)
    assert result.model.is_file()
