"""Slots, channels and bytes: what a training step under a budget costs, and that it does nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.budget.samplers import SAMPLERS, Draw, check_budget, keep_layers
from lacoot_deploy.training.budget.thrifty import make_thrifty, norms_behind
from lacoot_deploy.training.budget.units import Layer, chosen_slots, find_layers, layer_of, total_slots
from lacoot_deploy.training.checkpoint import read_checkpoint
from lacoot_deploy.training.methods.trady import read_scheme
from lacoot_deploy.training.recipe import Recipe, load_recipe
from lacoot_deploy.training.run import Progress, train


@pytest.mark.parametrize("number", [0, 1, 2])
def test_slots_of_the_papers_networks(shared_data: Path, number: int) -> None:
    data = json.loads((shared_data / "trady_networks.json").read_text())
    network = data["networks"][number]
    rows = [dict(zip(network["columns"], row, strict=True)) for row in network["convolutions"]]
    layers = [
        layer_of(
            r["name"],
            (r["in_channels"], r["out_channels"], r["kernel"] ** 2, r["groups"]),
            r["input_side"] ** 2,
        )
        for r in rows
    ]
    assert total_slots(layers) == network["slots"]
    if network["name"].startswith("MCUNet"):
        scheme = data["sparse_update_mcunet"]
        pairs = zip(scheme["convolutions"], scheme["ratios"], strict=True)
        draw = draw_of(tuple(layers), scheme={layers[number].path: share for number, share in pairs})
        assert chosen_slots(layers, SAMPLERS["sparse-update"](draw)) == scheme["slots"]


def draw_of(layers: tuple[Layer, ...], **options: Any) -> Draw:
    settings: dict[str, Any] = {
        "layers": layers, "kept": tuple(layer.path for layer in layers[1:]), "budget": 400, "samples": 1,
        "generator": torch.Generator().manual_seed(0), "norms": lambda: NORMS,
    }  # fmt: skip
    return Draw(**(settings | options))


LAYERS = (Layer("a", 6, 9, 16), Layer("b", 8, 4, 16), Layer("c", 10, 8, 4))
NORMS = {
    layer.path: torch.arange(layer.channels, dtype=torch.float64) + 10 * i for i, layer in enumerate(LAYERS)
}


def test_samplers_stay_within_the_budget_and_their_layers() -> None:
    for name in ("trady", "medyate", "static", "full", "oracle"):
        chosen = SAMPLERS[name](draw_of(LAYERS, budget=150))
        assert 100 < chosen_slots(LAYERS, chosen) <= 150, name
        assert "a" not in chosen or name in ("full", "oracle")
    assert SAMPLERS["head"](draw_of(LAYERS)) == {}
    assert chosen_slots(LAYERS, SAMPLERS["everything"](draw_of(LAYERS))) == total_slots(LAYERS)
    # The oracle takes the largest gradients: here the last channels of the last layer.
    best = SAMPLERS["oracle"](draw_of(LAYERS, budget=3 * 12))
    assert {path: channels.tolist() for path, channels in best.items()} == {"c": [7, 8, 9]}


def test_medyate_prefers_channels_with_large_norms_and_takes_unseen_ones_for_the_largest() -> None:
    last = {
        "b": torch.full((8,), 1e-9, dtype=torch.float64),
        "c": torch.full((10,), 1.0, dtype=torch.float64),
    }
    last["b"][3] = torch.inf
    assert set(SAMPLERS["medyate"](draw_of(LAYERS, last={"c": last["c"]}))) == {"b", "c"}, (
        "a layer never drawn"
    )
    chosen = SAMPLERS["medyate"](draw_of(LAYERS, budget=10 * 12 + 20, last=last))
    assert {path: channels.tolist() for path, channels in chosen.items()} == {"b": [3], "c": list(range(10))}


def test_the_fewest_layers_with_nearly_all_of_the_score_are_kept() -> None:
    assert keep_layers({"a": 90.0, "b": 1.0, "c": 8.0, "d": 1.0}) == ("a", "c")
    with pytest.raises(UsageError, match="budget of 11 slots is below the cheapest channel, which needs 12"):
        check_budget(LAYERS, 11, 1)


class Net(nn.Module):
    """Convolutions, a depthwise one with two outputs a channel, a linear layer, norms and both ReLUs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
            nn.Conv2d(w, 2 * w, 3, 2, 1, groups=w), nn.BatchNorm2d(2 * w), nn.ReLU6(),
            nn.Conv2d(2 * w, w, 1), nn.BatchNorm2d(w), nn.ReLU(),
            nn.Conv2d(w, w, 3, padding=2, dilation=2), nn.BatchNorm2d(w), nn.ReLU(),
        )  # fmt: skip
        self.middle, self.head = nn.Linear(w, w), nn.Linear(w, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.middle(self.features(x).mean((2, 3)))))


