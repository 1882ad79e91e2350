from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lacoot_deploy.errors import InputError
from lacoot_deploy.training.weights import load_weights, restore_weights


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, classes))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("kind", ["safetensors", "plain", "wrapped", "parallel"])
def test_weights_come_back_from_every_format(tmp_path: Path, kind: str) -> None:
    source, model = network(), network()
    state = source.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, str(path))
    elif kind == "plain":
        torch.save(state, path)
    elif kind == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    assert load_weights(model, path) == ()
    assert same(source, model)


def test_a_classifier_of_other_classes_starts_afresh(tmp_path: Path) -> None:
    source, model = network(classes=1000), network(classes=3)
    save_file(source.state_dict(), str(tmp_path / "w.safetensors"))
    assert load_weights(model, tmp_path / "w.safetensors") == ("3.weight", "3.bias")
    assert torch.equal(model[0].weight, source[0].weight)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="would run code"):
        load_weights(network(), tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = network().state_dict()
    path = tmp_path / "w.pth"
    torch.save(state | {"0.weight": torch.zeros(5, 1, 3, 3)}, path)
    with pytest.raises(InputError, match=r"0\.weight has shape \[5, 1, 3, 3\], expected \[4, 1, 3, 3\]"):
        load_weights(network(), path)
    torch.save({k: v for k, v in state.items() if k != "0.bias"} | {"extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"lacks 0\.bias; the model has no extra"):
        load_weights(network(), path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_weights(network(), tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InputError, match=str(tmp_path / name)):
        load_weights(network(), tmp_path / name)


def test_a_file_with_other_things_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "weights": 1}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no tensor"):
        load_weights(network(), tmp_path / "w.pth")


def test_a_checkpoint_of_a_model_that_changed_since_is_refused() -> None:
    with pytest.raises(InputError, match="may have changed"):
        restore_weights(network(classes=3), network(classes=4).state_dict())
