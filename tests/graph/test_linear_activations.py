"""Finding activations, spelled out or not, and making them linear."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.linear import Code, Linearisation, linearise, list_activations, merge_linear


def two_layers(activation, *, opset: int = 17, hidden: int = 20, **options):
    """x -> Gemm -> activation(g, value) -> Gemm -> y."""
    g = GraphBuilder(opset=opset, **options)
    value = g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, hidden), g.normal(hidden))
    g.op("Gemm", activation(g, value), g.normal(hidden, 4), g.normal(4), output="y")
    return g.model({"y": ["N", 4]})


def gelu(g: GraphBuilder, x: str) -> str:
    inner = g.op("Erf", g.op("Div", x, g.weight(math.sqrt(2))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", inner, g.weight(1.0))), g.weight(0.5))


def gelu_half_first(g: GraphBuilder, x: str) -> str:
    inner = g.op("Erf", g.op("Mul", x, g.weight(1 / math.sqrt(2))))
    return g.op("Mul", g.op("Mul", g.weight(0.5), x), g.op("Add", g.weight(1.0), inner))


def gelu_tanh(g: GraphBuilder, x: str) -> str:
    cubed = g.op("Mul", g.op("Pow", x, g.weight(3.0)), g.weight(0.044715))
    inner = g.op("Tanh", g.op("Mul", g.op("Add", x, cubed), g.weight(math.sqrt(2 / math.pi))))
    return g.op("Mul", g.op("Mul", x, g.weight(0.5)), g.op("Add", inner, g.weight(1.0)))


def silu(g: GraphBuilder, x: str) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


def hard_swish(g: GraphBuilder, x: str) -> str:
    clipped = g.op("Clip", g.op("Add", x, g.weight(3.0)), g.weight(0.0), g.weight(6.0))
    return g.op("Div", g.op("Mul", x, clipped), g.weight(6.0))


def mish(g: GraphBuilder, x: str) -> str:
    return g.op("Mul", x, g.op("Tanh", g.op("Softplus", x)))


def unknown(g: GraphBuilder, x: str) -> str:
    return g.op("Mul", x, g.op("Tanh", x))


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        (gelu, "Gelu"),
        (gelu_half_first, "Gelu"),
        (gelu_tanh, "Gelu (tanh)"),
        (silu, "Silu"),
        (hard_swish, "HardSwish"),
        (mish, "Mish"),
        (unknown, "Elementwise"),
        (lambda g, x: g.op("Relu", x), "Relu"),
        (lambda g, x: g.op("Clip", x, g.weight(0.0), g.weight(6.0)), "Relu6"),
        (lambda g, x: g.op("Clip", x, g.weight(-1.0), g.weight(1.0)), "Clip"),
        (lambda g, x: g.op("LeakyRelu", x, alpha=0.2), "LeakyRelu"),
        (lambda g, x: g.op("PRelu", x, g.weight(np.full(20, 0.3))), "PRelu"),
        *((lambda g, x, op=op: g.op(op, x), op) for op in ("Sigmoid", "Tanh", "Elu", "Selu", "Softplus")),
    ],
)
def test_every_activation_is_found_once_and_its_layers_merge_without_it(activation, kind: str) -> None:
    model = two_layers(activation)
    (found,) = list_activations(model)
    assert found.kind == kind
    assert found.axis == 1
    assert found.merges
    assert (found.before.parameters, found.after.parameters) == (8 * 20 + 20 + 20 * 4 + 4, 8 * 4 + 4)
    assert found.pays
    linear = linearise(model, [Linearisation(found)])
    assert not list_activations(linear)
    merged = merge_linear(linear)
    assert [node.op_type for node in merged.model.graph.node] == ["Gemm"]
    feeds = random_feeds(model)
    w1, b1, w2, b2 = (
        onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.dims and t.name in names(model)
    )
    expected = (feeds["x"] @ w1 + b1) @ w2 + b2
    np.testing.assert_allclose(run(merged.model, feeds)[0], expected, rtol=1e-4, atol=1e-5)


def names(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node if node.op_type == "Gemm" for name in node.input[1:]}


def test_newer_operators_are_known_too() -> None:
    for op, kind, opset in (("Gelu", "Gelu", 20), ("HardSwish", "HardSwish", 14), ("Mish", "Mish", 18)):
        (found,) = list_activations(two_layers(lambda g, x, op=op: g.op(op, x), opset=opset))
        assert found.kind == kind


def test_a_slope_of_one_is_no_activation() -> None:
    assert not list_activations(two_layers(lambda g, x: g.op("PRelu", x, g.weight(np.ones(20)))))


def test_a_gate_is_an_activation_of_its_own_and_does_not_merge() -> None:
    g = GraphBuilder()
    x = g.input("x", ["N", 4, 8, 8])
    gate = g.op("Sigmoid", g.op("Conv", g.op("GlobalAveragePool", x), g.normal(4, 4, 1, 1)))
    g.op("Conv", g.op("Mul", x, gate), g.normal(2, 4, 1, 1), output="y")
    (found,) = list_activations(g.model({"y": ["N", 2, 8, 8]}))
    assert found.kind == "Sigmoid"
    assert not found.merges
    assert found.reason.code == Code.NOT_LINEAR.value


def test_what_stands_in_the_way_is_named() -> None:
    model, blocks = residual_cnn(2)
    first, branch, trailing, *_ = list_activations(model)
    assert first.reason.code == Code.OTHER_READERS.value
    assert branch.reason.code in (Code.BORDER_BIAS.value, Code.BORDER_WINDOW.value)
    assert (branch.first, branch.second) != (None, None)
    assert branch.before is not None
    assert branch.after is not None
    assert trailing.after_residual
    assert trailing.reason.code == Code.RESIDUAL_ADD.value
    assert [a.low for a in (first, branch, trailing)] == [0.0] * 3
    assert len(blocks) == 2


def test_a_norm_counts_as_before_the_activation_only_where_nothing_is_added_in_between() -> None:
    g = GraphBuilder()
    x = g.input("x", ["N", 4, 8, 8])

    def norm(value: str) -> str:
        return g.op("BatchNormalization", value, *[g.weight(np.ones(4)) for _ in range(4)])

    first = norm(g.op("Conv", x, g.normal(4, 4, 3, 3), pads=[1] * 4))
    value = g.op("Relu", first)
    total = g.op("Add", norm(g.op("Conv", value, g.normal(4, 4, 3, 3), pads=[1] * 4)), x)
    value = g.op("Relu", total)
    before = norm(g.op("Add", value, x))
    g.op("Relu", before, output="y")
    plain, summed, normed = list_activations(g.model({"y": ["N", 4, 8, 8]}))
    assert plain.normalised is not None
    assert not plain.after_residual
    assert summed.normalised is None
    assert summed.after_residual
    assert normed.normalised is not None
    assert normed.after_residual


def test_names_come_from_the_exporter_and_are_unique() -> None:
    model, _ = residual_mlp(2)
    for number, node in enumerate(model.graph.node):
        node.name = f"/layer{number // 4}/{node.op_type}"
    found = [activation.name for activation in list_activations(model)]
    assert len(set(found)) == len(found)
    assert found[1].startswith("layer0.relu")
    assert found == [activation.name for activation in list_activations(model)]


def test_an_affine_map_takes_the_place_of_the_activation_and_nothing_is_clipped() -> None:
    random = np.random.default_rng(0)
    model, _ = residual_cnn(1, head=False)
    found = list_activations(model)
    slope, intercept = (random.normal(size=4).astype(np.float32) for _ in range(2))
    last = found[-1]
    changed = linearise(model, [Linearisation(last, slope, intercept)])
    onnx.checker.check_model(changed, full_check=True)
    feeds = random_feeds(model)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.helper.make_tensor_value_info(last.input, onnx.TensorProto.FLOAT, None))
    before = run(shown, feeds, outputs=[last.input])[0]
    expected = before * slope[:, None, None] + intercept[:, None, None]
    np.testing.assert_allclose(run(changed, feeds)[0], expected, rtol=1e-5, atol=1e-5)
    assert (expected < 0).any()


def test_several_go_at_once_and_the_rest_of_the_model_is_untouched() -> None:
    model, _ = residual_mlp(3)
    model.metadata_props.add(key="kept", value="yes")
    found = list_activations(model)
    changed = linearise(model, [Linearisation(a) for a in found])
    assert not list_activations(changed)
    assert list(changed.graph.input) == list(model.graph.input)
    assert list(changed.graph.output) == list(model.graph.output)
    assert changed.metadata_props[0].value == "yes"
    assert len(changed.graph.node) == len(model.graph.node) - len(found)
    assert linearise(model, []) == model


def test_what_does_not_fit_is_refused() -> None:
    model = two_layers(lambda g, x: g.op("Relu", x))
    (found,) = list_activations(model)
    with pytest.raises(UsageError, match="named twice"):
        linearise(model, [Linearisation(found), Linearisation(found)])
    with pytest.raises(InputError, match="3 channels"):
        linearise(model, [Linearisation(found, np.ones(3, np.float32), np.zeros(3, np.float32))])
    gone = linearise(model, [Linearisation(found)])
    with pytest.raises(InputError):
        linearise(gone, [Linearisation(found)])


def test_a_shift_before_a_padded_convolution_is_foreseen() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 4, 8, 8]), g.normal(4, 4, 1, 1))
    value = g.op("Add", g.op("Relu", value), g.normal(4, 1, 1))
    g.op("Conv", value, g.normal(4, 4, 3, 3), pads=[1] * 4, output="y")
    (found,) = list_activations(g.model({"y": ["N", 4, 8, 8]}))
    assert found.reason.code == Code.BORDER_BIAS.value