def networks(batch: int = 5, width: int = 8, side: int = 8) -> tuple[Net, Net, torch.Tensor, torch.Tensor]:
    """A network, its thrifty copy, images and labels."""
    model = Net(width)
    x = torch.randn(batch, 3, side, side)
    for _ in range(3):
        model.train()(x)
    model.eval()
    return model, copy.deepcopy(model), x, torch.randint(4, (batch,))


def test_gradients_of_chosen_channels_are_those_of_the_whole_gradient_and_nothing_else_moves() -> None:
    model, copied, x, labels = networks()
    layers, head = find_layers(model, x)
    thrifty = make_thrifty(copied, tuple(layer.path for layer in layers), norms_behind(copied, x))
    copied.get_submodule(head).requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    chosen = {
        ly.path: torch.randperm(ly.channels, generator=generator)[: ly.channels // 2 + 1] for ly in layers
    }
    chosen["features.0"] = torch.empty(0, dtype=torch.int64)
    for path, channels in chosen.items():
        thrifty[path].choose(channels)
    functional.cross_entropy(model(x), labels).backward()
    functional.cross_entropy(copied.train()(x), labels).backward()
    assert torch.allclose(copied(x), model(x), atol=1e-6)
    before = {name: value.clone() for name, value in copied.state_dict().items()}
    for layer in thrifty.values():
        layer.step(0.1)
    changed = copied.state_dict()
    for name, parameter in model.named_parameters():
        path, _, kind = name.rpartition(".")
        expected = before[name].clone()
        if path in thrifty and kind == "weight" and len(chosen[path]):
            rows = thrifty[path].outputs if thrifty[path].depthwise else (slice(None), chosen[path])
            expected[rows] -= 0.1 * parameter.grad[rows]
            assert torch.allclose(changed[name], expected, atol=1e-6)
            untouched = torch.ones_like(expected, dtype=torch.bool)
            untouched[rows] = False
            assert torch.equal(changed[name][untouched], before[name][untouched])
            assert not torch.equal(changed[name], before[name])
        else:
            assert torch.equal(changed[name], before[name]), name
    head_of = [copied.get_submodule(head).weight.grad, model.get_submodule(head).weight.grad]
    assert torch.allclose(*head_of, atol=1e-6)


def kept_bytes(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = functional.cross_entropy(model(x), labels)
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("batch", [1, 16])
def test_autograd_keeps_the_bytes_that_slots_predict(batch: int) -> None:
    """The chosen channels' activations, a byte a value of every ReLU behind the first trained layer, and the head."""
    model, copied, x, labels = networks(batch, width=16, side=32)
    layers, head = find_layers(model, x)
    thrifty = make_thrifty(copied, tuple(layer.path for layer in layers), norms_behind(copied, x))
    copied.get_submodule(head).requires_grad_(True)
    draw = draw_of(layers, kept=tuple(ly.path for ly in layers), budget=total_slots(layers) // 10)
    chosen = SAMPLERS["trady"](draw)
    for path, channels in chosen.items():
        thrifty[path].choose(channels)
    full = kept_bytes(model.train(), x, labels)
    ours = kept_bytes(copied.train(), x, labels)
    activations = 4 * batch * sum(len(chosen[ly.path]) * ly.activation for ly in layers if ly.path in chosen)
    first = min(i for i, ly in enumerate(layers) if ly.path in chosen)
    relus = [16 * 32 * 32, 32 * 16 * 16, 16 * 16 * 16, 16 * 16 * 16]
    bits = batch * sum(relus[first:4])
    small = 4 * batch * (3 * 16 + 8) + 4096
    assert activations + bits <= ours <= activations + bits + small
    assert ours <= 0.25 * full


def test_the_first_trained_layer_ends_the_backward_pass() -> None:
    _, copied, x, labels = networks(16, side=32)
    layers, head = find_layers(copied, x)
    thrifty = make_thrifty(copied, tuple(layer.path for layer in layers), norms_behind(copied, x))
    copied.get_submodule(head).requires_grad_(True)
    thrifty["middle"].choose(torch.tensor([2]))
    assert kept_bytes(copied.train(), x, labels) < 16 * 200
    assert thrifty["middle"].slice_grad is not None


def test_networks_whose_channels_have_no_one_cost_are_refused() -> None:
    shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    shared[2].weight = shared[0].weight
    with pytest.raises(UsageError, match="0 and 2 share their weights"):
        find_layers(shared, torch.randn(2, 4))
    layer = nn.Linear(4, 4)
    with pytest.raises(UsageError, match="called several times"):
        find_layers(nn.Sequential(layer, layer, nn.Linear(4, 2)), torch.randn(2, 4))
    with pytest.raises(UsageError, match="ends in a linear layer"):
        find_layers(nn.Sequential(nn.Conv2d(1, 2, 1)), torch.randn(2, 1, 2, 2))


def test_a_scheme_is_for_one_network(tmp_path: Path) -> None:
    file = tmp_path / "scheme.json"
    file.write_text('{"convolutions": [0, 2], "ratios": [1, 0.5]}')
    assert read_scheme(file, LAYERS) == {"a": 1.0, "c": 0.5}
    file.write_text('{"layers": {"b": 0.25}}')
    assert read_scheme(file, LAYERS) == {"b": 0.25}
    file.write_text('{"layers": {"stem": 1}}')
    with pytest.raises(UsageError, match="for another network: it wants 1 of layer stem"):
        read_scheme(file, LAYERS)
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_scheme(file, LAYERS)


class Notes(Progress):
    def __init__(self, stop: int = 0) -> None:
        self.texts: list[str] = []
        self.stop = stop

    def note(self, text: str) -> None:
        self.texts.append(text)

    def epoch(self, report: Any) -> None:
        if report.epoch == self.stop:
            raise KeyboardInterrupt


TUNING: dict[str, Any] = {
    "method": "trady", "model_args": {"widths": [8, 16], "blocks": [1, 1]}, "limit": 300, "epochs": 3, "warmup": 1,
    "schedule": "cosine", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "measure_samples": 32, "device": "cpu",
    "val_fraction": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("sampler", ["trady", "medyate"])
def test_fine_tuning_under_a_budget_stopped_and_resumed(sampler: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(TUNING | {"budget": 3000, "sampler": sampler, "probe": 2})
    notes = Notes()
    straight = train(recipe, tmp_path / "straight", progress=notes)
    assert any("97 % of the gradient" in text for text in notes.texts)
    assert any("The first epoch trains" in text for text in notes.texts)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", progress=Notes(stop=1))
    resumed = train(recipe, tmp_path / "broken", resume=True)
    a, b = read_checkpoint(straight.checkpoint), read_checkpoint(resumed.checkpoint)
    assert all(torch.equal(a.weights[name], value) for name, value in b.weights.items())
    assert a.header.method == b.header.method
    assert straight.epochs[-1].loss < straight.epochs[0].loss
    assert straight.manifest.source is not None
    assert (straight.manifest.source.recipe or {})["budget"] == 3000


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([], InputError, "sampler trady needs a budget"),
        (["budget=3"], UsageError, "below the cheapest channel"),
        (["budget=3", "trady.memory=9"], InputError, "say the same thing twice"),
        (["sampler=sparse-update"], InputError, "scheme goes with"),
    ],
)
def test_budgets_that_do_not_fit_are_said(
    tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(load_recipe(None, ["method=trady", "limit=100", *overrides]), tmp_path / "run")
