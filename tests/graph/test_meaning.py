"""Blocks by their meaning: what a removal takes along, what it leaves to others, and what only looks like a block."""

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, random_feeds, run

from lacoot_deploy.graph.discovery import find_blocks, survey
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.graph.model.segments import Splitter
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

BOTH = (Form.BYPASS, Form.SHORTCUT)


def conv1d(g: GraphBuilder, x: str, into: int, out: int, kernel: int = 1) -> str:
    return g.op("Conv", x, g.normal(out, into, kernel), pads=[kernel // 2] * 2)


def conv(g: GraphBuilder, x: str, into: int = 8, out: int = 8, stride: int = 1, name: str = "") -> str:
    weight = g.normal(out, into, 3, 3, name=f"{name}.weight" if name else None)
    return g.op("Conv", x, weight, pads=[1] * 4, strides=[stride] * 2)


def linear(g: GraphBuilder, x: str) -> str:
    return g.op("MatMul", x, g.normal(8, 8))


def mlp(g: GraphBuilder, x: str) -> str:
    return linear(g, g.op("Relu", linear(g, x)))


def wavenet(layers: int = 4) -> onnx.ModelProto:
    """Each layer adds to the signal and, aside, to a sum of skips; what the last adds to the signal is never read."""
    g = GraphBuilder()
    x = conv1d(g, g.input("x", ["N", 1, 32]), 1, 8)
    skips = ""
    for number in range(layers):
        z = g.op("Mul", g.op("Tanh", conv1d(g, x, 8, 8, 3)), g.op("Sigmoid", conv1d(g, x, 8, 8, 3)))
        skip = conv1d(g, z, 8, 8)
        skips = g.op("Add", skips, skip, output=f"skips{number}") if skips else skip
        x = g.op("Add", conv1d(g, z, 8, 8), x, output=f"x{number}")
    conv1d(g, g.op("Relu", skips), 8, 8)
    g.nodes[-1].output[0] = "y"
    return g.model({"y": ["N", 8, 32]})


def siblings() -> onnx.ModelProto:
    """Two residual branches that share the activation of their input, as after a merge of equal nodes."""
    g = GraphBuilder()
    x = conv(g, g.input("x", ["N", 3, 8, 8]), 3)
    shared = g.op("LeakyRelu", x)
    ends = [g.op("Add", conv(g, shared), x, output=f"y{number}") for number in range(2)]
    g.op("Add", *ends, output="y")
    return g.model({"y": ["N", 8, 8, 8]})


def subtracting() -> onnx.ModelProto:
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]))
    g.op("Neg", g.op("Sub", x, mlp(g, x), output="difference"), output="y")
    return g.model({"y": ["N", 8]})


def down_and_up(*, module: str) -> onnx.ModelProto:
    """A branch that halves the resolution and doubles it again, its nodes named after modules below `module`."""
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8, 16, 16]))
    low = g.op("Relu", conv(g, x, stride=2))
    up = g.op("Resize", low, "", g.weight([1, 1, 2, 2]), mode="nearest")
    g.op("Relu", g.op("Add", x, conv(g, up), output="sum"), output="y")
    model = g.model({"y": ["N", 8, 16, 16]})
    for node, part in zip(model.graph.node, ("stem", "mix", "mix", "mix", "mix", "", "head"), strict=True):
        inside = f"{module}/{part}".strip("/") if part not in ("stem", "head") else part
        node.name = f"/{inside}/{node.op_type}_{node.output[0]}"
    return model


