"""Residual units in graphs built by hand: which form, which ends, what goes with them."""

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, residual_cnn, residual_mlp
from onnx import TensorProto, helper

from lacoot_deploy.graph.discovery import find_blocks, unit_block
from lacoot_deploy.graph.model.blocks import Block, Form

BOTH = (Form.BYPASS, Form.SHORTCUT)


def conv(
    g: GraphBuilder, x: str, out: int, into: int, kernel: int = 3, stride: int = 1, **options: object
) -> str:
    pad = options.pop("pad", kernel // 2)
    return g.op(
        "Conv",
        x,
        g.normal(out, into, kernel, kernel),
        kernel_shape=[kernel] * 2,
        pads=[pad] * 4,
        strides=[stride] * 2,
    )


def branch(g: GraphBuilder, x: str, width: int = 4) -> str:
    return conv(g, g.op("Relu", conv(g, x, width, width)), width, width)


def multi(
    g: GraphBuilder, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: object
):
    g.nodes.append(
        helper.make_node(kind, inputs, outputs, name=f"{kind}_{outputs[0]}", domain=domain, **attributes)
    )
    g.domains.add(domain)
    return outputs


def image(g: GraphBuilder, width: int = 4, size: int | str = 8) -> str:
    return g.input("x", ["N", width, size, size])


def only(model: onnx.ModelProto) -> Block:
    (block,) = find_blocks(model)
    explained(model, block)
    return block


def explained(model: onnx.ModelProto, block: Block) -> None:
    """A refused block says why: a code, a sentence, and values that are in the model."""
    if block.reason is None:
        return
    graphs = [
        model.graph,
        *(attr.g for node in model.graph.node for attr in node.attribute if attr.HasField("g")),
    ]
    known = {name for graph in graphs for node in graph.node for name in (*node.input, *node.output)}
    known |= {name for function in model.functions for node in function.node for name in node.output}
    assert block.reason.code.replace("_", "").isalpha()
    assert block.reason.text[0].isupper()
    assert block.reason.text.endswith(".")
    assert block.reason.values
    assert set(block.reason.values) <= known


@pytest.mark.parametrize("make", [residual_mlp, residual_cnn])
@pytest.mark.parametrize("relu", [True, False])
def test_chain_of_blocks_is_found_as_written_down(make, relu):
    model, written = make(relu=relu)
    found = find_blocks(model)
    assert [block.collapsible for block in found] == [True] * len(written)
    for block, expected in zip(found, written, strict=True):
        assert (block.input, block.output, block.forms) == (expected.input, expected.output, expected.forms)
        assert (block.shape, block.dtype, block.keep_relu) == (
            expected.shape,
            expected.dtype,
            expected.keep_relu,
        )
        (unit,) = block.units
        (wanted,) = expected.units
        assert (unit.input, unit.skip, unit.branch) == (wanted.input, wanted.skip, wanted.branch)
        assert (unit.merge, unit.merge_op, unit.output) == (wanted.merge, "Add", wanted.output)
        assert unit.trailing == wanted.trailing


def test_removal_names_the_nodes_and_counts_what_they_cost():
    model, _ = residual_cnn(blocks=2, channels=4, size=8)
    first = find_blocks(model)[0]
    by_output = {node.output[0]: node.name for node in model.graph.node}
    assert by_output["layer0.out"] in first.nodes
    assert len(first.nodes) == 5
    assert first.parameters == 2 * (4 * 4 * 9 + 4)
    assert first.macs == 2 * 8 * 8 * 4 * 4 * 9


class TestActivationAfterTheMerge:
    def test_relu_is_kept_where_the_input_may_be_negative(self):
        g = GraphBuilder()
        x = image(g)
        g.op("Relu", g.op("Add", branch(g, x), x), output="y")
        assert only(g.model({"y": None})).keep_relu

    @pytest.mark.parametrize("maker", ["Relu", "Sigmoid", "Abs", "Exp", "Softplus"])
    def test_relu_goes_where_the_input_is_known_not_to_be(self, maker):
        g = GraphBuilder()
        x = g.op(maker, image(g))
        g.op("Relu", g.op("Add", branch(g, x), x), output="y")
        assert not only(g.model({"y": None})).keep_relu

    def test_sign_is_known_through_pooling_reshaping_and_sums(self):
        g = GraphBuilder()
        a = g.op("Relu", image(g))
        a = g.op("MaxPool", a, kernel_shape=[3, 3], pads=[1] * 4)
        a = g.op("Add", a, g.op("Sigmoid", a))
        x = g.op("Reshape", a, g.weight([0, 4, 8, 8], dtype=np.int64))
        g.op("Relu", g.op("Add", branch(g, x), x), output="y")
        assert not find_blocks(g.model({"y": None}))[-1].keep_relu

    def test_what_a_crop_is_filled_with_counts_for_the_sign(self):
        for fill, kept in ((-1.0, True), (0.0, False)):
            g = GraphBuilder()
            a = g.op("Relu", image(g))
            roi, sizes = g.weight([0, 0, 0, 0, 1, 1, 2, 2]), g.weight([1, 4, 8, 8], dtype=np.int64)
            crop = "tf_crop_and_resize"
            x = g.op(
                "Resize", a, roi, "", sizes, coordinate_transformation_mode=crop, extrapolation_value=fill
            )
            g.op("Relu", g.op("Add", branch(g, x), x), output="y")
            assert find_blocks(g.model({"y": None}))[-1].keep_relu is kept

    def test_two_sided_clip_stays_where_the_input_may_exceed_it(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        g.op("Clip", g.op("Add", branch(g, x), x), g.weight(0.0), g.weight(6.0), output="y")
        block = only(g.model({"y": None}))
        assert block.forms == (Form.SHORTCUT,)
        assert block.units[0].trailing == ("y",)

    def test_two_sided_clip_goes_where_the_input_has_been_through_it(self):
        g = GraphBuilder()
        low, high = g.weight(0.0), g.weight(6.0)
        x = g.op("Clip", image(g), low, high)
        g.op("Clip", g.op("Add", branch(g, x), x), low, high, output="y")
        block = only(g.model({"y": None}))
        assert block.forms == BOTH
        assert not block.keep_relu

    def test_spelt_out_silu_belongs_to_the_unit(self):
        g = GraphBuilder()
        x = image(g)
        total = g.op("Add", branch(g, x), x)
        y = g.op("Mul", total, g.op("Sigmoid", total))
        conv(g, y, 4, 4)
        g.op("Neg", y, output="z")
        assert only(g.model({"z": None})).output == y

    def test_activation_that_something_else_bypasses_is_left_out(self):
        g = GraphBuilder()
        x = image(g)
        total = g.op("Add", branch(g, x), x, output="sum")
        g.op("Relu", total, output="y")
        block = only(g.model({"y": None, "sum": None}))
        assert block.output == "sum"
        assert block.units[0].trailing == ()


class TestSkipPaths:
    def test_projection_leaves_only_the_shortcut(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        skip = conv(g, x, 8, 4, 1, 2)
        inner = conv(g, g.op("Relu", conv(g, x, 8, 4, 3, 2)), 8, 8)
        g.op("Relu", g.op("Add", inner, skip), output="y")
        block = only(g.model({"y": None}))
        assert block.forms == (Form.SHORTCUT,)
        assert (block.input, block.units[0].skip, block.units[0].branch) == (x, skip, inner)
        assert block.parameters == 8 * 4 * 9 + 8 * 8 * 9

    def test_pooled_and_padded_skip(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        pooled = g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        skip = g.op("Pad", pooled, g.weight([0, 2, 0, 0, 0, 2, 0, 0], dtype=np.int64))
        inner = conv(g, g.op("Relu", conv(g, x, 8, 4, 3, 2)), 8, 8)
        g.op("Add", inner, skip, output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.forms) == (x, (Form.SHORTCUT,))

    def test_channels_padded_by_concatenation_with_zeros(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        skip = g.op("Concat", x, g.weight(np.zeros((1, 4, 8, 8))), axis=1)
        inner = conv(g, g.op("Relu", conv(g, x, 8, 4)), 8, 8)
        g.op("Add", inner, skip, output="y")
        assert only(g.model({"y": None}, infer=False)).input == x

    def test_cropped_skip(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        inner = conv(g, g.op("Relu", conv(g, x, 4, 4, pad=0)), 4, 4, pad=0)
        bounds = [g.weight(v, dtype=np.int64) for v in ([2, 2], [-2, -2], [2, 3])]
        skip = g.op("Slice", x, *bounds)
        g.op("Add", skip, inner, output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.forms) == (x, (Form.SHORTCUT,))

    def test_one_output_of_a_split(self):
        g = GraphBuilder()
        a, b = multi(g, "Split", [image(g, 8), g.weight([4, 4], dtype=np.int64)], ["a", "b"], axis=1)
        y = g.op("Add", b, branch(g, b))
        g.op("Concat", a, b, y, axis=1, output="z")
        block = only(g.model({"z": None}))
        assert (block.input, block.output, block.forms) == ("b", y, BOTH)

    def test_dropout_and_identity_in_the_way(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        skip = g.op("Identity", g.op("Dropout", x))
        y = g.op("Add", g.op("Dropout", branch(g, x)), skip)
        g.op("Neg", y, output="z")
        block = only(g.model({"z": None}))
        assert (block.input, block.output, block.forms) == (x, y, BOTH)

    def test_cast_pair_around_the_branch(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        half = g.op("Cast", x, to=TensorProto.FLOAT16)
        weights = g.normal(4, 4, 1, 1, dtype=np.float16), g.normal(4, 4, 1, 1, dtype=np.float16)
        inner = g.op("Conv", g.op("Relu", g.op("Conv", half, weights[0])), weights[1])
        g.op("Add", x, g.op("Cast", inner, to=TensorProto.FLOAT), output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.dtype, block.forms) == (x, "float32", BOTH)

    def test_transposed_branch_as_in_channels_last_networks(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        last = g.op("Transpose", x, perm=[0, 2, 3, 1])
        inner = g.op("MatMul", g.op("Relu", g.op("MatMul", last, g.normal(4, 8))), g.normal(8, 4))
        g.op("Add", x, g.op("Transpose", inner, perm=[0, 3, 1, 2]), output="y")
        assert only(g.model({"y": None})).forms == BOTH

    def test_pre_activation_shared_by_branch_and_projection(self):
        g = GraphBuilder()
        x = conv(g, image(g), 4, 4)
        active = g.op("Relu", x)
        inner = conv(g, g.op("Relu", conv(g, active, 8, 4, 3, 2)), 8, 8)
        g.op("Add", inner, conv(g, active, 8, 4, 1, 2), output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.forms) == (active, (Form.SHORTCUT,))
        assert block.parameters == 8 * 4 * 9 + 8 * 8 * 9


class TestBranches:
    def test_gate_scale_and_squeeze_excite(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        inner = branch(g, x)
        pooled = g.op("GlobalAveragePool", inner)
        gate = g.op("Sigmoid", conv(g, g.op("Relu", conv(g, pooled, 2, 4, 1)), 4, 2, 1))
        inner = g.op("Mul", g.op("Mul", inner, gate), g.weight(0.5))
        g.op("Add", x, inner, output="y")
        assert only(g.model({"y": None})).forms == BOTH

    def test_conditioning_from_outside(self):
        g = GraphBuilder()
        x, c = g.input("x", ["N", 5, 8]), g.input("c", ["N", 1, 8])
        shift, gate = g.op("MatMul", c, g.normal(8, 8)), g.op("MatMul", c, g.normal(8, 8))
        modulated = g.op("Add", x, shift)
        inner = g.op("MatMul", g.op("Relu", g.op("MatMul", modulated, g.normal(8, 8))), g.normal(8, 8))
        g.op("Add", x, g.op("Mul", gate, inner), output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.forms) == ("x", BOTH)
        assert block.parameters == 4 * 64

    def test_pooling_mixer_without_weights(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        pooled = g.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
        g.op("Add", x, g.op("Sub", pooled, x), output="y")
        assert only(g.model({"y": None})).forms == BOTH

    def test_branch_that_adds_one_number_per_channel(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        context = conv(g, g.op("Relu", conv(g, g.op("GlobalAveragePool", x), 2, 4, 1)), 4, 2, 1)
        g.op("Add", x, context, output="y")
        assert only(g.model({"y": None})).forms == BOTH

    def test_operator_of_a_foreign_domain_is_work(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        g.op("Add", x, g.op("Mystery", x, domain="org.example"), output="y")
        assert only(g.model({"y": ["N", 4, 8, 8]}, infer=False)).forms == BOTH

    def test_two_branches_added_one_after_the_other_are_one_unit(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 5, 8])
        shared = g.op("Relu", x)
        a = g.op("MatMul", g.op("Relu", g.op("MatMul", shared, g.normal(8, 8))), g.normal(8, 8))
        b = g.op("MatMul", g.op("Tanh", g.op("MatMul", shared, g.normal(8, 8))), g.normal(8, 8))
        g.op("Add", g.op("Add", x, a), b, output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.forms, len(block.units)) == ("x", BOTH, 1)
        assert block.parameters == 4 * 64


class TestMerges:
    def test_sum_of_three(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        g.op("Sum", branch(g, x), x, branch(g, x), output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.units[0].merge_op, block.forms) == (x, "Sum", BOTH)

    def test_skip_layer_norm_after_the_sum(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 5, 8])
        weights = [g.normal(8) for _ in range(3)]
        for number in range(2):
            inner = g.op("MatMul", g.op("Relu", g.op("MatMul", x, g.normal(8, 8))), g.normal(8, 8))
            x = g.op(
                "SkipLayerNormalization", inner, x, *weights, domain="com.microsoft", output=f"y{number}"
            )
        model = g.model({"y1": ["N", 5, 8]}, infer=False)
        first, second = find_blocks(model)
        assert (first.input, first.output, first.forms) == ("x", "y0", BOTH)
        assert (second.input, second.output) == ("y0", "y1")
        (unit,) = first.units
        assert (unit.merge, unit.merge_op, unit.trailing) == ("y0", "SkipLayerNormalization", ())

    def test_skip_norm_that_hands_on_its_sum(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 5, 8])
        gamma = g.normal(8)
        normed = g.op("SimplifiedLayerNormalization", x, gamma, axis=-1, epsilon=1e-5)
        for number in range(2):
            inner = g.op("MatMul", g.op("Relu", g.op("MatMul", normed, g.normal(8, 8))), g.normal(8, 8))
            kind, outputs = "SkipSimplifiedLayerNormalization", [f"n{number}", "", "", f"sum{number}"]
            multi(g, kind, [x, inner, gamma], outputs, "com.microsoft")
            x, normed = f"sum{number}", f"n{number}"
        g.op("MatMul", normed, g.normal(8, 3), output="z")
        first, second = find_blocks(g.model({"z": ["N", 5, 3]}, infer=False))
        assert (first.input, first.output, first.forms) == ("x", "sum0", BOTH)
        assert (second.input, second.output) == ("sum0", "sum1")

    def test_convolution_with_a_summand(self):
        g = GraphBuilder()
        x = g.op("Relu", image(g))
        inner = g.op("Relu", conv(g, x, 4, 4))
        operands = [inner, g.normal(4, 4, 3, 3), g.normal(4), x]
        g.op("FusedConv", *operands, domain="com.microsoft", activation="Relu", pads=[1] * 4, output="y")
        block = only(g.model({"y": ["N", 4, 8, 8]}, infer=False))
        assert (block.input, block.output, block.forms) == (x, "y", (Form.BYPASS,))
        assert (block.units[0].merge_op, block.keep_relu) == ("FusedConv", False)

    def test_gemm_with_a_summand(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 8])
        inner = g.op("Relu", g.op("Gemm", x, g.normal(8, 8), g.normal(8)))
        g.op("Gemm", inner, g.normal(8, 8), x, output="y")
        block = only(g.model({"y": None}))
        assert (block.input, block.units[0].skip, block.forms) == ("x", "x", BOTH)


class TestNorms:
    def layers(self, g: GraphBuilder, *, first: bool, count: int = 2) -> tuple[str, list[str]]:
        x = g.op("MatMul", g.input("x", ["N", 5, 8]), g.normal(8, 8))
        outputs = []
        for _ in range(count):
            inner = self.norm(g, x) if first else x
            inner = g.op("MatMul", g.op("Relu", g.op("MatMul", inner, g.normal(8, 8))), g.normal(8, 8))
            x = g.op("Add", x, inner)
            x = x if first else self.norm(g, x)
            outputs.append(x)
        return x, outputs

    def norm(self, g: GraphBuilder, x: str) -> str:
        return g.op("LayerNormalization", x, g.normal(8), g.normal(8), axis=-1)

    def test_post_norm_belongs_to_the_unit(self):
        g = GraphBuilder()
        x, outputs = self.layers(g, first=False)
        g.op("MatMul", x, g.normal(8, 3), output="z")
        assert [block.output for block in find_blocks(g.model({"z": None}))] == outputs

    def test_final_norm_of_a_pre_norm_network_does_not(self):
        g = GraphBuilder()
        x, outputs = self.layers(g, first=True)
        g.op("MatMul", self.norm(g, x), g.normal(8, 3), output="z")
        assert [block.output for block in find_blocks(g.model({"z": None}))] == outputs


class TestSpeltOutNorms(TestNorms):
    """The same with the norm in small operators, as exporters before opset 17 write it."""

    def norm(self, g: GraphBuilder, x: str) -> str:
        mean = g.op("ReduceMean", x, axes=[-1])
        centred = g.op("Sub", x, mean)
        variance = g.op("ReduceMean", g.op("Pow", centred, g.weight(2.0)), axes=[-1])
        scaled = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.weight(1e-5))))
        return g.op("Add", g.op("Mul", scaled, g.normal(8)), g.normal(8))


class TestWeights:
    def test_weights_in_constant_nodes(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 8])
        first, second = (
            g.op("Constant", value=onnx.numpy_helper.from_array(np.ones((8, 8), np.float32))) for _ in "ab"
        )
        g.op("Add", x, g.op("MatMul", g.op("Relu", g.op("MatMul", x, first)), second), output="y")
        block = only(g.model({"y": None}))
        assert (block.forms, block.parameters) == (BOTH, 128)

    def test_shared_weights_are_freed_only_with_the_last_reader(self):
        g = GraphBuilder()
        x, shared = g.input("x", ["N", 8]), g.normal(8, 8)
        for _ in range(2):
            x = g.op("Add", x, g.op("MatMul", g.op("Relu", g.op("MatMul", x, shared)), g.normal(8, 8)))
        g.op("Neg", x, output="y")
        assert [block.parameters for block in find_blocks(g.model({"y": None}))] == [64, 64]

    def test_initializers_that_are_inputs_are_weights(self):
        model, _ = residual_mlp(blocks=1)
        for tensor in model.graph.initializer:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        assert only(model).forms == BOTH

    def test_half_precision(self):
        model, _ = residual_cnn(blocks=2, dtype=np.float16)
        assert [(block.dtype, block.forms) for block in find_blocks(model)] == [("float16", BOTH)] * 2


def test_unit_of_a_block_can_be_had_alone():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]))
    for part in ("attn", "mlp"):
        inner = g.op("MatMul", g.op("Relu", g.op("MatMul", x, g.normal(8, 8))), g.normal(8, 8))
        for node in g.nodes[-3:]:
            node.name = f"/layers.0/{part}/{node.op_type}"
        x = g.op("Add", x, inner)
        g.nodes[-1].name = f"/layers.0/Add_{part}"
    g.op("Neg", x, output="y")
    g.nodes[-1].name = "/Neg"
    model = g.model({"y": None})
    block = only(model)
    assert (block.name, [unit.name for unit in block.units]) == (
        "layers.0",
        ["layers.0:attn", "layers.0:mlp"],
    )
    single = unit_block(model, block, "layers.0:mlp")
    assert (single.input, single.output) == (block.units[1].input, block.output)
    assert single.forms == BOTH
    assert [unit.name for unit in find_blocks(model, granularity="unit")] == ["layers.0:attn", "layers.0:mlp"]
