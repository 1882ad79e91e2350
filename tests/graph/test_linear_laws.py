"""Laws of merging on random networks: outputs stay, the signature stays, merging twice is merging once."""

from __future__ import annotations

import numpy as np
import onnx
from builders import GraphBuilder, run
from hypothesis import given, settings
from hypothesis import strategies as st

from lacoot_deploy.graph.linear import Linearisation, linearise, list_activations, merge_linear

IMAGE_STEPS = [
    "conv",
    "depthwise",
    "pointwise",
    "norm",
    "scale",
    "shift",
    "relu",
    "identity",
    "residual",
    "fork",
]
FEATURE_STEPS = ["gemm", "matmul", "scale", "shift", "relu", "dropout", "fork", "gelu"]


class Net:
    """Grows a random network step by step; `open` keeps values that must be read or given out at the end."""

    def __init__(self, seed: int) -> None:
        self.g = GraphBuilder(seed=seed, opset=17)
        self.value = self.g.input("x", ["N", 3, 20, 19])
        self.channels, self.image = 3, True
        self.outputs: dict[str, None] = {}
        self.kept: tuple[str, int] | None = None

    def step(self, kind: str, number: int) -> None:
        g, c = self.g, self.channels
        if kind == "conv":
            self.conv(2 + number % 3, kernel=1 + number % 3, pad=number % 2)
        elif kind == "pointwise":
            self.conv(1 + number % 6, kernel=1, pad=0)
        elif kind == "depthwise":
            self.value = g.op(
                "Conv", self.value, g.normal(c, 1, 2, 2), g.normal(c), group=c, pads=[1, 0, 0, 1]
            )
        elif kind == "norm":
            positive = [g.weight(g.random.uniform(0.5, 1.5, c)) for _ in range(2)]
            operands = [positive[0], g.normal(c), g.normal(c), positive[1]]
            self.value = g.op("BatchNormalization", self.value, *operands)
        elif kind in ("scale", "shift"):
            shape = ((c, 1, 1) if self.image else (c,)) if number % 2 else ()
            constant = g.weight(g.random.uniform(0.5, 1.5, shape))
            ops = ("Mul", "Div") if kind == "scale" else ("Add", "Sub")
            self.value = g.op(ops[number % 2], self.value, constant)
        elif kind == "residual" and self.kept is not None and self.kept[1] == c:
            branch = g.op("Conv", self.value, g.normal(c, c, 1, 1))
            self.value = g.op("Add", branch, self.value)
        elif kind == "fork":
            self.outputs[self.value] = None
        elif kind in ("gemm", "matmul"):
            self.connected(kind, 2 + number % 5)
        elif kind in ("relu", "identity", "dropout"):
            self.value = g.op(
                {"relu": "Relu", "identity": "Identity", "dropout": "Dropout"}[kind], self.value
            )
        elif kind == "gelu":
            self.value = g.op("Mul", self.value, g.op("Sigmoid", self.value))
        if self.image:
            self.kept = (self.value, self.channels)

    def conv(self, outputs: int, *, kernel: int, pad: int) -> None:
        g = self.g
        bias = [g.normal(outputs)] if outputs % 2 else []
        weight = g.normal(outputs, self.channels, kernel, kernel)
        self.value = g.op("Conv", self.value, weight, *bias, pads=[pad] * 4)
        self.channels = outputs

    def connected(self, kind: str, outputs: int) -> None:
        g = self.g
        if kind == "gemm":
            self.value = g.op(
                "Gemm", self.value, g.normal(self.channels, outputs), g.normal(outputs), alpha=0.5
            )
        else:
            self.value = g.op("MatMul", self.value, g.normal(self.channels, outputs))
        self.channels = outputs

    def flatten(self, pooled: bool) -> None:
        g = self.g
        value = (
            g.op("GlobalAveragePool", self.value)
            if pooled
            else g.op("MaxPool", self.value, kernel_shape=[2, 2])
        )
        if not pooled:
            value = g.op("GlobalAveragePool", value)
        self.value, self.image = g.op("Flatten", value), False

    def model(self) -> onnx.ModelProto:
        y = self.g.op("Identity", self.value, output="y")
        names = [y, *(name for name in self.outputs if name != "x")]
        return self.g.model(dict.fromkeys(names))


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    net = Net(draw(st.integers(0, 2**16)))
    for kind in draw(st.lists(st.sampled_from(IMAGE_STEPS), min_size=1, max_size=8)):
        net.step(kind, draw(st.integers(0, 5)))
    net.flatten(draw(st.booleans()))
    for kind in draw(st.lists(st.sampled_from(FEATURE_STEPS), max_size=6)):
        net.step(kind, draw(st.integers(0, 5)))
    return net.model()


def images() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(2, 3, 20, 19)).astype(np.float32)}


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    feeds = images()
    for before, after in zip(run(a, feeds), run(b, feeds), strict=True):
        assert before.shape == after.shape
        assert np.abs(before - after).max() <= 2e-5 * max(np.abs(before).max(), 1e-3)


@given(networks(), st.sampled_from(["always", "cheaper"]))
@settings(max_examples=60, deadline=None)
def test_merging_keeps_outputs_and_signature_and_comes_to_an_end(model: onnx.ModelProto, mode) -> None:
    result = merge_linear(model, mode)
    onnx.checker.check_model(result.model)
    assert list(result.model.graph.output) == list(model.graph.output)
    assert list(result.model.graph.input) == list(model.graph.input)
    assert_same(model, result.model)
    assert len(result.model.graph.node) <= len(model.graph.node)
    again = merge_linear(result.model, mode)
    assert again.model == result.model
    used = {name for node in result.model.graph.node for name in node.input}
    assert {tensor.name for tensor in result.model.graph.initializer} <= used


@given(networks())
@settings(max_examples=40, deadline=None)
def test_what_is_foreseen_for_an_activation_comes_true(model: onnx.ModelProto) -> None:
    # Of a model in which nothing is left to merge: folding a shift before the first layer would give it a bias.
    model = merge_linear(model, "always").model
    for activation in list_activations(model):
        linear = linearise(model, [Linearisation(activation)])
        onnx.checker.check_model(linear)
        result = merge_linear(linear, "always")
        assert_same(linear, result.model)
        if activation.merges:
            pairs = {(record.first, record.second) for record in result.merges}
            refused = {(refusal.first, refusal.second) for refusal in result.refused}
            gone = {record.second for record in result.merges} | {record.first for record in result.merges}
            assert (activation.first, activation.second) not in refused
            assert (activation.first, activation.second) in pairs or activation.first in gone
