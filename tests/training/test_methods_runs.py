"""Every method from the first epoch to the exported file: resumed as if never stopped, and stopped by its limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.checkpoint import read_checkpoint
from lacoot_deploy.training.finish import export_checkpoint
from lacoot_deploy.training.methods.layercollapse import LayerCollapse
from lacoot_deploy.training.methods.layers import Slope
from lacoot_deploy.training.methods.rounds import Rounds
from lacoot_deploy.training.recipe import Recipe, load_recipe
from lacoot_deploy.training.run import Progress, Trained, train

MLP: dict[str, Any] = {
    "model": "mlp",
    "model_args": {"pixels": 64, "hidden": [16, 12, 16]},
    "limit": 400,
    "val_fraction": 0.2,
    "epochs": 2,
    "round_epochs": 2,
    "batch_size": 64,
    "warmup": 0,
    "max_drop": 100.0,
    "measure_samples": 32,
    "device": "cpu",
}
CNN = MLP | {
    "model": "plain-cnn",
    "model_args": {"widths": [4, 8, 8], "kernels": [3, 1, 3], "strides": [1, 1, 2]},
}
CASES: dict[str, dict[str, Any]] = {
    "easier": MLP | {"method": "easier", "rounds": 2},
    "nepenthe": CNN | {"method": "nepenthe", "rounds": 2},
    "tlc": CNN | {"method": "tlc", "rounds": 2, "move_padding": True},
    "layercollapse": MLP | {"method": "layercollapse", "rounds": 3, "slope_penalty": 30.0, "lr": 0.02},
}


class Stop(Progress):
    """Presses Ctrl-C in an epoch (counted from 1) or after it."""

    def __init__(self, epoch: int, *, within: bool) -> None:
        self.at, self.within = epoch, within

    def step(self, epoch: int, step: int, steps: int) -> None:
        if self.within and epoch == self.at and step == steps // 2:
            raise KeyboardInterrupt

    def epoch(self, report: Any) -> None:
        if not self.within and report.epoch == self.at:
            raise KeyboardInterrupt


class Notes(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def recipe_of(settings: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.model_validate(settings | changes)


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def assert_same(ours: Trained, theirs: Trained) -> None:
    a, b = read_checkpoint(ours.checkpoint), read_checkpoint(theirs.checkpoint)
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[name], value) for name, value in b.weights.items())
    assert a.header.rounds == b.header.rounds
    assert [r.loss for r in ours.epochs] == [r.loss for r in theirs.epochs]


@pytest.mark.parametrize("method", CASES)
def test_a_run_in_rounds_stopped_anywhere_ends_as_one_never_stopped(method: str, tmp_path: Path) -> None:
    recipe = recipe_of(CASES[method])
    straight = train(recipe, tmp_path / "straight")
    state = straight.rounds
    assert state is not None
    assert state.removed
    assert straight.manifest.source is not None
    assert straight.manifest.source.rounds == state.records
    kept = json.loads((tmp_path / "straight" / "rounds.json").read_text())
    assert [r["round"] for r in kept] == list(range(state.round + 1))
    lines = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["round"] for line in lines] == [r for r in range(state.round + 1) for _ in range(2)]
    # In the dense training, at the seam of two rounds, in a round.
    for epoch, within in ((2, True), (2, False), (4, False), (5, True)):
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            train(
                recipe,
                tmp_path / "broken",
                progress=Stop(epoch, within=within),
                resume=(tmp_path / "broken").exists(),
            )
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert_same(resumed, straight)
    assert (tmp_path / "broken" / "model.onnx").exists()
    export_checkpoint(tmp_path / "broken", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == resumed.model.read_bytes()


def test_easier_makes_the_activation_of_lowest_entropy_linear(tmp_path: Path) -> None:
    result = train(recipe_of(CASES["easier"], rounds=3, round_epochs=1), tmp_path / "run")
    state = result.rounds
    assert state is not None
    for record in state.records[1:]:
        assert record.removed == [min(record.scores, key=record.scores.__getitem__)]
    assert state.stopped == "3 rounds are done"
    assert "Relu" not in ops(result.model)


def test_the_limit_stops_the_rounds_and_the_last_good_network_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(CASES["easier"], rounds=3, max_drop=1.0)
    accuracies = iter([90.0, 89.5, 88.9, 90.0])
    monkeypatch.setattr(Rounds, "_accuracy", lambda self: next(accuracies))
    notes = Notes()
    stopped = train(recipe, tmp_path / "stopped", progress=notes)
    state = stopped.rounds
    assert state is not None
    assert [r.accepted for r in state.records] == [True, True, False]
    assert state.records[2].drop == pytest.approx(1.1)
    assert state.removed == state.records[1].removed
    assert stopped.val_accuracy == 89.5
    assert state.stopped is not None
    assert "1.10 points under" in state.stopped
    assert any("not kept" in text for text in notes.texts)
    assert ops(stopped.model).count("Relu") == 2
    # It is the very network that two rounds leave.
    accuracies = iter([90.0, 89.5])
    shorter = train(recipe_of(CASES["easier"], rounds=1, max_drop=1.0), tmp_path / "shorter")
    a, b = read_checkpoint(stopped.checkpoint).weights, read_checkpoint(shorter.checkpoint).weights
    assert all(torch.equal(a[name], value) for name, value in b.items())
    # And a run that is done stays so.
    monkeypatch.undo()
    again = train(recipe, tmp_path / "stopped", resume=True)
    assert again.rounds == state
    assert len(again.epochs) == 6


def test_nepenthe_prunes_by_its_budget_and_keeps_what_is_pruned(tmp_path: Path) -> None:
    result = train(recipe_of(CASES["nepenthe"], rounds=3, round_epochs=1), tmp_path / "run")
    state = result.rounds
    assert state is not None
    first = state.records[1].details
    assert sum(first["pruned"].values()) == round(
        0.5 * (sum(first["pruned"].values()) + sum(first["nonzero"].values()))
    )
    # The layer with the smallest irrelevance went wholly, lost its entropy with it and is gone a round later.
    empty = [path for path, left in first["nonzero"].items() if left == 0]
    assert empty
    assert state.records[2].removed[0] in empty
    weights = read_checkpoint(result.checkpoint).weights
    for path in empty:
        assert not weights[f"{path.removesuffix('.2')}.0.weight"].any()
    for record in state.records[2:]:
        assert all(record.scores[path] == 0 for path in record.removed)


def test_tlc_silences_channels_with_their_bias_and_takes_the_cheapest_collapse(tmp_path: Path) -> None:
    residual = CASES["tlc"] | {"model": "digits-resnet", "model_args": {"widths": [4, 8], "blocks": [1, 1]}}
    notes = Notes()
    recipe = recipe_of(residual, rounds=1, move_padding=False, round_epochs=1)
    result = train(recipe, tmp_path / "run", progress=notes)
    state = result.rounds
    assert state is not None
    record = state.records[1]
    assert set(record.scores) == {"stem.1", "layer1.0.act1", "layer2.0.act1"}, "none behind an addition"
    assert any("act2" in text and "behind an addition" in text for text in notes.texts)
    assert record.removed == [min(record.scores, key=record.scores.__getitem__)]
    (path,) = record.removed
    weights = read_checkpoint(result.checkpoint).weights
    scale = weights.get(f"{path}.scale")
    if scale is not None:
        assert set(scale.tolist()) <= {0.0, 1.0}
        assert int((scale == 0).sum()) == record.details["silenced"][path]
    assert record.details["from"][path] == "batch norm"
    # What is silenced gives exactly 0 for any input, whatever its bias.
    from lacoot_deploy.training.finish import load_run

    model, _, example = load_run(read_checkpoint(result.checkpoint))
    seen = {}
    model.get_submodule(path).register_forward_hook(lambda *call: seen.update(y=call[2]))
    model(example)
    if scale is not None:
        assert not seen["y"][:, scale == 0].any()


def test_layercollapse_learns_slopes_and_collapses_from_the_back(tmp_path: Path) -> None:
    result = train(recipe_of(CASES["layercollapse"], rounds=4), tmp_path / "run")
    state = result.rounds
    assert state is not None
    first, second, third = state.records[1:4]
    assert first.removed == []
    slopes = second.details["slopes"]
    assert all(abs(slope - 1) < 0.05 for slope in slopes.values())
    assert (second.removed, third.removed) == (["layers.6"], ["layers.4"])
    assert "PRelu" not in ops(result.model) or state.round == 3
    assert ops(result.model).count("Relu") == 0


def test_slopes_that_stay_far_from_one_keep_their_activation(tmp_path: Path) -> None:
    recipe = recipe_of(CASES["layercollapse"], rounds=2, slope_penalty=1e-6, weight_decay=0.9)
    result = train(recipe, tmp_path / "run")
    assert result.rounds is not None
    assert result.rounds.removed == []
    assert ops(result.model).count("PRelu") == 3
    weights = read_checkpoint(result.checkpoint).weights
    # The decay of weights would draw a slope to 0 against the penalty; it leaves slopes alone.
    assert all(weights[f"layers.{i}.weight"].shape == (1,) for i in (2, 4, 6))


def test_decay_does_not_touch_slopes() -> None:
    from lacoot_deploy.training.session import make_optimizer

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Slope(torch.nn.ReLU()), torch.nn.Linear(3, 2))
    recipe = Recipe(method="layercollapse", weight_decay=0.5)
    special = LayerCollapse(recipe.settings).parameter_groups(model)
    groups = make_optimizer(recipe, model, special).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(4, 0.5), (1, 0.0)]


def test_rounds_begin_with_given_weights_and_move_the_padding(tmp_path: Path) -> None:
    dense = train(
        recipe_of(CNN | {"penalty": 0.0, "round_epochs": None, "max_drop": 1.0}), tmp_path / "dense"
    )
    settings = CASES["tlc"] | {"method": "easier", "epochs": 0, "weights": str(dense.checkpoint), "rounds": 3}
    result = train(recipe_of(settings, round_epochs=1), tmp_path / "run")
    state = result.rounds
    assert state is not None
    assert state.dense_accuracy == pytest.approx(dense.val_accuracy, abs=0.01)
    assert [line.round for line in result.epochs] == [1, 2, 3]
    pads = [
        next(list(a.ints) for a in node.attribute if a.name == "pads")
        for node in onnx.load(result.model).graph.node
        if node.op_type == "Conv"
    ]
    # 3x3 with padding 1, 1x1, 3x3 with padding 1 and stride 2: all of it before the first.
    assert [p[0] for p in pads] == [2, 0, 0]


def test_the_control_is_linear_from_the_start(tmp_path: Path) -> None:
    recipe = recipe_of(
        CNN, penalty=0.0, epochs=1, linear=["layers.0.2", "layers.2.2"], max_drop=1.0, round_epochs=None
    )
    assert ops(train(recipe, tmp_path / "run").model).count("Relu") == 1
    for wrong in ("layers.9.2", "layers.0.0"):
        with pytest.raises(UsageError, match="linear: "):
            train(recipe.model_copy(update={"linear": (wrong,)}), tmp_path / "other")


def test_two_processes_are_refused_and_so_is_a_network_without_candidates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no activation that layercollapse can make linear"):
        train(recipe_of(CASES["layercollapse"], model="digits-resnet", model_args={}), tmp_path / "run")
    with pytest.raises(UsageError, match=r"layers\.2 is nothing for|no activation 'relu9'"):
        train(recipe_of(CASES["layercollapse"], only=["relu9"]), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=prune"], r"method = 'prune': Input should be 'lacoot', 'easier'"),
        (["method=easier", "zeta=0.3"], "zeta belongs to nepenthe, and the method is easier"),
        (["method=nepenthe", "penalty=2"], "penalty belongs to lacoot, and the method is nepenthe"),
        (["method=nepenthe", "per_round=2"], "per_round belongs to easier and tlc and layercollapse"),
        (["round_epochs=3"], "round_epochs belongs to the methods of rounds, and the method is lacoot"),
        (["slope_layers=all", "method=tlc"], "slope_layers belongs to layercollapse"),
        (["method=easier", "epochs=0"], "begins with given weights"),
        (["method=easier", "epochs=0", "weights=a.safetensors"], "set round_epochs"),
    ],
)
def test_settings_that_do_not_belong_are_said(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(None, overrides)


def test_a_recipe_read_back_is_the_same() -> None:
    for case in CASES.values():
        recipe = recipe_of(case)
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
        assert "penalty" not in recipe.flat()
    assert np.isclose(load_recipe(None, ["method=easier"]).epochs, 50)


@pytest.mark.slow
def test_what_is_measured_of_a_compiled_network_is_that_of_the_eager_one(tmp_path: Path) -> None:
    # Hooks put on a compiled network may never be called.
    scores = []
    for compiled in (False, True):
        result = train(recipe_of(CASES["tlc"], rounds=1, compile=compiled), tmp_path / str(compiled))
        assert result.rounds is not None
        scores.append(result.rounds.records[1].scores)
    assert scores[1] == pytest.approx(scores[0], rel=0.05, abs=0.02)
