from __future__ import annotations

from pathlib import Path

import pytest

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.methods.lacoot import LacootSettings, penalty_weight
from lacoot_deploy.training.rates import learning_rate
from lacoot_deploy.training.recipe import Recipe, load_recipe

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
    def weights(steps: range, **settings: object) -> list[float]:
        options = LacootSettings.model_validate(settings)
        return [penalty_weight(options, step / 99) for step in steps]

    constant = weights(range(100), penalty=2.0, penalty_start=0.5)
    assert [constant[step] for step in (0, 49, 50, 99)] == [0, 0, 2, 2]
    for shape in ("linear", "cosine"):
        rising = {"penalty": 2.0, "penalty_schedule": shape, "penalty_end": 0.5}
        risen = weights(range(100), **rising)
        assert risen == sorted(risen)
        assert risen[0] == 0
        assert risen[50:] == pytest.approx([2.0] * 50)
        falling = rising | {"penalty_initial": 5.0}
        fallen = weights(range(100), **falling)
        assert fallen == sorted(fallen, reverse=True)
        assert fallen[0] == 5
        assert fallen[50:] == pytest.approx([2.0] * 50)
    assert not any(weights(range(100), **(falling | {"penalty": 0.0}))), "penalty=0 is plain training"
    with pytest.raises(InputError, match="penalty_initial needs"):
        load_recipe(None, ["penalty_initial=5"])


def test_settings_of_a_method_stand_in_a_section_or_by_their_bare_names(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('method = "nepenthe"\n[nepenthe]\nzeta = 0.3\n[tlc]\nper_round = 2\n')
    sections = load_recipe(file)
    file.write_text('method = "nepenthe"\nzeta = 0.3\n')
    assert load_recipe(file) == sections
    assert sections.flat()["zeta"] == 0.3
    assert "per_round" not in sections.flat(), "the section of another method stands by"
    # What is said later wins, however it is said.
    assert load_recipe(file, ["nepenthe.zeta=0.4"]).flat()["zeta"] == 0.4
    assert load_recipe(file, ["nepenthe.zeta=0.4", "zeta=0.6"]).flat()["zeta"] == 0.6
    assert sections.model_dump()["nepenthe"]["zeta"] == 0.3
    assert Recipe.model_validate_json(sections.model_dump_json()) == sections


def test_a_recipe_that_an_older_version_wrote_is_read() -> None:
    """It had the settings of all methods side by side."""
    old = {"method": "easier", "penalty": 0.0, "penalty_blocks": [], "rounds": 4, "per_round": 2, "zeta": 0.5}
    assert Recipe.model_validate(old).flat()["per_round"] == 2


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[easier]\nrounds = 3\n", InputError, r"section \[easier\] but no method; set method = 'easier'"),
        ("[lacoot]\npenaltie = 3\n", UsageError, "'penaltie' is no setting of lacoot, which has penalty"),
        ('method = "tlc"\n[easier]\nzeta = 1\n', UsageError, "'zeta' is no setting of easier"),
        ("lacoot = 3\n", InputError, "lacoot is a section of settings, not 3"),
    ],
)
def test_sections_that_do_not_fit_are_named(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(error, match=message):
        load_recipe(file)
