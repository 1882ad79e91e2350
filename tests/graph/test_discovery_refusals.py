"""What looks like a residual block and is not: refused with a reason, or not even named."""

import numpy as np
import onnx
import onnx.inliner
import pytest
from builders import GraphBuilder, residual_cnn
from onnx import TensorProto, helper
from test_discovery_units import branch, conv, explained, image, multi, only

from lacoot_deploy.graph.discovery import find_blocks, survey
from lacoot_deploy.graph.model.blocks import Form


def linear(g: GraphBuilder, x: str, into: int = 8, out: int = 8) -> str:
    return g.op("MatMul", x, g.normal(into, out))


def mlp(g: GraphBuilder, x: str) -> str:
    return linear(g, g.op("Relu", linear(g, x)))


def reasons(model: onnx.ModelProto) -> list[str]:
    blocks = find_blocks(model)
    assert all(bool(block.reason) != block.collapsible for block in blocks)
    for block in blocks:
        explained(model, block)
    return [block.reason.code for block in blocks if block.reason]


class TestRefused:
    def test_inside_of_the_branch_read_elsewhere(self):
        g = GraphBuilder()
        x = image(g)
        inner = g.op("Relu", conv(g, x, 4, 4), output="inside")
        g.op("Add", x, conv(g, inner, 4, 4), output="y")
        g.op("GlobalAveragePool", inner, output="z")
        block = only(g.model({"y": None, "z": None}))
        assert (block.reason.code, block.reason.values, block.forms) == ("interior_read", ("inside",), ())

    def test_inside_of_the_branch_is_a_result_of_the_model(self):
        g = GraphBuilder()
        x = image(g)
        inner = g.op("Relu", conv(g, x, 4, 4), output="inside")
        g.op("Add", x, conv(g, inner, 4, 4), output="y")
        assert only(g.model({"y": None, "inside": None})).reason.code == "interior_read"

    def test_inside_of_the_branch_read_in_a_nested_graph(self):
        g = GraphBuilder()
        x = image(g)
        inner = g.op("Relu", conv(g, x, 4, 4), output="inside")
        g.op("Add", x, conv(g, inner, 4, 4), output="y")
        body = helper.make_graph(
            [helper.make_node("Neg", ["inside"], ["n"])],
            "b",
            [],
            [helper.make_tensor_value_info("n", 1, None)],
        )
        g.op("If", g.weight(True, dtype=bool), output="z", then_branch=body, else_branch=body)
        assert only(g.model({"y": None, "z": None})).reason.code == "interior_read"

    def test_shape_of_an_inner_value_does_not_count_as_reading_it(self):
        g = GraphBuilder()
        x = image(g)
        inner = conv(g, x, 4, 4)
        flat = g.op("Reshape", g.op("Relu", inner), g.weight([0, -1], dtype=np.int64))
        back = g.op("Reshape", flat, g.op("Shape", inner))
        g.op("Add", x, conv(g, back, 4, 4), output="y")
        assert only(g.model({"y": None})).collapsible

    def test_feature_pyramid(self):
        g = GraphBuilder()
        fine = g.op("Relu", conv(g, image(g), 4, 4))
        coarse = g.op("Relu", conv(g, fine, 8, 4, 3, 2))
        top = conv(g, coarse, 4, 8, 1)
        up = g.op("Resize", top, "", g.weight([1, 1, 2, 2]))
        g.op("Add", conv(g, fine, 4, 4, 1), up, output="y")
        assert only(g.model({"y": None})).reason.code == "long_skip"

    def test_long_skip_of_a_unet(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        low = g.op("Relu", conv(g, x, 8, 4, 3, 2))
        up = g.op("ConvTranspose", low, g.normal(8, 4, 2, 2), strides=[2, 2])
        g.op("Add", up, x, output="y")
        assert only(g.model({"y": None})).reason.code == "long_skip"

    def test_skip_over_other_blocks(self):
        g = GraphBuilder()
        first = x = conv(g, image(g), 4, 4)
        for _ in range(2):
            x = g.op("Add", x, branch(g, x))
        g.op("Add", first, conv(g, x, 4, 4), output="y")
        codes = [block.reason.code if block.reason else None for block in find_blocks(g.model({"y": None}))]
        assert codes == [None, None, "long_skip"]

    def test_sum_of_two_branches(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        g.op("Add", g.op("Relu", conv(g, x, 4, 4)), g.op("Relu", conv(g, x, 4, 4, 5)), output="y")
        block = only(g.model({"y": None}))
        assert (block.reason.code, block.input) == ("no_skip", x)

    def test_two_projections_have_no_branch_to_drop(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        g.op("Add", conv(g, x, 4, 4, 1), conv(g, x, 4, 4, 3), output="y")
        assert reasons(g.model({"y": None})) == ["no_skip"]

    def test_operand_that_does_not_come_from_the_input(self):
        g = GraphBuilder()
        x, other = image(g), g.input("other", ["N", 4, 8, 8])
        g.op("Sum", x, branch(g, x), other, output="y")
        block = only(g.model({"y": None}))
        assert (block.reason.code, block.reason.values) == ("foreign_operand", ("other",))

    def test_a_block_between_pairs_that_round_is_none_of_these(self):
        g = GraphBuilder()
        scale, zero = g.weight(0.1), g.weight(0, dtype=np.uint8)

        def quantise(value: str) -> str:
            return g.op("DequantizeLinear", g.op("QuantizeLinear", value, scale, zero), scale, zero)

        x = quantise(g.op("Relu", image(g)))
        inner = quantise(conv(g, g.op("Relu", quantise(conv(g, x, 4, 4))), 4, 4))
        g.op("Relu", g.op("Add", inner, x), output="y")
        block = only(g.model({"y": None}))
        assert block.forms == (Form.BYPASS, Form.SHORTCUT)
        assert (block.input, block.keep_relu) == (x, False)

    def test_quantised_sum(self):
        g = GraphBuilder()
        s, z = g.weight(0.1), g.weight(0, dtype=np.uint8)
        x = g.op("QuantizeLinear", image(g), s, z)
        weight = g.weight(np.ones((4, 4, 1, 1)), dtype=np.uint8)
        inner = g.op("QLinearConv", x, s, z, weight, s, z, s, z)
        total = g.op("QLinearAdd", inner, s, z, x, s, z, s, z, domain="com.microsoft")
        g.op("DequantizeLinear", total, s, z, output="y")
        block = only(g.model({"y": None}, infer=False))
        assert block.reason.code == "quantized"
        assert "collapse before quantising" in block.reason.text

    def test_shapes_that_nothing_tells(self):
        model = mystery()
        block = only(model)
        assert block.reason.code == "shape_unknown"
        assert set(block.reason.values) <= set(survey(model).undecided)

    def test_measured_shapes_settle_it(self):
        model = mystery()
        shapes = dict.fromkeys(survey(model).undecided, (2, 4, 8, 8))
        (block,) = find_blocks(model, shapes=shapes)
        assert block.forms == (Form.BYPASS, Form.SHORTCUT)
        assert block.shape == (2, 4, 8, 8)

    def test_measured_shapes_that_differ(self):
        model = mystery()
        shapes = dict.fromkeys(survey(model).undecided, (2, 4, 8, 8))
        # The skip is what broadcasts: no residual sum at all.
        assert find_blocks(model, shapes={**shapes, "skip": (2, 4, 1, 1)}) == ()


def mystery() -> onnx.ModelProto:
    """A block behind an operator that no shape inference knows."""
    g = GraphBuilder()
    x = g.op("Mystery", image(g), domain="org.example", output="skip")
    inner = g.op("Mystery", branch(g, x), domain="org.example", output="inner")
    g.op("Neg", g.op("Add", x, inner, output="sum"), output="y")
    return g.model({"y": None}, infer=False)


class TestNotEvenNamed:
    """Sums that are no merge of a skip path and a branch."""

    def names(self, g: GraphBuilder, **outputs: None) -> list[str]:
        return [block.name for block in find_blocks(g.model(outputs))]

    def test_bias(self):
        g = GraphBuilder()
        g.op("Add", linear(g, g.input("x", ["N", 8])), g.normal(8), output="y")
        assert self.names(g, y=None) == []

    def test_embeddings(self):
        g = GraphBuilder()
        tokens, kinds = (g.input(name, ["N", 5], TensorProto.INT64) for name in ("tokens", "kinds"))
        words = g.op("Gather", g.normal(50, 8), tokens)
        total = g.op("Add", g.op("Add", words, g.op("Gather", g.normal(2, 8), kinds)), g.normal(1, 5, 8))
        linear(g, total)
        g.op("Neg", total, output="y")
        assert self.names(g, y=None) == []

    def test_gelu_by_tanh(self):
        g = GraphBuilder()
        x = linear(g, g.input("x", ["N", 8]))
        cube = g.op("Mul", g.weight(0.044715), g.op("Pow", x, g.weight(3.0)))
        inner = g.op("Tanh", g.op("Mul", g.op("Add", x, cube), g.weight(0.79788)))
        g.op("Mul", g.op("Mul", x, g.weight(0.5)), g.op("Add", inner, g.weight(1.0)), output="y")
        assert self.names(g, y=None) == []

    def test_rotary_position(self):
        g = GraphBuilder()
        q = linear(g, g.input("x", ["N", 5, 8]))
        a, b = multi(g, "Split", [q, g.weight([4, 4], dtype=np.int64)], ["a", "b"], axis=2)
        turned = g.op("Concat", g.op("Neg", b), a, axis=2)
        g.op("Add", g.op("Mul", q, g.normal(1, 5, 8)), g.op("Mul", turned, g.normal(1, 5, 8)), output="y")
        assert self.names(g, y=None) == []

    def test_attention_mask_and_relative_scores(self):
        g = GraphBuilder()
        x, mask = g.input("x", ["N", 5, 8]), g.input("mask", ["N", 5, 5])
        q, k = linear(g, x), g.op("Transpose", linear(g, x), perm=[0, 2, 1])
        scores = g.op("Add", g.op("MatMul", q, k), g.op("MatMul", q, g.normal(8, 5)))
        weights = g.op("Softmax", g.op("Add", g.op("Div", scores, g.weight(2.8)), mask))
        g.op("MatMul", weights, linear(g, x), output="y")
        assert self.names(g, y=None) == []

    def test_modulation(self):
        g = GraphBuilder()
        x, c = g.input("x", ["N", 5, 8]), g.input("c", ["N", 1, 8])
        shift, scale = multi(
            g, "Split", [linear(g, c, 8, 16), g.weight([8, 8], dtype=np.int64)], ["shift", "scale"], axis=2
        )
        scaled = g.op("Mul", linear(g, x), g.op("Add", scale, g.weight(1.0)))
        g.op("Add", scaled, shift, output="y")
        assert self.names(g, y=None) == []

    def test_dense_concatenation(self):
        g = GraphBuilder()
        x = image(g)
        g.op("Concat", x, g.op("Relu", conv(g, x, 4, 4)), axis=1, output="y")
        assert self.names(g, y=None) == []

    def test_detection_head(self):
        """Corners from distances to the cells' centres, the boxes' middles from corners, and summed class scores."""
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        distances = g.op("Reshape", conv(g, x, 4, 4, 1), g.weight([-1, 4, 64], dtype=np.int64))
        low = g.op("Slice", distances, *(g.weight([n], dtype=np.int64) for n in (0, 2, 1)))
        high = g.op("Slice", distances, *(g.weight([n], dtype=np.int64) for n in (2, 4, 1)))
        centres = g.normal(1, 2, 64)
        corner, other = g.op("Sub", centres, low), g.op("Add", high, centres)
        middle = g.op("Div", g.op("Add", corner, other), g.weight(2.0))
        g.op("Concat", g.op("Mul", middle, g.weight(8.0)), g.op("Sub", other, corner), axis=1, output="y")
        g.op("Add", g.op("Sigmoid", conv(g, x, 4, 4)), g.op("Sigmoid", conv(g, x, 4, 4, 1)), output="z")
        model = g.model({"y": None, "z": None})
        assert reasons(model) == ["no_skip"]
        assert [block.output for block in find_blocks(model)] == ["z"]

    def test_ancestor_by_shape_arithmetic_only(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g, size="S"))
        size = g.op("Shape", x)
        other = g.op("Reshape", conv(g, g.input("other", ["N", 4, "S", "S"]), 4, 4), size)
        g.op("Add", x, g.op("Relu", other), output="y")
        assert self.names(g, y=None) == []

    def test_gated_recurrence_unrolled(self):
        g = GraphBuilder()
        x, h = g.input("x", ["N", 8]), g.input("h", ["N", 8])
        gate = g.op("Sigmoid", g.op("Add", linear(g, x), linear(g, h)))
        fresh = g.op("Tanh", linear(g, x))
        kept, new = g.op("Mul", gate, h), g.op("Mul", g.op("Sub", g.weight(1.0), gate), fresh)
        g.op("Add", kept, new, output="y")
        assert all(not block.collapsible for block in find_blocks(g.model({"y": None})))


class TestNestedGraphs:
    def body(
        self, *, inputs: list[str], shape: list[object], name: str = "body", x: str = "h"
    ) -> onnx.GraphProto:
        g = GraphBuilder(seed=3)
        value = mlp(g, x)
        g.op("Add", x, value, output="next")
        graph = g.graph({"next": shape})
        graph.name = name
        for entry in inputs:
            kind = {"i": TensorProto.INT64, "cond": TensorProto.BOOL}.get(entry, TensorProto.FLOAT)
            graph.input.append(
                helper.make_tensor_value_info(entry, kind, [] if entry in ("i", "cond") else shape)
            )
        return graph

    def test_block_in_a_branch_of_an_if(self):
        g = GraphBuilder()
        x = g.op("Relu", g.input("x", ["N", 8]), output="h")
        other = helper.make_graph(
            [helper.make_node("Neg", ["h"], ["n"])],
            "e",
            [],
            [helper.make_tensor_value_info("n", 1, ["N", 8])],
        )
        body = self.body(inputs=[], shape=["N", 8], x=x)
        flag = g.input("flag", [], TensorProto.BOOL)
        g.op("If", flag, output="y", then_branch=body, else_branch=other)
        (block,) = find_blocks(g.model({"y": ["N", 8]}))
        assert block.scope == ("If_y/then_branch",)
        assert (block.input, block.output, block.forms) == ("h", "next", (Form.BYPASS, Form.SHORTCUT))

    def test_state_of_a_loop_is_no_block(self):
        g = GraphBuilder()
        body = self.body(inputs=["i", "cond", "h"], shape=["N", 8])
        body.node.insert(0, helper.make_node("Identity", ["cond"], ["go"]))
        body.output.insert(0, helper.make_tensor_value_info("go", TensorProto.BOOL, []))
        x = g.input("x", ["N", 8])
        g.op("Loop", g.weight(3, dtype=np.int64), g.weight(True, dtype=bool), x, output="y", body=body)
        (block,) = find_blocks(g.model({"y": ["N", 8]}, infer=False))
        assert (block.reason.code, block.scope) == ("recurrent_state", ("Loop_y/body",))

    def test_block_on_what_a_scan_reads_is_one(self):
        g = GraphBuilder()
        body = self.body(inputs=["h"], shape=["N", 8])
        x = g.input("x", [3, "N", 8])
        g.op("Scan", x, output="y", body=body, num_scan_inputs=1)
        (block,) = find_blocks(g.model({"y": [3, "N", 8]}, infer=False))
        assert block.collapsible


class TestFunctions:
    def function(self, name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
        return helper.make_function("local", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])

    def model(self, function: onnx.FunctionProto) -> onnx.ModelProto:
        g = GraphBuilder()
        x = g.op("Relu", g.input("x", ["N", 8]))
        g.op("Add", x, g.op(function.name, x, domain="local"), output="y")
        model = g.model({"y": ["N", 8]}, infer=False)
        model.functions.append(function)
        return model

    def test_branch_that_is_a_call(self):
        square = [helper.make_node("MatMul", ["a", "a"], ["b"])]
        assert only(self.model(self.function("Work", square))).collapsible

    def test_call_that_does_no_work(self):
        assert (
            find_blocks(self.model(self.function("Twice", [helper.make_node("Add", ["a", "a"], ["b"])])))
            == ()
        )

    def test_block_inside_a_function_is_refused_until_it_is_inlined(self):
        nodes = [
            helper.make_node("MatMul", ["a", "a"], ["m"]),
            helper.make_node("Relu", ["m"], ["r"]),
            helper.make_node("Add", ["a", "r"], ["b"]),
        ]
        g = GraphBuilder()
        g.op("Layer", g.op("Relu", g.input("x", [8, 8])), domain="local", output="y")
        model = g.model({"y": [8, 8]}, infer=False)
        model.functions.append(self.function("Layer", nodes))
        block = only(model)
        assert (block.reason.code, block.scope) == ("in_function", ("local:Layer",))
        assert only(onnx.inliner.inline_local_functions(model)).collapsible


def test_quantised_weights_alone_are_no_reason():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]))
    weight = g.op(
        "DequantizeLinear",
        g.weight(np.ones((8, 8)), dtype=np.uint8),
        g.weight(0.1),
        g.weight(0, dtype=np.uint8),
    )
    g.op("Add", x, g.op("MatMul", g.op("Relu", linear(g, x)), weight), output="y")
    assert only(g.model({"y": None})).collapsible


@pytest.mark.parametrize("size", ["H", None])
def test_open_height_and_width_are_decided_symbolically(size):
    model, _ = residual_cnn(blocks=2)
    for axis in (2, 3):
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        dim.Clear()
        if size:
            dim.dim_param = f"{size}{axis}"
    del model.graph.value_info[:]
    assert all(block.forms == (Form.BYPASS, Form.SHORTCUT) for block in find_blocks(model))
    assert survey(model).undecided == ()
