"""Every formula of the methods that make activations linear, against numpy; every published mistake, caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lacoot_deploy.data import ImageSet
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.methods import statistics
from lacoot_deploy.training.methods.activations import find_activations
from lacoot_deploy.training.methods.base import Surroundings
from lacoot_deploy.training.methods.layers import ChannelGate, Slope, slope_penalty
from lacoot_deploy.training.methods.nepenthe import (
    Nepenthe,
    NepentheSettings,
    prune_smallest,
    round_budget,
    share_budget,
)
from lacoot_deploy.training.methods.statistics import (
    Moments,
    SignCounts,
    binary_entropy,
    count_signs,
    measure_moments,
)
from lacoot_deploy.training.methods.tlc import collapse_gate, p_off
from lacoot_deploy.transport import SlicedOptions


def pictures(count: int = 30, seed: int = 0) -> DeviceImages:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    labels = generator.integers(0, 3, count)
    # From -1 to 1 in steps that leave some pre-activations at exactly zero.
    how = PreprocessingRecord(mean=[0.5], std=[0.5], size=(4, 4), channels=1)
    return DeviceImages(ImageSet(images, labels, ("a", "b", "c")), how, device=torch.device("cpu"))


def entropy_oracle(rows: np.ndarray) -> float:
    """Binary entropy in bits of the share above zero per column, zeros dropped; the mean over columns."""
    values = []
    for column in rows.T:
        signs = column[column != 0] > 0
        p = signs.mean() if len(signs) else 0.0
        values.append(-sum(q * math.log2(q) for q in (p, 1 - p) if q > 0))
    return float(np.mean(values))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 5, 3), nn.ReLU()
        self.fc, self.clip, self.head = nn.Linear(5 * 4, 6), nn.ReLU6(), nn.Linear(6, 3)
        with torch.no_grad():
            self.conv.weight[4] = 0
            self.conv.bias[4] = 0  # a neuron that is never on nor off

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.clip(self.fc(self.act(self.conv(x)).flatten(1))))


def pre_activations(net: Net, images: DeviceImages) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        x, _ = images.batch(torch.arange(len(images)))
        first = net.conv(x)
        second = net.fc(net.act(first).flatten(1))
    return first.permute(0, 2, 3, 1).reshape(-1, 5).numpy(), second.numpy()


def test_the_entropy_is_that_of_signs_over_data_and_positions_with_zeros_dropped() -> None:
    net, images = Net(), pictures()
    sites = find_activations(net, images.batch(torch.arange(2))[0]).sites
    found = count_signs(net, sites, images)
    for path, rows in zip(("act", "clip"), pre_activations(net, images), strict=True):
        assert found[path].entropy == pytest.approx(entropy_oracle(rows), abs=1e-12)
    first = pre_activations(net, images)[0]
    assert np.array_equal(found["act"].on.numpy(), (first > 0).sum(0))
    assert found["act"].on[4] == found["act"].off[4] == 0


def test_counts_are_summed_over_batches_and_the_entropy_is_taken_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The published code takes the entropy of every batch and averages: lower, and another for every batch size.
    net, images = Net(), pictures()
    sites = find_activations(net, images.batch(torch.arange(2))[0]).sites
    whole = count_signs(net, sites, images)
    monkeypatch.setattr(statistics, "BATCH", 1)
    single = count_signs(net, sites, images)
    rows = pre_activations(net, images)[1]
    of_batches = np.mean([entropy_oracle(row[None]) for row in rows])
    assert of_batches == 0
    for path in whole:
        assert single[path].entropy == whole[path].entropy > 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_binary_entropy_is_that_of_numpy(shares: list[float]) -> None:
    expected = [-sum(q * math.log2(q) for q in (p, 1 - p) if q > 0) for p in shares]
    assert binary_entropy(torch.tensor(shares, dtype=torch.float64)).tolist() == pytest.approx(
        expected, abs=1e-12
    )


def test_a_layer_is_settled_only_if_no_neuron_leaves_its_piece() -> None:
    def settled(on: list[int], off: list[int], clipped: list[int]) -> bool:
        return SignCounts(*(torch.tensor(values) for values in (on, off, clipped))).settled

    assert settled([9, 0, 0], [0, 9, 0], [0, 0, 0])
    assert not settled([9, 1], [0, 8], [0, 0])
    assert not settled([9], [0], [1]), "a ReLU6 that was ever clipped is not linear"


def test_moments_are_those_of_numpy() -> None:
    net, images = Net(), pictures()
    sites = find_activations(net, images.batch(torch.arange(2))[0]).sites
    found = measure_moments(net, sites, images)
    for path, rows in zip(("act", "clip"), pre_activations(net, images), strict=True):
        rows = rows.astype(np.float64)
        assert found[path].mean.numpy() == pytest.approx(rows.mean(0), abs=1e-6)
        assert found[path].std.numpy() == pytest.approx(rows.std(0), abs=1e-6)


def test_p_off_is_the_normal_distribution_below_zero() -> None:
    beta, gamma = np.array([0.3, -1.2, 0.0, 2.0, -2.0, 0.0]), np.array([0.5, 2.0, 1.0, 0.0, 0.0, 0.0])
    expected = [0.5 * math.erfc(b / g / math.sqrt(2)) for b, g in zip(beta[:3], gamma[:3], strict=True)]
    found = p_off(Moments(torch.tensor(beta), torch.tensor(gamma)))
    assert found.tolist() == pytest.approx([*expected, 0.0, 1.0, 1.0], abs=1e-12)
    drawn = np.random.default_rng(0).normal(beta[:3], gamma[:3], (200_000, 3))
    assert (drawn < 0).mean(0) == pytest.approx(expected, abs=4e-3)


def test_a_collapse_passes_channels_that_are_on_and_minds_the_upper_clip() -> None:
    moments = Moments(torch.tensor([1.0, -0.5, 0.0, 7.0]), torch.ones(4))
    scale, shift = collapse_gate(moments)
    assert (scale.tolist(), shift.tolist()) == ([1, 0, 0, 1], [0, 0, 0, 0])
    scale, shift = collapse_gate(moments, upper=6.0)
    # A channel that lies beyond 6 is 6 there; as an identity it would be 7 on average.
    assert (scale.tolist(), shift.tolist()) == ([1, 0, 0, 0], [0, 0, 0, 6])
    x = torch.randn(50, 4) * 0.1 + moments.mean
    gate = ChannelGate(4, axis=-1, shifted=True)
    gate.load_state_dict({"scale": scale.float(), "shift": shift.float()})
    on = [0, 3]
    assert torch.allclose(gate(x)[:, on], nn.functional.relu6(x)[:, on])


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 3, 4, 5)), (-1, (2, 5, 3)), (-1, (2, 3)), (1, (2, 3))])
def test_a_gate_scales_channels(axis: int, shape: tuple[int, ...]) -> None:
    gate = ChannelGate(3, axis=axis, shifted=False)
    gate.scale.copy_(torch.tensor([1.0, 0.0, 2.0]))
    x = torch.randn(shape)
    expected = np.moveaxis(np.moveaxis(x.numpy(), axis, -1) * np.array([1.0, 0.0, 2.0], np.float32), -1, axis)
    assert np.array_equal(gate(x).numpy(), expected)


def test_a_slope_goes_from_the_activation_to_the_identity() -> None:
    x = torch.randn(100)
    for activation in (nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ReLU6(), nn.Hardswish()):
        slope = Slope(activation)
        assert torch.equal(slope(x), activation(x))
        with torch.no_grad():
            slope.weight.fill_(0.3)
        expected = 0.7 * activation(x).double().numpy() + 0.3 * x.double().numpy()
        assert slope(x).detach().numpy() == pytest.approx(expected, abs=1e-6)
        with torch.no_grad():
            slope.weight.fill_(1.0)
        assert torch.allclose(slope(x), x, atol=1e-6)


def test_the_slope_penalty_and_its_gradient() -> None:
    slopes = [Slope(nn.ReLU()), Slope(nn.GELU())]
    for slope, alpha in zip(slopes, (0.2, 1.5), strict=True):
        slope.weight.data.fill_(alpha)
    value = slope_penalty(slopes)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.8**2 + 0.5**2)
    assert [float(s.weight.grad) for s in slopes] == pytest.approx([-2 * 0.8, 2 * 0.5])


def test_the_budget_of_a_round_follows_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(20, 30, generator=generator) * size
        for name, size in zip("abc", (1, 2, 3), strict=True)
    }
    weights["b"][:10] = 0
    entropies = {"a": 0.9, "b": 0.8, "c": 0.7}
    found = round_budget(entropies, weights, zeta=0.5)
    sizes = {n: np.abs(w.numpy()[w.numpy() != 0]).mean() for n, w in weights.items()}
    irrelevance = np.array([entropies[n] * sizes[n] for n in "abc"])
    relevance = irrelevance.sum() / irrelevance
    shares = np.exp(relevance - relevance.max()) / np.exp(relevance - relevance.max()).sum()
    budget = 0.5 * (600 + 300 + 600)
    assert sum(found.values()) == budget
    # The first layer cannot take its share: all of it goes, and the others take the rest by their own shares.
    assert shares[0] * budget > 600
    rest = (budget - 600) * shares[1:] / shares[1:].sum()
    assert [found[n] for n in "abc"] == [600, *(pytest.approx(value, abs=1) for value in rest)]


def test_what_a_full_layer_cannot_take_goes_to_the_others() -> None:
    # A share of e^-1000 is 0: dividing by the shares that are left must not lose the budget.
    assert share_budget(90, np.array([1000.0, 0.0, 0.0]), np.array([50, 60, 60])) == [50, 20, 20]
    assert share_budget(90, np.array([1e30, 10.0, 0.0]), np.array([10, 20, 100])) == [10, 20, 60]
    assert share_budget(500, np.array([3.0, 2.0]), np.array([100, 50])) == [100, 50]
    assert share_budget(0, np.array([3.0, 2.0]), np.array([100, 50])) == [0, 0]


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1000)), min_size=1, max_size=8), st.floats(0, 1))
@settings(deadline=None)
def test_no_budget_is_lost_and_no_layer_gives_more_than_it_has(
    layers: list[tuple[float, int]], zeta: float
) -> None:
    capacity = np.array([size for _, size in layers])
    budget = round(zeta * int(capacity.sum()))
    given_ = np.array(share_budget(budget, np.array([r for r, _ in layers]), capacity))
    assert given_.sum() == budget
    assert (given_ >= 0).all()
    assert (given_ <= capacity).all()


def test_the_smallest_weights_that_are_not_zero_go() -> None:
    weight = torch.tensor([[0.0, -0.1, 3.0], [0.2, -0.3, 0.0]])
    assert prune_smallest(weight, 2).tolist() == [[0, 0, 3.0], [0, pytest.approx(-0.3), 0]]
    assert torch.equal(prune_smallest(weight, 0), weight)
    assert not prune_smallest(weight, 4).any()


def test_pruned_weights_stay_zero_while_the_others_learn() -> None:
    net, images = Net(), pictures()
    sites = find_activations(net, images.batch(torch.arange(2))[0]).sites
    net.fc.weight.data = prune_smallest(net.fc.weight, 40)
    zeros, others = net.fc.weight == 0, net.fc.weight.detach().clone()
    method = Nepenthe(NepentheSettings())
    method.sites = sites
    companion = method.accompany(
        net,
        Surroundings(
            seed=0,
            device=torch.device("cpu"),
            group=None,
            distance=SlicedOptions(),
            model="net",
            compiled=False,
            note=print,
            images=lambda: images,
            batch=10,
        ),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for start in (0, 10, 20):
        x, labels = images.batch(torch.arange(start, start + 10))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        companion.after_step()
    assert int(zeros.sum()) == 40
    assert not net.fc.weight[zeros].any()
    assert not torch.equal(net.fc.weight[~zeros], others[~zeros])