def check_cut(model: onnx.ModelProto, name: str, form: Form) -> None:
    """The cut equals a bypass by hand, and takes from the network what the block is said to cost."""
    block = next(block for block in find_blocks(model) if block.name == name)
    result = collapse_blocks(model, [Cut(block, form)])
    onnx.checker.check_model(result, full_check=True)
    feeds = random_feeds(model)
    by_hand = run(cut_by_hand(model, [(block, form)]), feeds)
    for ours, theirs in zip(run(result, feeds), by_hand, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if form is block.forms[0]:
        before, after = survey(model).costs, survey(result).costs
        assert before.macs - after.macs == block.macs
        assert before.parameters - after.parameters == block.parameters


@pytest.mark.parametrize("build", [wavenet, siblings, subtracting, lambda: down_and_up(module="blk")])
@pytest.mark.parametrize("form", list(Form))
def test_every_block_goes_as_by_hand_and_costs_what_it_is_said_to(build, form):
    model = build()
    able = [block for block in find_blocks(model) if block.collapsible]
    assert able
    for block in able:
        assert block.forms == BOTH
        check_cut(model, block.name, form)


def test_the_sums_of_skips_beside_residual_units_are_none():
    blocks = find_blocks(wavenet())
    assert [block.output for block in blocks if block.collapsible] == ["x0", "x1", "x2"]
    assert not any(block.output.startswith("skips") for block in blocks)
    assert [block.macs for block in blocks] == [8 * 8 * 32] * 3


def test_siblings_share_what_is_before_their_branches():
    model = siblings()
    first, second, both = find_blocks(model)
    assert (first.forms, second.forms, both.reason.code) == (BOTH, BOTH, "no_skip")
    segments = Splitter(model).split([first, second])
    assert [len(part.nodes) for part in segments if part.owners] == [2, 2]
    result = collapse_blocks(model, [Cut(first, Form.BYPASS), Cut(second, Form.BYPASS)])
    assert [node.op_type for node in result.graph.node] == ["Conv", "Add"]


def test_a_branch_that_leads_elsewhere_is_still_refused():
    g = GraphBuilder()
    x = conv(g, g.input("x", ["N", 3, 8, 8]), 3)
    inner = g.op("Relu", conv(g, x), output="inside")
    g.op("Add", x, conv(g, inner), output="y")
    g.op("GlobalAveragePool", inner, output="z")
    (block,) = find_blocks(g.model({"y": None, "z": None}))
    assert block.reason.code == "interior_read"


def test_down_and_up_again_is_a_branch_within_one_module_and_a_long_skip_across_the_network():
    assert [block.forms for block in find_blocks(down_and_up(module="blk"))] == [BOTH]
    assert [block.reason.code for block in find_blocks(down_and_up(module=""))] == ["long_skip"]


def test_levels_of_a_unet_in_one_module_are_long_skips():
    g = GraphBuilder()

    def level(x: str, depth: int) -> str:
        low = g.op("Relu", conv(g, x, stride=2, name=f"unet.down{depth}"))
        if depth:
            low = level(low, depth - 1)
        up = g.op("Resize", low, "", g.weight([1, 1, 2, 2]), mode="nearest")
        return g.op("Add", x, conv(g, up, name=f"unet.up{depth}"))

    x = g.op("Relu", conv(g, g.input("x", ["N", 8, 16, 16]), name="stem.conv"))
    conv(g, level(x, 1), name="head.conv")
    g.nodes[-1].output[0] = "y"
    outer = find_blocks(g.model({"y": None}))[-1]
    assert outer.reason.code == "long_skip"


@pytest.mark.parametrize("kind", ["highway", "scale"])
def test_gates_are_named_and_refused(kind):
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]), output="h")
    gate = g.op("Sigmoid", linear(g, x))
    if kind == "highway":
        kept = g.op("Mul", g.op("Sub", g.weight(1.0), gate), x)
        g.op("Add", g.op("Mul", gate, g.op("Relu", linear(g, x))), kept, output="mixed")
    else:
        g.op("Mul", x, gate, output="mixed")
    g.op("Relu", "mixed", output="y")
    (block,) = find_blocks(g.model({"y": None}))
    assert (block.reason.code, block.input, block.units[0].merge) == ("gated", "h", "mixed")


def test_a_gate_inside_a_branch_goes_with_the_branch():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]))
    inner = g.op("Relu", linear(g, x))
    scaled = g.op("Mul", inner, g.op("Sigmoid", linear(g, inner)))
    g.op("Relu", g.op("Add", x, linear(g, scaled)), output="y")
    (block,) = find_blocks(g.model({"y": None}))
    assert block.collapsible


def test_what_is_subtracted_from_is_not_the_branch():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 8]))
    g.op("Relu", g.op("Sub", mlp(g, x), x), output="y")
    assert not any(block.collapsible for block in find_blocks(g.model({"y": None})))


def test_a_dynamically_quantised_projection_is_a_projection(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    g = GraphBuilder()
    x = g.op("Relu", conv(g, g.input("x", ["N", 3, 8, 8]), 3))
    skip = g.op("Conv", x, g.normal(8, 8, 1, 1), strides=[2, 2])
    g.op("Relu", g.op("Add", conv(g, g.op("Relu", conv(g, x, stride=2))), skip), output="y")
    onnx.save(g.model({"y": ["N", 8, 4, 4]}), tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    (block,) = find_blocks(onnx.load(tmp_path / "int8.onnx"))
    assert block.forms == (Form.SHORTCUT,)


def test_a_file_whose_function_holds_a_block_is_read_with_it_written_out(tmp_path):
    nodes = [
        onnx.helper.make_node("MatMul", ["a", "w"], ["m"]),
        onnx.helper.make_node("Relu", ["m"], ["r"]),
        onnx.helper.make_node("Add", ["a", "r"], ["b"]),
    ]
    opsets = [onnx.helper.make_opsetid("", 17)]
    g = GraphBuilder()
    x = g.op("Layer", g.op("Relu", g.input("x", ["N", 8])), g.normal(8, 8), domain="local")
    g.op("Layer", x, g.normal(8, 8), domain="local", output="y")
    model = g.model({"y": ["N", 8]}, infer=False)
    model.functions.append(onnx.helper.make_function("local", "Layer", ["a", "w"], ["b"], nodes, opsets))
    onnx.save(model, tmp_path / "m.onnx")
    read = load_model(tmp_path / "m.onnx")
    first, second = find_blocks(read)
    assert (first.forms, second.forms) == (BOTH, BOTH)
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run(read, feeds)[0], run(model, feeds)[0])
    cut = collapse_blocks(read, [Cut(first, Form.BYPASS), Cut(second, Form.BYPASS)])
    np.testing.assert_array_equal(run(cut, feeds)[0], np.maximum(feeds["x"], 0))


def test_a_function_without_a_sum_stays_a_function(tmp_path):
    body = [
        onnx.helper.make_node("MatMul", ["a", "w"], ["m"]),
        onnx.helper.make_node("Add", ["m", "c"], ["b"]),
    ]
    g = GraphBuilder()
    g.op("Linear", g.input("x", ["N", 8]), g.normal(8, 8), g.normal(8), domain="local", output="y")
    model = g.model({"y": ["N", 8]}, infer=False)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("local", "Linear", ["a", "w", "c"], ["b"], body, opsets))
    onnx.save(model, tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx") == model
