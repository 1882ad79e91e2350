"""The shipped recipes of the methods of rounds: the papers' settings load as such, those for a CPU run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from lacoot_deploy.training.methods.registry import METHODS
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import load_recipe
from lacoot_deploy.workflow.training import train

RECIPES = Path(__file__).parents[2] / "samples" / "recipes"
DIGITS = ["easier", "nepenthe", "tlc", "layercollapse"]


@pytest.mark.parametrize("method", ["easier", "nepenthe", "tlc"])
def test_the_full_recipes_have_the_papers_settings(method: str) -> None:
    recipe = load_recipe(RECIPES / f"{method}-resnet18-cifar10.toml")
    assert (recipe.method, recipe.model) == (method, "resnet18-cifar")
    assert (recipe.epochs, recipe.batch_size) == (160, 128)
    assert (recipe.lr, recipe.milestones, recipe.gamma, recipe.weight_decay) == (0.1, (80, 120), 0.1, 1e-4)
    expected = {"zeta": 0.5, "prune_limit": 1.0, "rounds": 9} if method == "nepenthe" else {"per_round": 1}
    assert recipe.settings == METHODS[method].settings(**expected)


def test_nine_tenths_of_vgg16_lie_in_the_layers_that_collapse() -> None:
    full = load_recipe(RECIPES / "layercollapse-vgg16-cifar10.toml")
    short = load_recipe(RECIPES / "layercollapse-vgg16-cifar10-cpu.toml")
    assert full.model == "vgg16-cifar"
    assert (full.flat()["slope_tolerance"], full.flat()["slope_layers"]) == (0.05, "fc")
    assert (short.model, short.epochs) == (full.model, 0)
    dense = load_recipe(RECIPES / "vgg16-cifar10-cpu.toml")
    assert (dense.model, dense.model_args, dense.limit) == (short.model, short.model_args, short.limit)
    sizes = [p.numel() for p in build_model(short, classes=10, channels=3).parameters()]
    hidden = sum(sizes[-6:])
    # One matrix from the last feature map to the classes takes the place of three.
    left = sum(sizes) - hidden + (128 * 49) * 10 + 10
    assert left / sum(sizes) < 0.15


@pytest.mark.parametrize("method", DIGITS)
def test_the_digits_recipes_are_of_their_method(method: str) -> None:
    recipe = load_recipe(RECIPES / f"{method}-digits.toml")
    assert recipe.method == method
    assert recipe.data == "digits"


@pytest.mark.slow
@pytest.mark.parametrize("method", DIGITS)
def test_a_digits_recipe_runs(method: str, tmp_path: Path) -> None:
    overrides = ("epochs=8", "round_epochs=3", "max_drop=30", "rounds=4", "warmup=0")
    done = train(RECIPES / f"{method}-digits.toml", tmp_path / "run", overrides=overrides)
    assert done.merge is not None
    assert done.dense_val_accuracy is not None
    assert done.val_accuracy >= done.dense_val_accuracy - 30
    onnx.checker.check_model(onnx.load(done.model), full_check=True)
    if method != "nepenthe":
        assert done.merge.linear
        assert done.merge.after.parameters < done.merge.before.parameters
