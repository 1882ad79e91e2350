from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.training.blocks import BlockCapture, LocatedBlocks, locate_blocks
from lacoot_deploy.training.models import ResNet
from lacoot_deploy.training.penalty import block_penalty
from lacoot_deploy.transport import SlicedOptions


def small() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(classes=3, channels=1, widths=(4, 8), blocks=(2, 2))


@pytest.fixture(scope="module")
def located() -> tuple[nn.Module, LocatedBlocks]:
    model = small()
    return model, locate_blocks(model, torch.rand(4, 1, 8, 8))


class InPlace(nn.Module):
    """Residual blocks in the old pre-activation style, whose activations overwrite their input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(*(Branch() for _ in range(3)))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        return self.head(nn.functional.relu(x, inplace=True).mean((2, 3)))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(nn.functional.relu(x))


def test_blocks_of_the_graph_are_modules_of_the_model(located: tuple[nn.Module, LocatedBlocks]) -> None:
    model, found = located
    assert [tracked.name for tracked in found.tracked] == ["layer1.0", "layer1.1", "layer2.1"]
    for tracked in found.tracked:
        assert tracked.module is model.get_submodule(tracked.name)
        assert Form.BYPASS in tracked.block.forms
    strided = next(block for block in found.blocks if block.name == "layer2.0")
    assert strided.forms == (Form.SHORTCUT,)
    assert found.missed == ()


def test_captured_values_are_the_ends_of_the_blocks(located: tuple[nn.Module, LocatedBlocks]) -> None:
    model, found = located
    capture = BlockCapture(found.tracked)
    x = torch.rand(5, 1, 8, 8)
    model.train()
    model(x)
    assert capture.take() == {}, "nothing is kept while the capture is off"
    with capture.watching():
        model(x)
    values = capture.take()
    capture.remove()
    assert set(values) == {"layer1.0", "layer1.1", "layer2.1"}
    assert values["layer1.1"][0] is values["layer1.0"][1]
    for tracked in found.tracked:
        before, after = values[tracked.name]
        assert before.shape == after.shape == (5, *(tracked.block.shape or ())[1:])
        assert before.requires_grad
        assert after.requires_grad


def test_finding_blocks_leaves_the_model_as_it_was() -> None:
    model = small().train()
    model.layer1.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    locate_blocks(model, torch.rand(2, 1, 8, 8))
    assert model.training
    assert not model.layer1[0].training
    assert model.layer2.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_value_that_is_overwritten_later_is_copied() -> None:
    model = InPlace()
    found = locate_blocks(model, torch.randn(3, 1, 6, 6))
    assert [tracked.name for tracked in found.tracked] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [tracked.copy_output for tracked in found.tracked] == [False, False, True]
    capture = BlockCapture(found.tracked)
    with capture.watching():
        model(torch.randn(3, 1, 6, 6))
    values = capture.take()
    assert (values["blocks.2"][1] < 0).any(), "the output from before the in-place activation"


class OwnSums(nn.Module):
    """Residual sums of several kinds in the network's own forward, its layers in lists."""

    def __init__(self, *, noisy: bool = False) -> None:
        super().__init__()
        self.stem, self.head, self.noisy = nn.Conv2d(1, 4, 3), nn.Linear(4, 2), noisy
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ends = [torch.relu(self.stem(x))]
        if self.noisy and self.training:
            x = x + 0.1
        x = self.ends[0]
        for turn, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            branch = nn.functional.dropout(norm(conv(x)), 0.1, self.training)
            if turn == 3:
                x = x * 1.0
                x += branch
            else:
                x = x + branch if turn == 0 else torch.relu(branch + x)
            self.ends.append(x)
        return self.head(x.mean((2, 3)))


