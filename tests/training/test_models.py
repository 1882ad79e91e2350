from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.training.export import check_against, to_onnx
from lacoot_deploy.training.models import REGISTRY, BasicBlock, build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.removal import ShortcutOnly, remove_block


def macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and linear layers for one image, counted by hooks."""
    counts: list[int] = []

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        counts.append(positions * module.weight.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, *shape))
    return sum(counts)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("resnet18-cifar", 11_173_962, 140_186_624),  # the paper: 140.19 M
        ("mobilenetv2-cifar", 2_236_682, 87_976_448),
        ("resnet20", 272_474, 40_813_184),
    ],
)
def test_networks_have_the_published_size(name: str, parameters: int, expected: int) -> None:
    model = build_model(Recipe(model=name), classes=10, channels=3)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert macs(model, (3, 32, 32)) == expected


def test_ten_residual_branches_are_most_of_mobilenet() -> None:
    model = build_model(Recipe(model="mobilenetv2-cifar"), classes=10, channels=3)
    whole = macs(model, (3, 32, 32))
    residual = [f"features.{i}" for i, block in enumerate(model.features) if block.residual]
    for name in residual:
        model.set_submodule(name, nn.Identity())
    assert len(residual) == 10
    assert 1 - macs(model, (3, 32, 32)) / whole == pytest.approx(0.575, abs=0.001)


@pytest.mark.parametrize("name", list(REGISTRY))
def test_every_registered_network_runs(name: str) -> None:
    model = build_model(Recipe(model=name), classes=7, channels=1)
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_pad_shortcut_has_no_parameters() -> None:
    block = BasicBlock(4, 8, stride=2, shortcut="pad")
    assert not list(block.shortcut.parameters())
    x = torch.rand(1, 4, 6, 6)
    skip = block.shortcut(x)
    assert torch.equal(skip[:, 2:6], x[:, :, ::2, ::2])
    assert skip.shape == (1, 8, 3, 3)
    assert not skip[:, :2].any()


def test_blocks_left_out_leave_what_a_removal_leaves() -> None:
    whole = build_model(Recipe(), classes=10, channels=1)
    shallow = build_model(Recipe(without=("layer1.1", "layer2.0")), classes=10, channels=1)
    assert isinstance(shallow.get_submodule("layer1.1"), nn.Identity)
    assert sum(p.numel() for p in shallow.parameters()) < sum(p.numel() for p in whole.parameters())
    x = torch.rand(2, 32, 8, 8)
    strided = shallow.get_submodule("layer2.0")
    assert torch.equal(strided.eval()(x), torch.relu(strided.shortcut(x)))


class Block(nn.Module):
    """A residual block of several styles, widening or not."""

    def __init__(self, inputs: int, outputs: int, style: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.relu, self.style, self.norm = nn.ReLU(), style, nn.BatchNorm2d(outputs)
        self.downsample = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        if self.style == "before":
            return skip + self.conv2(self.relu(self.conv1(self.relu(x))))
        inner = self.conv2(torch.relu(self.conv1(x)))
        if self.style == "in place":
            inner += skip
            return torch.relu_(inner)
        y = skip + inner
        return {"linear": lambda: y, "module": lambda: self.relu(y), "norm": lambda: self.norm(y).relu()}[
            self.style
        ]()


def test_a_block_left_out_leaves_what_the_cut_leaves() -> None:
    """The control from scratch is the very network that the surgery makes of the ONNX file, whatever the style."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1)]
    for turn, style in enumerate(["module", "in place", "linear", "norm", "module", "before", "in place"]):
        layers += [Block(4 + turn, 4 + turn, style), Block(4 + turn, 5 + turn, style)]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(2, 3, 8, 8)
    proto = to_onnx(model, x)
    blocks = {block.name: block for block in find_blocks(proto)}
    assert len(blocks) == len(layers) - 1
    left = set()
    for name, block in blocks.items():
        form = Form.BYPASS if Form.BYPASS in block.forms else Form.SHORTCUT
        shallow = copy.deepcopy(model)
        remove_block(shallow, name)
        check_against(shallow, collapse_blocks(proto, [Cut(block, form)]), x, tolerance=1e-5)
        left.add(type(shallow.get_submodule(name)))
    assert left == {nn.Identity, nn.ReLU, ShortcutOnly}


def test_a_block_whose_code_does_not_tell_what_it_leaves_is_refused() -> None:
    class Asks(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    model = nn.Sequential(Asks(3, 6, "module"))
    with pytest.raises(UsageError, match="without: what follows the addition in block 0"):
        remove_block(model, "0")


def test_a_torchvision_block_can_be_left_out() -> None:
    recipe = Recipe(model="torchvision:resnet18", without=("layer1.1", "layer2.0"))
    model = build_model(recipe, classes=5, channels=3).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_a_timm_model() -> None:
    pytest.importorskip("timm")
    recipe = Recipe(model="timm:vit_tiny_patch16_224", model_args={"img_size": 32, "depth": 2})
    assert build_model(recipe, classes=4, channels=1).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n"
        "def build(*, classes, channels, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 4, width), nn.Linear(width, classes))\n"
        "def wrong(*, classes, channels):\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    recipe = Recipe(model="python:my_net:build", model_args={"width": 5})
    assert build_model(recipe, classes=3, channels=2)(torch.zeros(1, 2, 2, 2)).shape == (1, 3)
    with pytest.raises(InputError, match=r"not a torch\.nn\.Module"):
        build_model(Recipe(model="python:my_net:wrong"), classes=3, channels=2)
    with pytest.raises(InputError, match="no function 'missing'"):
        build_model(Recipe(model="python:my_net:missing"), classes=3, channels=2)
    with pytest.raises(InputError, match="cannot be imported"):
        build_model(Recipe(model="python:no_such_net:build"), classes=3, channels=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet21"}, "There is no model 'resnet21'; choose one of digits-resnet"),
        ({"model": "torchvision:resnet999"}, "resnet999"),
        ({"model_args": {"depth": 3}}, "cannot be built with these arguments"),
        ({"model_args": {"widths": [8]}}, "one positive number per stage"),
        ({"without": ("layer9.0",)}, "no block 'layer9.0'"),
    ],
)
def test_what_does_not_exist_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(Recipe.model_validate(settings), classes=10, channels=3)


def test_grey_images_do_not_fit_torchvision() -> None:
    with pytest.raises(InputError, match="3 channels; the data has 1"):
        build_model(Recipe(model="torchvision:resnet18"), classes=10, channels=1)


def test_a_perceptron_for_other_images_says_which_setting_to_change() -> None:
    model = build_model(Recipe(model="mlp"), classes=10, channels=1)
    with pytest.raises(UsageError, match=r"64 values.*1024.*model_args\.pixels"):
        model(torch.zeros(1, 1, 8, 8))
