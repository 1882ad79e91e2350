"""The shipped recipes are the papers' settings; those for a CPU really run, on made-up images of CIFAR-10's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lacoot_deploy.api import collapse
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.selection.planning import Limit
from lacoot_deploy.training.recipe import load_recipe
from lacoot_deploy.training.run import train
from lacoot_deploy.workflow.training import export

RECIPES = Path(__file__).parents[2] / "samples" / "recipes"


@pytest.mark.parametrize(
    ("name", "model", "penalty", "lr"),
    [
        ("resnet18-cifar10", "resnet18-cifar", 5.0, 0.1),
        ("mobilenetv2-cifar10", "mobilenetv2-cifar", 9.0, 0.1),
        ("swin_t-finetune", "torchvision:swin_t", 0.1, 1e-3),
    ],
)
def test_the_full_recipes_have_the_papers_settings(name: str, model: str, penalty: float, lr: float) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert (recipe.model, recipe.flat()["penalty"], recipe.lr) == (model, penalty, lr)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (recipe.batch_size, recipe.epochs, recipe.val_fraction) == (128, 160, 0.1)
    assert (recipe.schedule, recipe.milestones, recipe.gamma, recipe.warmup) == ("step", (80, 120), 0.1, 0)
    assert set(recipe.augment) == {"flip", "crop"}
    assert (recipe.estimator, recipe.p, recipe.projections) == ("sampled", 2.0, 50)
    assert (recipe.flat()["penalty_schedule"], recipe.limit, recipe.without) == ("constant", None, ())
    short = load_recipe(RECIPES / f"{name}-cpu.toml")
    assert (short.model, short.flat()["penalty"]) == (model, penalty), (
        "the short version is of the same network"
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 2)):
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
    ("name", "blocks"),
    [
        ("resnet20-cifar10", 7),
        ("resnet20-cifar10-plain", 7),
        ("resnet18-cifar10-cpu", 5),
        ("mobilenetv2-cifar10-cpu", 10),
        ("swin_t-finetune-cpu", 12),
    ],
)
def test_a_recipe_runs_from_training_to_the_collapsed_file(
    name: str, blocks: int, pictures: Path, tmp_path: Path
) -> None:
    overrides = [f"data=cifar10:{pictures}", "epochs=1", "warmup=0", "batch_size=60", "lr=0.001"]
    result = train(load_recipe(RECIPES / f"{name}.toml", overrides), tmp_path / "run")
    assert len(result.manifest.blocks) == blocks
    export(tmp_path / "run", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.model.read_bytes()
    # Without data the order is that of the distances which the training recorded.
    collapsed = collapse(result.model, tmp_path / "short.onnx", limit=Limit(count=2))
    assert len(collapsed.plan.steps) == 2
    costs = [model_costs(load_model(path)).macs for path in (result.model, tmp_path / "short.onnx")]
    assert None not in costs
    assert costs[1] < costs[0]
    session = onnxruntime.InferenceSession(str(tmp_path / "short.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": np.zeros((3, 3, 32, 32), np.float32)})
    assert logits.shape == (3, 10)
