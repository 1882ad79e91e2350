"""Files that are quantised already: blocks between pairs that round go, and take their scales with them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, random_feeds, run

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

quantization = pytest.importorskip("onnxruntime.quantization")


def conv(g: GraphBuilder, x: str, into: int, out: int, size: int = 3, stride: int = 1, group: int = 1) -> str:
    weight = g.normal(out, into // group, size, size)
    return g.op("Conv", x, weight, g.normal(out), pads=[size // 2] * 4, strides=[stride] * 2, group=group)


def head(g: GraphBuilder, x: str) -> onnx.ModelProto:
    g.op("MatMul", g.op("Flatten", g.op("GlobalAveragePool", x)), g.normal(8, 4), output="y")
    return g.model({"y": ["N", 4]})


def resnet(*, activation: bool = True) -> onnx.ModelProto:
    g = GraphBuilder()
    x = g.op("Relu", conv(g, g.input("x", ["N", 3, 12, 12]), 3, 8))
    for stride in (1, 2, 1):
        branch = conv(g, g.op("Relu", conv(g, x, 8, 8, stride=stride)), 8, 8)
        skip = x if stride == 1 else conv(g, x, 8, 8, 1, 2)
        x = g.op("Add", branch, skip)
        x = g.op("Relu", x) if activation else x
    return head(g, x)


def mobilenet() -> onnx.ModelProto:
    g = GraphBuilder()
    limits = g.weight(0.0), g.weight(6.0)
    x = conv(g, g.input("x", ["N", 3, 12, 12]), 3, 8)
    for _ in range(2):
        wide = g.op("Clip", conv(g, x, 8, 16, 1), *limits)
        deep = g.op("Clip", conv(g, wide, 16, 16, group=16), *limits)
        x = g.op("Add", x, conv(g, deep, 16, 8, 1))
    return head(g, x)


def encoder() -> onnx.ModelProto:
    g = GraphBuilder()
    x = g.input("x", ["N", 5, 8])
    for _ in range(2):
        for last in ("Tanh", "Relu"):
            normed = g.op("LayerNormalization", x, g.normal(8), g.normal(8))
            x = g.op(
                "Add", x, g.op("MatMul", g.op(last, g.op("MatMul", normed, g.normal(8, 16))), g.normal(16, 8))
            )
    g.op("ReduceMean", x, axes=[1], keepdims=0, output="y")
    return g.model({"y": ["N", 8]})


class Samples:
    """What static quantisation is calibrated on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._feeds = iter([random_feeds(model, batch=4, seed=seed) for seed in range(3)])

    def get_next(self):
        return next(self._feeds, None)


LAYOUTS = {
    "unsigned": {"activation_type": "QUInt8"},
    "signed": {"activation_type": "QInt8"},
    "per tensor": {"activation_type": "QUInt8", "per_channel": False},
    "symmetric": {"activation_type": "QInt8", "extra_options": {"ActivationSymmetric": True}},
    "a pair for each reader": {"activation_type": "QUInt8", "extra_options": {"DedicatedQDQPair": True}},
}
NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": resnet,
    "resnet without activation": lambda: resnet(activation=False),
    "mobilenet": mobilenet,
    "encoder": encoder,
}


def quantised(model: onnx.ModelProto, folder, layout: dict, kind: str = "QDQ") -> onnx.ModelProto:
    logging.disable(logging.WARNING)
    onnx.save(model, folder / "float.onnx")
    options = {"per_channel": True} | layout
    options["activation_type"] = getattr(quantization.QuantType, options["activation_type"])
    quantization.quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Samples(model),
        quant_format=getattr(quantization.QuantFormat, kind),
        weight_type=quantization.QuantType.QInt8,
        **options,
    )
    logging.disable(logging.NOTSET)
    return onnx.load(folder / "int8.onnx")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("net", NETS)
def test_blocks_between_rounding_pairs_are_those_of_the_float_network_and_go_as_by_hand(
    net, layout, tmp_path
):
    plain = NETS[net]()
    model = quantised(plain, tmp_path, LAYOUTS[layout])
    floats, blocks = find_blocks(plain), find_blocks(model)
    assert [block.forms for block in blocks] == [block.forms for block in floats]
    feeds = random_feeds(plain, batch=8, seed=1)
    for block in blocks:
        for form in block.forms:
            cut = collapse_blocks(model, [Cut(block, form)])
            onnx.checker.check_model(cut, full_check=True)
            by_hand = cut_by_hand(model, [(block, form)])
            np.testing.assert_array_equal(run(cut, feeds)[0], run(by_hand, feeds)[0])
        if layout != "a pair for each reader" and Form.BYPASS in block.forms:
            # The pair that rounded the block's output goes with it: the value that stays keeps its own scale.
            cut = collapse_blocks(model, [Cut(block, Form.BYPASS)])
            left = [
                sum(node.op_type == "QuantizeLinear" for node in each.graph.node) for each in (model, cut)
            ]
            assert left[0] - left[1] >= 2


@pytest.mark.parametrize("net", ["resnet", "mobilenet"])
def test_operators_on_integers_are_refused_with_what_to_do(net, tmp_path):
    blocks = find_blocks(quantised(NETS[net](), tmp_path, LAYOUTS["unsigned"], "QOperator"))
    assert blocks
    assert {block.reason.code for block in blocks} == {"quantized"}
    assert all("collapse before quantising" in block.reason.text for block in blocks)


@pytest.mark.parametrize("zero", [0, 128])
def test_a_relu_that_rounding_stands_for_is_kept_where_the_input_may_be_negative(zero):
    """The smallest integer of the output is zero, so rounding clips; the input's is not."""
    g = GraphBuilder()

    def rounded(value: str, zero: int) -> str:
        pair = g.weight(0.05), g.weight(zero, dtype=np.uint8)
        return g.op("DequantizeLinear", g.op("QuantizeLinear", value, *pair), *pair)

    x = rounded(conv(g, g.input("x", ["N", 3, 6, 6]), 3, 8), zero)
    branch = rounded(conv(g, rounded(g.op("Relu", conv(g, x, 8, 8)), 0), 8, 8), 128)
    g.op("Neg", rounded(g.op("Add", branch, x), 0), output="y")
    model = g.model({"y": ["N", 8, 6, 6]})
    (block,) = find_blocks(model)
    assert (block.forms, block.keep_relu) == ((Form.BYPASS, Form.SHORTCUT), zero == 128)
    feeds = random_feeds(model)
    cut = collapse_blocks(model, [Cut(block, Form.BYPASS)])
    by_hand = cut_by_hand(model, [(block, Form.BYPASS)])
    np.testing.assert_array_equal(run(cut, feeds)[0], run(by_hand, feeds)[0])
    assert run(cut, feeds)[0].max() <= 0
