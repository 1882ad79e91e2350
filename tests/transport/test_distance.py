from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import (
    SlicedOptions,
    max_sliced_wasserstein,
    max_sliced_wasserstein_each,
    random_directions,
    sliced,
)
from lacoot_deploy.transport import distance as distance_module
from lacoot_deploy.transport.directions import random_directions_at_once


def reference(x: np.ndarray, y: np.ndarray, directions: np.ndarray, p: float) -> float:
    """The definition, written down in float64."""
    px, py = (np.sort(a.astype(np.float64) @ directions.astype(np.float64), axis=0) for a in (x, y))
    return float((np.abs(px - py) ** p).mean(0).max() ** (1 / p))


def naive(x: torch.Tensor, y: torch.Tensor, directions: torch.Tensor, p: float) -> torch.Tensor:
    """The definition under plain autograd: all directions carry the graph."""
    px, py = (a.flatten(1) @ directions for a in (x, y))
    costs = (px.sort(0).values - py.sort(0).values).abs().pow(p).mean(0)
    return costs.max().pow(1 / p)


def unit_columns(
    features: int, count: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    directions = torch.randn(features, count, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return directions / directions.norm(dim=0)


def pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=dtype)
    return x, 1.3 * x + 0.5 * torch.randn(*shape, generator=generator, dtype=dtype) + 0.2


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(7, 3), (32, 5, 4, 4), (64, 300)])
def test_same_value_as_the_definition_on_the_same_directions(shape: tuple[int, ...], p: float) -> None:
    x, y = pair(*shape)
    directions = unit_columns(x[0].numel(), 20)
    value = max_sliced_wasserstein(x, y, SlicedOptions(p=p), directions=directions)
    expected = reference(x.flatten(1).numpy(), y.flatten(1).numpy(), directions.numpy(), p)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_same_value_and_gradient_as_pot_on_the_same_directions(p: int) -> None:
    ot = pytest.importorskip("ot")
    x, y = (a.requires_grad_() for a in pair(64, 300))
    directions = unit_columns(300, 50)
    ours = max_sliced_wasserstein(x, y, SlicedOptions(p=p), directions=directions)
    theirs = ot.sliced.max_sliced_wasserstein_distance(x, y, projections=directions, p=p)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    for a, b in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(theirs, (x, y)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_samples_that_are_numbers_have_gradients_that_are() -> None:
    x, y = (a.squeeze(1).requires_grad_() for a in pair(9, 1, dtype=torch.float64))
    directions = torch.ones(1, 1, dtype=torch.float64)
    ours = torch.autograd.grad(max_sliced_wasserstein(x, y, directions=directions), (x, y))
    theirs = torch.autograd.grad(naive(x[:, None], y[:, None], directions, 2.0), (x, y))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_gradient_is_that_of_the_naive_implementation(p: float) -> None:
    x, y = (a.requires_grad_() for a in pair(9, 4, 2, 2, dtype=torch.float64))
    directions = unit_columns(16, 10, dtype=torch.float64)
    ours = torch.autograd.grad(
        3 * max_sliced_wasserstein(x, y, SlicedOptions(p=p), directions=directions), (x, y)
    )
    theirs = torch.autograd.grad(3 * naive(x, y, directions, p), (x, y))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda a, b: max_sliced_wasserstein(a, b, SlicedOptions(p=p), directions=directions),
        (x, y),
        eps=1e-7,
        atol=1e-5,
    )


@pytest.mark.parametrize("estimator", ["sampled", "ascent"])
@pytest.mark.parametrize("shape", [(8, 6), (8, 5000)])
def test_gradient_is_zero_and_finite_where_input_equals_output(
    shape: tuple[int, ...], estimator: str
) -> None:
    x = torch.randn(shape, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    value = max_sliced_wasserstein(x, y, SlicedOptions(estimator=estimator))
    value.backward()
    assert value == 0
    assert not x.grad.any()
    assert not y.grad.any()


def test_structured_directions_are_unit_vectors_and_project_like_their_dense_form() -> None:
    directions = random_directions(9000, 12, generator=torch.Generator().manual_seed(0), width=1000)
    dense = torch.stack([directions.select(torch.tensor(k)) for k in range(12)], dim=1)
    torch.testing.assert_close(dense.norm(dim=0), torch.ones(12))
    rows = torch.randn(5, 9000)
    torch.testing.assert_close(directions.project(rows), (rows @ dense).t(), rtol=1e-4, atol=1e-5)


def test_same_generator_state_gives_the_same_value() -> None:
    x, y = pair(16, 6000)
    values = [
        float(max_sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(s))) for s in (3, 3, 4)
    ]
    assert values[0] == values[1] != values[2]


def test_half_precision_is_accumulated_in_float32() -> None:
    x, y = pair(32, 6000)
    for dtype in (torch.float16, torch.bfloat16):
        half_x, half_y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
        value = max_sliced_wasserstein(half_x, half_y, generator=torch.Generator().manual_seed(0))
        exact = max_sliced_wasserstein(
            half_x.float(), half_y.float(), generator=torch.Generator().manual_seed(0)
        )
        value.backward()
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(exact.detach()), rel=1e-5)
        assert half_x.grad.dtype == dtype


