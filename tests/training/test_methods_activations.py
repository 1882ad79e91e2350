"""Which activations are found, what makes their input and reads their value, and padding that moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.methods.activations import find_activations
from lacoot_deploy.training.methods.edits import apply_edits
from lacoot_deploy.training.methods.layers import ChannelGate, Slope
from lacoot_deploy.training.methods.padding import move_padding
from lacoot_deploy.training.methods.state import Edit
from lacoot_deploy.training.models import REGISTRY


def found_in(name: str, channels: int = 1, side: int = 8, **options: object):
    model = REGISTRY[name](classes=10, channels=channels, **options)
    return model, find_activations(model, torch.randn(2, channels, side, side))


def test_a_residual_network_tells_activations_behind_an_addition() -> None:
    _, found = found_in("digits-resnet", widths=[4, 8], blocks=[1, 2])
    sites = {site.path: site for site in found.sites}
    assert list(sites) == [
        "stem.1", "layer1.0.act1", "layer1.0.act2", "layer2.0.act1", "layer2.0.act2", "layer2.1.act1", "layer2.1.act2",
    ]  # fmt: skip
    inner, outer = sites["layer2.1.act1"], sites["layer2.1.act2"]
    assert (inner.producer, inner.norm, inner.consumer) == (
        "layer2.1.conv1.0",
        "layer2.1.conv1.1",
        "layer2.1.conv2.0",
    )
    assert (inner.channels, inner.axis, inner.after_add) == (8, 1, False)
    assert (outer.producer, outer.norm, outer.consumer, outer.after_add) == (None, None, None, True)
    # Its value is also the next block's shortcut.
    assert sites["stem.1"].consumer is None
    assert found.refused == ()


def test_linear_layers_are_neighbours_through_dropout_and_tokens_have_their_features_last() -> None:
    _, vgg = found_in("vgg16-cifar", channels=3, side=32, width=0.05)
    last = vgg.sites[-1]
    assert (last.path, last.producer, last.consumer) == ("classifier.4", "classifier.3", "classifier.6")
    assert vgg.sites[1].consumer is None, "a pooling layer lies between"
    _, former = found_in("patch-transformer", side=8, size=8, width=8, depth=1)
    (site,) = former.sites
    assert (site.kind, site.channels, site.axis) == ("GELU", 32, -1)
    assert (site.producer, site.consumer) == ("layers.0.feed_forward.0", "layers.0.feed_forward.2")


def test_mobilenets_clip_is_known() -> None:
    _, found = found_in("mobilenetv2-cifar", channels=3, side=32)
    assert {site.upper for site in found.sites} == {6.0}
    assert len(found.sites) == 35
    # A linear bottleneck: what follows the addition has no activation.
    assert not any(site.after_add for site in found.sites)


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 6, 3, padding=1), nn.Conv1d(6, 6, 3, padding=1)
        self.inner, self.outer = nn.SiLU(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.outer(x + self.second(self.inner(x)) * 2).mean(2)


def test_channels_behind_an_addition_are_those_of_what_was_added() -> None:
    found = find_activations(Sequences(), torch.randn(2, 2, 9))
    assert [(s.path, s.channels, s.axis, s.after_add) for s in found.sites] == [
        ("inner", 6, 1, False),
        ("outer", 6, 1, True),
    ]
    # Its input is read by the addition as well, its value by one convolution alone.
    assert [(s.producer, s.consumer) for s in found.sites] == [("first", "second"), (None, None)]


class Careless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1) for i in range(3)
        )
        self.shared, self.idle, self.own = nn.ReLU(inplace=True), nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.second(self.shared(self.first(x))))
        x = self.own(self.last(x))
        return torch.relu(x).mean((2, 3))


def test_activations_that_no_module_stands_for_are_refused_with_the_reason() -> None:
    model = Careless()
    found = find_activations(model, torch.randn(2, 1, 5, 5))
    reasons = dict(found.refused)
    assert "2 times" in reasons["shared"]
    assert "never" in reasons["idle"]
    assert "relu is called as a function" in reasons["Careless"]
    assert [(s.path, s.producer, s.consumer) for s in found.sites] == [("own", "last", None)]
    assert model.own.inplace
    with pytest.raises(UsageError, match="shared cannot be made linear: the module is called 2 times"):
        found.select(("shared",))
    with pytest.raises(UsageError, match="no activation 'nothing'; there are own"):
        found.select(("nothing",))


def test_edits_are_replayed_in_order() -> None:
    model, _ = found_in("mlp", pixels=64, hidden=[8, 8, 8])
    apply_edits(
        model,
        [
            Edit(kind="slope", path="layers.2"),
            Edit(kind="linear", path="layers.2"),
            Edit(kind="gate", path="layers.4", channels=8, axis=-1),
            Edit(kind="slope", path="layers.6"),
        ],
    )
    kinds = [type(model.layers[i]) for i in (2, 4, 6)]
    assert kinds == [nn.Identity, ChannelGate, Slope]
    with pytest.raises(InputError, match="no longer has"):
        apply_edits(model, [Edit(kind="linear", path="layers.99")])


def correlate(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int, stride: int = 1) -> np.ndarray:
    """Cross-correlation in float64 by its definition."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("ncyxij,ocij->noyx", windows, weight) + bias[None, :, None, None]


