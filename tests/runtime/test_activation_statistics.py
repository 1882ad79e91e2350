"""Counts and moments of activations: those of numpy over all data at once, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, run

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.linear import list_activations
from lacoot_deploy.runtime.activation_statistics import Watched, activation_moments
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.selection.activation_criteria import entropy


def relu_model(shape, *, batch="N"):
    g = GraphBuilder()
    g.op("Relu", g.input("x", [batch, *shape]), output="y")
    return g.model({"y": [batch, *shape]})


def moments_of(x: np.ndarray, *, axis: int | None = 1, **options):
    model = relu_model(x.shape[1:])
    watched = [Watched("act", "x", "y", axis)]
    return activation_moments(model, watched, Samples({"x": x}), runtime=Runtime("cpu"), **options)["act"]


@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 5), 1), ((7, 6), 2), ((5,), 1), ((4, 3), None)])
def test_moments_are_those_of_numpy(shape, axis) -> None:
    x = np.random.default_rng(0).normal(2, 3, (11, *shape)) * (np.arange(11) % 4 > 0).reshape(
        -1, *[1] * len(shape)
    )
    x = x.astype(np.float32)
    found = moments_of(x, axis=axis)
    wide = x.astype(np.float64)
    rows = wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1)
    relu = np.maximum(rows, 0)
    assert found.entries == rows.shape[1]
    np.testing.assert_array_equal(found.on, (rows > 0).sum(axis=1))
    np.testing.assert_array_equal(found.off, (rows < 0).sum(axis=1))
    np.testing.assert_allclose(found.mean, rows.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.variance, rows.var(axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.identity_error, ((relu - rows) ** 2).mean(axis=1), rtol=1e-12)
    slope, intercept = found.affine()
    for channel, (a, b) in enumerate(zip(rows, relu, strict=True)):
        expected = np.polyfit(a, b, 1)
        np.testing.assert_allclose([slope[channel], intercept[channel]], expected, rtol=1e-8, atol=1e-10)
    fitted = slope[:, None] * rows + intercept[:, None]
    left = ((relu - fitted) ** 2).mean(axis=1).sum() / relu.var(axis=1).sum()
    assert found.residual() == pytest.approx(np.sqrt(left), rel=1e-8)


def test_the_batch_size_changes_nothing_at_all() -> None:
    x = np.random.default_rng(0).normal(100, 0.1, (23, 3, 4, 4)).astype(np.float32)
    first = moments_of(x, batch_size=1)
    for size in (2, 7, 64):
        other = moments_of(x, batch_size=size)
        for name, value in vars(first).items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_little_memory_takes_more_passes_and_gives_the_same(monkeypatch) -> None:
    model, _ = residual_cnn(2)
    samples = Samples(random_feeds(model, batch=6))
    watched = [Watched(a.name, a.input, a.output, a.axis) for a in list_activations(model)]
    one = activation_moments(model, watched, samples, runtime=Runtime("cpu"), batch_size=2)
    sessions: list[int] = []
    run = ExposedSession.run
    monkeypatch.setattr(ExposedSession, "run", lambda *given: sessions.append(1) or run(*given))
    many = activation_moments(model, watched, samples, runtime=Runtime("cpu"), batch_size=2, memory_bytes=1)
    assert len(sessions) == 1 + 3 * len(watched)
    for name, moments in one.items():
        np.testing.assert_array_equal(moments.mean, many[name].mean)


def test_a_fixed_batch_is_filled_up_and_the_filling_not_counted() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    model = relu_model((3,), batch=4)
    found = activation_moments(
        model, [Watched("act", "x", "y", 1)], Samples({"x": x}), runtime=Runtime("cpu")
    )["act"]
    assert found.entries == 5
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_what_should_come_out_may_be_another_networks() -> None:
    def scaled(factor: float):
        g = GraphBuilder()
        value = g.op("Mul", g.input("x", ["N", 4]), g.weight(factor), output="inner")
        g.op("Relu", value, output="y")
        return g.model({"y": ["N", 4]})

    x = np.abs(np.random.default_rng(0).normal(size=(9, 4))).astype(np.float32)
    found = activation_moments(
        scaled(0.5),
        [Watched("act", "inner", "y", 1)],
        Samples({"x": x}),
        target=scaled(2.0),
        runtime=Runtime("cpu"),
    )["act"]
    slope, intercept = found.affine()
    np.testing.assert_allclose(slope, 4.0, rtol=1e-5)
    np.testing.assert_allclose(intercept, 0.0, atol=1e-5)


def test_values_that_are_not_finite_are_refused() -> None:
    x = np.array([[1.0, np.inf]], np.float32)
    with pytest.raises(InputError, match="act"):
        moments_of(np.repeat(x, 3, axis=0))


def test_entropy_accumulates_counts_and_does_not_average_the_entropies_of_batches() -> None:
    """Batches that are each of one sign have no entropy; all of them together have one bit."""
    x = np.concatenate([np.ones((8, 3)), -np.ones((8, 3))]).astype(np.float32)
    assert entropy(moments_of(x, batch_size=8)) == 1.0
    assert entropy(moments_of(x[:8])) == 0.0


def test_zeros_count_for_neither_sign() -> None:
    x = np.zeros((16, 1), np.float32)
    x[:2], x[2:4] = 1, -1
    assert entropy(moments_of(x)) == 1.0
    assert entropy(moments_of(np.zeros((4, 2), np.float32))) == 0.0


def test_the_entropy_of_a_layer_is_the_mean_over_its_channels() -> None:
    random = np.random.default_rng(1)
    x = random.normal([-1.0, 0.3, 3.0], 1.0, (500, 3)).astype(np.float32)
    shares = (x > 0).mean(axis=0)
    bits = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares))
    assert entropy(moments_of(x)) == pytest.approx(bits.mean(), rel=1e-12)


def test_a_networks_own_activations_are_what_is_watched() -> None:
    model, _ = residual_cnn(1, head=False)
    activation = list_activations(model)[-1]
    feeds = random_feeds(model, batch=3)
    watched = [Watched("last", activation.input, activation.output, 1)]
    found = activation_moments(model, watched, Samples(feeds), runtime=Runtime("cpu"))["last"]
    out = run(model, feeds)[0].astype(np.float64)
    np.testing.assert_allclose(found.target_mean, out.mean(axis=(0, 2, 3)), rtol=1e-6)
