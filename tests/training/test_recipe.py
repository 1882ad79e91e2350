from __future__ import annotations

from pathlib import Path

import pytest

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.recipe import Recipe, load_recipe
from lacoot_deploy.training.schedules import learning_rate, penalty_weight

RECIPES = sorted((Path(__file__).parents[2] / "samples" / "recipes").glob("*.toml"))


def test_without_a_file_it_is_the_digits_demo() -> None:
    recipe = load_recipe()
    assert (recipe.model, recipe.data) == ("digits-resnet", "digits")


def test_the_digits_file_is_the_default() -> None:
    digits = next(path for path in RECIPES if path.name == "digits.toml")
    assert load_recipe(digits) == load_recipe()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.epochs >= 1 or recipe.weights is not None


def test_overrides_are_read_as_toml_and_else_as_text() -> None:
    recipe = load_recipe(
        None,
        [
            "epochs=3",
            "lr=1e-3",
            "compile=true",
            'without=["layer1.1"]',
            "data=cifar10:/data/cifar 10.zip",
            "model_args.blocks=[1, 1]",
        ],
    )
    assert recipe.epochs == 3
    assert recipe.lr == 1e-3
    assert recipe.compile
    assert recipe.without == ("layer1.1",)
    assert recipe.data == "cifar10:/data/cifar 10.zip"
    assert recipe.model_args == {"blocks": [1, 1]}


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("epochs = 5\nlr = 0.3\n")
    recipe = load_recipe(file, ["epochs=7"])
    assert (recipe.epochs, recipe.lr) == (7, 0.3)


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'epoch' is no setting.*epochs.*penalty"):
        load_recipe(None, ["epoch=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=0", "epochs = 0"),
        ("epochs=many", "epochs = 'many'"),
        ("lr=nan", "lr"),
        ("penalty=-1", "penalty = -1"),
        ("device=tpu", "device = 'tpu'"),
        ("accumulate=3", "not a multiple"),
        ("warmup=99", "longer than the training"),
        ("penalty_end=0.0", "penalty_end"),
    ],
)
def test_a_value_that_does_not_fit_is_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(None, [override])


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="before penalty_start"):
        load_recipe(None, ["penalty_start=0.5", "penalty_end=0.1"])


def test_a_line_break_in_an_override_adds_no_setting() -> None:
    assert load_recipe(None, ['data="digits"\nepochs=1']).epochs == load_recipe().epochs


def test_a_setting_without_equals_is_refused() -> None:
    with pytest.raises(UsageError, match="key=value"):
        load_recipe(None, ["epochs"])


def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("epochs = = 3")
    with pytest.raises(InputError, match="no TOML"):
        load_recipe(bad)


def test_differing_settings_are_named_in_order() -> None:
    assert Recipe().differing(Recipe(seed=1, lr=0.2)) == ["lr", "seed"]
    args = Recipe(model_args={"widths": (8, 16)})
    assert args.differing(Recipe.model_validate_json(args.model_dump_json())) == []


def test_step_schedule_divides_at_milestones() -> None:
    recipe = Recipe(schedule="step", milestones=(2, 3), lr=1.0, warmup=0, epochs=4)
    rates = [learning_rate(recipe, step, 10) for step in (0, 19, 20, 29, 30, 39)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_schedule_warms_up_and_ends_near_zero() -> None:
    recipe = Recipe(schedule="cosine", lr=1.0, warmup=1, epochs=10)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_penalty_schedules() -> None:
    constant = Recipe(penalty=2.0, penalty_start=0.5, epochs=2)
    assert [penalty_weight(constant, step, 50) for step in (0, 49, 50, 99)] == [0, 0, 2, 2]
    for shape in ("linear", "cosine"):
        rising = Recipe(penalty=2.0, penalty_schedule=shape, penalty_end=0.5, epochs=2)
        weights = [penalty_weight(rising, step, 50) for step in range(100)]
        assert weights == sorted(weights)
        assert weights[0] == 0
        assert weights[50:] == pytest.approx([2.0] * 50)
        falling = rising.model_copy(update={"penalty_initial": 5.0})
        weights = [penalty_weight(falling, step, 50) for step in range(100)]
        assert weights == sorted(weights, reverse=True)
        assert weights[0] == 5
        assert weights[50:] == pytest.approx([2.0] * 50)
    plain = falling.model_copy(update={"penalty": 0.0})
    assert not any(penalty_weight(plain, step, 50) for step in range(100)), "penalty=0 is plain training"
    with pytest.raises(InputError, match="penalty_initial needs"):
        load_recipe(None, ["penalty_initial=5"])