def composed(first: nn.Conv2d, second: nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of one convolution for both, the first of stride 1."""
    a, b = (c.weight.detach().double().numpy() for c in (first, second))
    side = a.shape[2] + b.shape[2] - 1
    kernel = np.zeros((b.shape[0], a.shape[1], side, side))
    for i in range(b.shape[2]):
        for j in range(b.shape[3]):
            kernel[:, :, i : i + a.shape[2], j : j + a.shape[3]] += np.einsum(
                "om,mcyx->ocyx", b[:, :, i, j], a
            )
    bias = second.bias.detach().double().numpy() + b.sum((2, 3)) @ first.bias.detach().double().numpy()
    return kernel, bias


class Chain(nn.Module):
    def __init__(self, *convolutions: nn.Conv2d) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convolutions)
        self.acts = nn.ModuleList(nn.ReLU() for _ in convolutions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution, activation in zip(self.convs, self.acts, strict=True):
            x = activation(convolution(x))
        return x


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (1, 3), (5, 3)])
def test_with_its_padding_moved_a_pair_is_one_convolution_at_the_border_too(k1: int, k2: int) -> None:
    model = Chain(nn.Conv2d(2, 4, k1, padding=k1 // 2), nn.Conv2d(4, 3, k2, padding=k2 // 2))
    x = torch.randn(2, 2, 9, 9)
    sites = find_activations(model, x).sites
    apply_edits(model, [Edit(kind="linear", path="acts.0"), Edit(kind="linear", path="acts.1")])
    kernel, bias = composed(*model.convs)
    expected = correlate(x.double().numpy(), kernel, bias, k1 // 2 + k2 // 2)
    before = model(x).detach().numpy()
    edits, refused = move_padding(model, sites, ["acts.0"])
    apply_edits(model, edits)
    after = model(x).detach().numpy()
    assert not refused
    assert model.convs[0].padding == (k1 // 2 + k2 // 2,) * 2
    assert model.convs[1].padding == (0, 0)
    assert after == pytest.approx(expected, abs=1e-5)
    edge = k1 // 2 + k2 // 2
    inner = (slice(None), slice(None), slice(edge, -edge), slice(edge, -edge))
    assert before[inner] == pytest.approx(expected[inner], abs=1e-5)
    assert np.abs(before - expected).max() > 1e-2, "without the move the border is another"


def test_padding_moves_to_the_first_of_a_chain_past_strides() -> None:
    model = Chain(*(nn.Conv2d(2, 2, 3, stride=s, padding=1) for s in (2, 1, 2)))
    x = torch.randn(1, 2, 17, 17)
    sites = find_activations(model, x).sites
    shape = model(x).shape
    apply_edits(model, move_padding(model, sites, ["acts.0", "acts.1"])[0])
    assert [c.padding for c in model.convs] == [(1 + 2 + 2, 1 + 2 + 2), (0, 0), (0, 0)]
    assert model(x).shape == shape
    # In two rounds as in one.
    again = Chain(*(nn.Conv2d(2, 2, 3, stride=s, padding=1) for s in (2, 1, 2)))
    for gone in (["acts.0"], ["acts.0", "acts.1"]):
        apply_edits(again, move_padding(again, sites, gone)[0])
    assert [c.padding for c in again.convs] == [c.padding for c in model.convs]


def test_padding_stays_where_no_merge_can_follow() -> None:
    model = Chain(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, padding=1))
    sites = find_activations(model, torch.randn(1, 4, 6, 6)).sites
    edits, refused = move_padding(model, sites, ["acts.0"])
    assert (edits, len(refused)) == ((), 1)
    assert "other groups" in refused[0]
    circular = Chain(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    edits, refused = move_padding(circular, sites, ["acts.0"])
    assert not edits
    assert "not of zeros" in refused[0]
