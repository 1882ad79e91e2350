"""What is exported equals PyTorch, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lacoot_deploy.errors import InputError, VerificationError
from lacoot_deploy.manifest import Manifest
from lacoot_deploy.training import finish as finish_module
from lacoot_deploy.training.export import check_against, export_module, to_onnx
from lacoot_deploy.training.finish import export_checkpoint
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run import train

SMALL = Recipe(
    model_args={"widths": [4, 8], "blocks": [1, 1]},
    epochs=1,
    batch_size=128,
    penalty=0.0,
    measure_samples=16,
    device="cpu",
)


@pytest.fixture(scope="module")
def network() -> tuple[torch.nn.Module, torch.Tensor, onnx.ModelProto]:
    torch.manual_seed(0)
    model = build_model(SMALL, classes=10, channels=1).eval()
    example = torch.randn(4, 1, 8, 8)
    return model, example, to_onnx(model, example[:2])


def spoilt(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its last weight a little larger."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(t for t in copy.graph.initializer if t.name == "head.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    return copy


def test_an_equal_model_passes_and_gets_its_manifest(network: tuple) -> None:
    model, example, proto = network
    exported, drift = export_module(model, example, Manifest(producer="test"), exported=proto)
    assert drift.relative < 1e-5
    assert len(drift.batch_sizes) >= 2
    assert any(entry.key == "lacoot.manifest" for entry in exported.metadata_props)


def test_a_model_that_differs_is_refused(network: tuple) -> None:
    model, example, proto = network
    with pytest.raises(VerificationError, match=r"differs from PyTorch by 0\.0"):
        check_against(model, spoilt(proto), example)


def test_outputs_that_are_not_finite_are_refused(network: tuple) -> None:
    model, example, proto = network
    broken = build_model(SMALL, classes=10, channels=1).eval()
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    with pytest.raises(VerificationError, match="not finite"):
        check_against(broken, proto, example)


def test_nothing_is_written_where_the_export_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(SMALL, tmp_path / "run").folder
    real = finish_module.export_module

    def wrong(*args: object, exported: onnx.ModelProto, **options: object) -> object:
        return real(*args, exported=spoilt(exported), **options)

    monkeypatch.setattr(finish_module, "export_module", wrong)
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    with pytest.raises(VerificationError, match="nothing was written"):
        export_checkpoint(run, target)
    assert not list(target.parent.iterdir())


def test_a_network_that_cannot_be_exported_is_named() -> None:
    class Branches(torch.nn.Module):
        """Which way it goes depends on the data."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if bool(x.sum() > 0) else -x.flatten(1)

    with pytest.raises(InputError, match="cannot export Branches"):
        to_onnx(Branches(), torch.randn(2, 1, 4, 4))
