"""TLC's and LayerCollapse's criteria, and the mistakes that published code makes with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import GraphBuilder, run

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.linear import Linearisation, linearise, list_activations, merge_linear
from lacoot_deploy.graph.linear.parameters import ActivationParameters
from lacoot_deploy.runtime.activation_statistics import Watched, activation_moments
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.selection import activation_criteria as criteria
from lacoot_deploy.selection.names import activation_criterion


def phi(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def normed(scale, shift, *, activation="Relu", skip=False):
    """conv -> batch norm (-> + x) -> activation -> 1x1 conv."""
    g = GraphBuilder(seed=1)
    channels = len(scale)
    x = g.input("x", ["N", channels, 6, 6])
    value = g.op("Conv", x, g.normal(channels, channels, 1, 1), g.normal(channels))
    zeros, ones = g.weight(np.zeros(channels)), g.weight(np.ones(channels))
    value = g.op("BatchNormalization", value, g.weight(scale), g.weight(shift), zeros, ones)
    if skip:
        value = g.op("Add", value, x)
    bounds = [g.weight(0.0), g.weight(6.0)] if activation == "Clip" else []
    value = g.op(activation, value, *bounds)
    g.op("Conv", value, g.normal(2, channels, 1, 1), g.normal(2), output="y")
    return g.model({"y": ["N", 2, 6, 6]})


def measured(model, x):
    (activation,) = list_activations(model)
    watched = [Watched("a", activation.input, activation.output, activation.axis)]
    return activation, activation_moments(model, watched, Samples({"x": x}), runtime=Runtime("cpu"))["a"]


def images(channels: int, samples: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 2, (samples, channels, 6, 6)).astype(np.float32)


def test_off_has_the_probability_that_the_normalisation_says() -> None:
    scale, shift = np.array([1.0, -2.0, 0.5, 0.0]), np.array([1.0, -1.0, 0.0, -3.0])
    off, inside, top = criteria.piece_shares(shift, np.abs(scale), 0.0, None)
    np.testing.assert_allclose(off, [phi(-1.0), phi(0.5), 0.5, 1.0])
    np.testing.assert_allclose(off + inside, 1.0)
    assert not top.any()


def test_the_upper_clip_of_relu6_is_minded() -> None:
    """A channel around 10 is always clipped: it is the constant 6, not the identity."""
    top = criteria.piece_shares(np.array([10.0]), np.array([1.0]), 0.0, 6.0)[2]
    assert top[0] == pytest.approx(1 - phi(-4.0))
    model = normed(np.full(3, 0.1), np.array([10.0, 3.0, -5.0]), activation="Clip")
    x = images(3)
    activation, moments = measured(model, x)
    assert (activation.low, activation.high) == (0.0, 6.0)
    normal = criteria.normal_of(activation, moments, ActivationParameters(model))
    slope, intercept = criteria.pieces(activation, *normal)
    np.testing.assert_array_equal(slope, [0, 1, 0])
    np.testing.assert_array_equal(intercept, [6, 0, 0])
    linear = merge_linear(linearise(model, [Linearisation(activation, slope, intercept)])).model
    np.testing.assert_allclose(run(linear, {"x": x})[0], run(model, {"x": x})[0], rtol=1e-4, atol=1e-4)
    assert criteria.gaussian(activation, *normal) < 1e-3


def test_a_zeroed_channel_loses_its_bias_too() -> None:
    model = normed(np.ones(4), np.array([3.0, -3.0, 2.0, -2.0]))
    activation, moments = measured(model, images(4))
    slope, intercept = criteria.pieces(
        activation, *criteria.normal_of(activation, moments, ActivationParameters(model))
    )
    np.testing.assert_array_equal(slope, [1, 0, 1, 0])
    assert not intercept.any()
    changed = linearise(model, [Linearisation(activation, slope, intercept)])
    merged = merge_linear(changed, "always").model
    assert [node.op_type for node in merged.graph.node] == ["Conv"]
    x = images(4)
    first, norm, second = model.graph.node[0], model.graph.node[1], model.graph.node[3]
    weights = {t.name: t for t in model.graph.initializer}

    def array(name: str) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(weights[name]).astype(np.float64)

    before = (
        np.einsum("oi,nihw->nohw", array(first.input[1])[..., 0, 0], x) + array(first.input[2])[:, None, None]
    )
    value = (
        before * array(norm.input[1])[:, None, None] / math.sqrt(1 + 1e-5)
        + array(norm.input[2])[:, None, None]
    )
    value[:, [1, 3]] = 0
    expected = np.einsum("oi,nihw->nohw", array(second.input[1])[..., 0, 0], value)
    expected += array(second.input[2])[:, None, None]
    np.testing.assert_allclose(run(merged, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


def test_behind_a_residual_add_the_normalisation_says_nothing() -> None:
    """The skip is missing from beta: taking it would call a channel off that the skip keeps on."""
    scale, shift = np.full(3, 0.1), np.full(3, -1.0)
    plain, summed = normed(scale, shift), normed(scale, shift, skip=True)
    x = images(3) + 4
    activation, moments = measured(plain, x)
    np.testing.assert_allclose(
        criteria.normal_of(activation, moments, ActivationParameters(plain))[0], -1.0, rtol=1e-6
    )
    activation, moments = measured(summed, x)
    assert activation.after_residual
    mean, deviation = criteria.normal_of(activation, moments, ActivationParameters(summed))
    np.testing.assert_allclose(mean, moments.mean)
    np.testing.assert_allclose(deviation, np.sqrt(moments.variance))
    assert (mean > 0).all()


def test_slopes_are_told_from_one_and_other_activations_from_their_best_fit() -> None:
    scores = {}
    for name, options in {
        "near": {"op": "PRelu", "slopes": [0.98, 0.97, 1.01]},
        "leaky": {"op": "LeakyRelu", "alpha": 0.4},
        "relu": {"op": "Relu"},
    }.items():
        g = GraphBuilder()
        op, slopes = options.pop("op"), options.pop("slopes", None)
        value = g.op("Conv", g.input("x", ["N", 3, 6, 6]), g.normal(3, 3, 1, 1))
        operands = [] if slopes is None else [g.weight(np.reshape(slopes, (3, 1, 1)))]
        g.op("Conv", g.op(op, value, *operands, **options), g.normal(2, 3, 1, 1), output="y")
        model = g.model({"y": ["N", 2, 6, 6]})
        activation, moments = measured(model, images(3))
        scores[name] = criteria.slope(activation, moments, ActivationParameters(model))
        residual = moments.residual()
    assert scores["near"] == pytest.approx(0.03, abs=1e-6)
    assert scores["leaky"] == pytest.approx(0.6, abs=1e-6)
    assert scores["relu"] == residual
    assert 0.1 < residual < 1


def test_an_unknown_criterion_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="entropy, gaussian, slope, output"):
        activation_criterion("mswd")