def test_channels_last_gradient_keeps_its_memory_format() -> None:
    x, y = pair(8, 6, 4, 4)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    max_sliced_wasserstein(x, y).backward()
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("y_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("x_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_may_differ_between_the_arguments(
    x_format: torch.memory_format, y_format: torch.memory_format
) -> None:
    x, y = (a.requires_grad_() for a in pair(8, 6, 4, 4, dtype=torch.float64))
    directions = unit_columns(6 * 4 * 4, 10, dtype=torch.float64)
    expected = naive(x, y, directions, 2.0)
    # Directions are given in the order of x's memory.
    if x_format == torch.channels_last:
        directions = directions.view(6, 4, 4, 10).permute(1, 2, 0, 3).reshape(-1, 10)
    value = max_sliced_wasserstein(
        x.contiguous(memory_format=x_format), y.contiguous(memory_format=y_format), directions=directions
    )
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    gradients = torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, (x, y))
    torch.testing.assert_close(*gradients)


def test_refuses_what_is_no_pair() -> None:
    with pytest.raises(UsageError, match=r"\(3, 4\).*\(2, 4\)"):
        max_sliced_wasserstein(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(UsageError, match="order p"):
        max_sliced_wasserstein(torch.zeros(3, 4), torch.zeros(3, 4), SlicedOptions(p=0.5))
    with pytest.raises(UsageError, match="estimator"):
        max_sliced_wasserstein(torch.zeros(3, 4), torch.zeros(3, 4), SlicedOptions(estimator="guess"))


def test_several_pairs_at_once_are_the_same_as_one_by_one() -> None:
    pairs = [pair(8, 5, 30, 30), pair(8, 40, seed=1), pair(8, 5, 30, 30, seed=2)]
    for same_shapes in (pairs, pairs[::2]):
        for estimator in ("sampled", "ascent"):
            generator = torch.Generator().manual_seed(0)
            one_by_one = [
                max_sliced_wasserstein(x, y, SlicedOptions(estimator=estimator), generator=generator)
                for x, y in same_shapes
            ]
            generator.manual_seed(0)
            together = max_sliced_wasserstein_each(
                same_shapes, SlicedOptions(estimator=estimator), generator=generator
            )
            torch.testing.assert_close(together, torch.stack(one_by_one))
    with pytest.raises(UsageError, match="as many samples"):
        max_sliced_wasserstein_each([pair(8, 5), pair(7, 5)])
    assert max_sliced_wasserstein_each([]).shape == (0,)


def test_stride_looks_at_the_smaller_maps_and_gives_them_the_gradient() -> None:
    x, y = pair(8, 3, 9, 9)
    x.requires_grad_()
    value = max_sliced_wasserstein(x, y, SlicedOptions(stride=2), generator=torch.Generator().manual_seed(0))
    expected = max_sliced_wasserstein(
        x[:, :, ::2, ::2], y[:, :, ::2, ::2], generator=torch.Generator().manual_seed(0)
    )
    assert float(value.detach()) == float(expected.detach())
    value.backward()
    assert x.grad[:, :, ::2, ::2].abs().sum() > 0
    assert not x.grad[:, :, 1::2].any()


def test_values_along_structured_directions_have_the_distribution_of_those_along_uniform_ones() -> None:
    """Means within their standard error; activations with common mean and a few strong features."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(6000, generator=generator) ** 4
    x = torch.relu(torch.randn(64, 6000, generator=generator)) * scale
    y = x * 0.8 + 0.1 * torch.randn(64, 6000, generator=generator) * scale
    values = {
        width: torch.stack(
            [
                max_sliced_wasserstein(
                    x, y, directions=random_directions(6000, 50, generator=generator, width=width)
                )
                for _ in range(200)
            ]
        )
        for width in (1024, 6000)
    }
    means = {width: float(v.mean()) for width, v in values.items()}
    assert means[1024] == pytest.approx(means[6000], rel=0.05)
    assert float(values[1024].std()) == pytest.approx(float(values[6000].std()), rel=0.3)


def test_autocast_does_not_lower_the_precision() -> None:
    x, y = pair(32, 6000)
    plain = max_sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = max_sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(0))
    assert float(cast) == pytest.approx(float(plain), rel=1e-6)


def test_autograd_keeps_one_vector_of_the_size_of_a_sample() -> None:
    x, y = (a.requires_grad_() for a in pair(64, 9000))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        max_sliced_wasserstein(x, y)
    assert sum(kept) == 9000 + 2 * 64


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The way a GPU goes, on the CPU: directions drawn at once, one sort that gives the order."""
    monkeypatch.setattr(sliced, "launches_count", lambda device: True)


class TestTheWayOfAGpu:
    def test_directions_drawn_at_once_are_unit_vectors_of_their_spaces(self):
        drawn = random_directions_at_once(
            [300, 7, 5000], 11, generator=None, device=torch.device("cpu"), dtype=torch.float64
        )
        for features, each in zip((300, 7, 5000), drawn, strict=True):
            assert each.bank.shape == (features, 11)
            assert each.signs is None
            torch.testing.assert_close(each.bank.norm(dim=0), torch.ones(11, dtype=torch.float64))

    @pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
    def test_values_and_gradients_are_those_of_the_definition(self, as_on_a_gpu, p):
        pairs = [
            tuple(end.requires_grad_() for end in pair(9, *shape, seed=seed, dtype=torch.float64))
            for seed, shape in enumerate([(4, 2, 2), (70,), (3, 30, 30)])
        ]
        values = max_sliced_wasserstein_each(
            pairs, SlicedOptions(p=p), generator=torch.Generator().manual_seed(3)
        )
        features = [x[0].numel() for x, _ in pairs]
        drawn = random_directions_at_once(
            features,
            50,
            generator=torch.Generator().manual_seed(3),
            device=torch.device("cpu"),
            dtype=torch.float64,
        )
        expected = torch.stack([naive(x, y, each.bank, p) for (x, y), each in zip(pairs, drawn, strict=True)])
        torch.testing.assert_close(values, expected)
        weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        ends = [end for one in pairs for end in one]
        ours = torch.autograd.grad((values * weights).sum(), ends)
        theirs = torch.autograd.grad((expected * weights).sum(), ends)
        torch.testing.assert_close(ours, theirs)

    def test_values_have_the_distribution_of_those_of_the_way_of_a_cpu(self, monkeypatch):
        pairs = [pair(32, 4000), pair(32, 4000, seed=1)]

        def mean() -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            draws = [max_sliced_wasserstein_each(pairs, generator=generator) for _ in range(150)]
            return torch.stack(draws).mean(0)

        folded = mean()
        monkeypatch.setattr(sliced, "launches_count", lambda device: True)
        torch.testing.assert_close(mean(), folded, rtol=0.05, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_gradient_is_finite_and_in_the_format_of_the_input(self, as_on_a_gpu, dtype):
        ends = [
            end.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
            for end in pair(8, 6, 4, 4)
        ]
        same = ends[0].detach().clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = max_sliced_wasserstein_each([(ends[0], ends[1]), (ends[0], same)])
        assert values.dtype == torch.float32
        assert values[1] == 0
        values.sum().backward()
        for end in ends:
            assert end.grad.stride() == end.stride()
            assert end.grad.any()
            assert end.grad.isfinite().all()
        assert not same.grad.any()

    @pytest.mark.parametrize("estimator", ["sampled", "ascent"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_nothing_waits_for_the_device_or_mixes_it_with_the_host(self, estimator, dtype):
        # Without data on a pretended GPU: reading a number from it, or mixing it with the CPU, is an error there.
        with FakeTensorMode():
            ends = [torch.empty(8, 6, 4, 4, device="cuda", dtype=dtype, requires_grad=True) for _ in range(2)]
            values = max_sliced_wasserstein_each([ends, ends[::-1]], SlicedOptions(estimator=estimator))
            assert values.device.type == "cuda"
            # Not `backward`, which starts a thread for the device.
            slopes = distance_module._AlongDirections.backward(values.grad_fn, torch.empty_like(values))
        gradients = [slope for slope in slopes if slope is not None]
        assert [(g.device.type, g.shape, g.dtype) for g in gradients] == [("cuda", ends[0].shape, dtype)] * 4

    def test_a_number_read_from_the_device_would_be_noticed(self, monkeypatch):
        monkeypatch.setattr(sliced, "power_mean", lambda d, p: d.abs().mean(-1) * float(d.sum()))
        with FakeTensorMode():
            ends = torch.empty(2, 8, 6, 4, 4, device="cuda", requires_grad=True)
            with pytest.raises(DataDependentOutputException):
                max_sliced_wasserstein_each([tuple(ends)])

    def test_large_activations_keep_the_memory_bounded(self, as_on_a_gpu, monkeypatch):
        monkeypatch.setattr(distance_module, "MOST_DRAWN_AT_ONCE", 1000)

        def fail(*args, **kwargs):
            raise AssertionError("drawn at once all the same")

        monkeypatch.setattr(distance_module, "random_directions_at_once", fail)
        assert max_sliced_wasserstein(*pair(8, 5000)) > 0


def test_refuses_pairs_that_do_not_go_together() -> None:
    one, other = pair(8, 5), pair(8, 5, dtype=torch.float64)
    with pytest.raises(UsageError, match="float64 for all or for none"):
        max_sliced_wasserstein_each([one, other])
    directions = [random_directions(5, count) for count in (3, 4)]
    with pytest.raises(UsageError, match=r"as many directions, but got \[3, 4\]"):
        max_sliced_wasserstein_each([one, one], directions=directions)
    with pytest.raises(UsageError, match="there are 1 for 2 pairs"):
        max_sliced_wasserstein_each([one, one], directions=directions[:1])