def test_a_sum_in_the_networks_own_forward_is_a_block() -> None:
    model, images = OwnSums(), torch.rand(4, 1, 8, 8)
    found = locate_blocks(model, images)
    assert found.missed == ()
    assert [t.module for t in found.tracked] == [None] * 4
    model.train()
    capture = BlockCapture(found.tracked)
    with capture.watching():
        model(images)
    values = capture.take()
    for turn, tracked in enumerate(found.tracked):
        before, after = values[tracked.name]
        assert torch.equal(before, model.ends[turn])
        assert torch.equal(after, model.ends[turn + 1])
    block_penalty(values, SlicedOptions(), torch.Generator().manual_seed(0)).backward()
    assert all(conv.weight.grad.abs().sum() > 0 for conv in model.convs)


def test_a_forward_that_takes_another_way_in_training_says_what_to_change() -> None:
    found = locate_blocks(OwnSums(noisy=True), torch.rand(4, 1, 8, 8))
    # Only the addition in place is still the same call.
    assert [t.place.merge.name for t in found.tracked if t.place is not None] == ["add_"]
    assert len(found.missed) == 3
    assert {reason for _, reason in found.missed} == {
        "the forward in which its sum is written takes another way in training; put block and sum into a module of "
        "their own"
    }


def test_blocks_are_chosen_by_name(located: tuple[nn.Module, LocatedBlocks]) -> None:
    _, found = located
    assert [t.name for t in found.select(["layer2.1"])] == ["layer2.1"]
    assert found.select([]) == found.tracked
    with pytest.raises(UsageError, match=r"no block 'layer2\.0' that can be penalised; there are: layer1\.0"):
        found.select(["layer2.0"])


def gradients(
    model: nn.Module, capture: BlockCapture, x: torch.Tensor, *, bf16: bool = False
) -> list[torch.Tensor]:
    model.zero_grad()
    with capture.watching(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(x)
    penalty = block_penalty(capture.take(), SlicedOptions(), torch.Generator().manual_seed(0))
    assert penalty.dtype == torch.float32
    (logits.float().square().mean() + penalty).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def close(a: list[torch.Tensor], b: list[torch.Tensor], tolerance: float) -> bool:
    scale = max(float(x.abs().max()) for x in b)
    return all(float((x - y).abs().max()) <= tolerance * scale for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("variant", ["compiled", "bf16", "short batch"])
def test_the_penalty_reaches_the_weights(located: tuple[nn.Module, LocatedBlocks], variant: str) -> None:
    model, found = copy.deepcopy(located)
    model.train()
    capture = BlockCapture(found.tracked)
    x = torch.rand(3 if variant == "short batch" else 32, 1, 8, 8)
    reference = gradients(model, capture, x)
    assert all(torch.isfinite(gradient).all() for gradient in reference)
    if variant == "bf16":
        # Half precision has 8 bits: directions of the gradient must agree, not digits.
        half, full = (
            torch.cat([g.flatten() for g in grads])
            for grads in (gradients(model, capture, x, bf16=True), reference)
        )
        assert torch.cosine_similarity(half, full, dim=0) > 0.98
    elif variant == "compiled":
        model.compile(backend="aot_eager")
        assert close(gradients(model, capture, x), reference, 1e-4)
        assert close(gradients(model, capture, x), reference, 1e-4)


def test_identical_ends_give_zero_and_finite_gradients() -> None:
    x = torch.rand(4, 3, requires_grad=True)
    penalty = block_penalty({"b": (x, x.clone())}, SlicedOptions())
    penalty.backward()
    assert penalty == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(4, 3))


def test_the_penalty_is_the_mean_of_distances_computed_in_float64() -> None:
    import numpy as np

    from lacoot_deploy.transport import random_directions

    generator = torch.Generator().manual_seed(3)
    pairs = {name: (torch.randn(16, 10), torch.randn(16, 10)) for name in "ab"}
    penalty = block_penalty(pairs, SlicedOptions(projections=7), generator)
    generator.manual_seed(3)
    expected = []
    for x, y in pairs.values():
        theta = random_directions(10, 7, generator=generator).bank.double().numpy()
        a, b = (np.sort(v.double().numpy() @ theta, axis=0) for v in (x, y))
        expected.append(np.sqrt(((a - b) ** 2).mean(0)).max())
    assert float(penalty) == pytest.approx(np.mean(expected), rel=1e-5)
