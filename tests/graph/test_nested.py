"""Surgery around and inside If, Loop and Scan bodies."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, make_block, run
from onnx import TensorProto, helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def check(model, blocks, feeds, form=Form.BYPASS):
    result = collapse_blocks(model, [Cut(block, form) for block in blocks])
    onnx.checker.check_model(result, full_check=True)
    oracle = cut_by_hand(model, [(block, form) for block in blocks])
    for feed in feeds:
        for ours, theirs in zip(run(result, feed), run(oracle, feed), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return result


def body(op: str, *reads: str, name: str) -> onnx.GraphProto:
    g = GraphBuilder()
    g.op(op, *reads, output=f"{name}.out")
    return g.graph({f"{name}.out": ["N", 4]})


def with_if(then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.ModelProto:
    g = GraphBuilder()
    x, flag = g.op("Neg", g.input("x", ["N", 4]), output="stem"), g.input("flag", [], TensorProto.BOOL)
    g.op("Add", g.op("MatMul", x, g.normal(4, 4, name="block.w")), x, output="sum")
    g.op("If", flag, then_branch=then, else_branch=other, output="y")
    return g.model({"y": ["N", 4]})


FLAGS = [{"x": X, "flag": np.array(value)} for value in (True, False)]


def test_readers_inside_both_branches_follow():
    model = with_if(body("Exp", "sum", name="then"), body("Mul", "sum", "stem", name="else"))
    result = check(model, [make_block("b", "stem", "sum")], FLAGS)
    assert [node.op_type for node in result.graph.node] == ["Neg", "If"]
    assert not result.graph.initializer


def test_a_reader_two_levels_down_follows():
    deep = GraphBuilder()
    deep.op(
        "If",
        "flag",
        then_branch=body("Exp", "sum", name="a"),
        else_branch=body("Neg", "sum", name="b"),
        output="d",
    )
    model = with_if(deep.graph({"d": ["N", 4]}), body("Neg", "stem", name="else"))
    result = check(model, [make_block("b", "stem", "sum")], FLAGS)
    assert [node.op_type for node in result.graph.node] == ["Neg", "If"]


def test_a_weight_that_a_body_still_reads_stays():
    model = with_if(body("MatMul", "sum", "block.w", name="then"), body("Neg", "stem", name="else"))
    result = check(model, [make_block("b", "stem", "sum")], FLAGS)
    assert [tensor.name for tensor in result.graph.initializer] == ["block.w"]


def residual_branch(name: str, op: str, *, source: str = "stem", last: bool = False) -> onnx.GraphProto:
    """A body with a residual unit of its own; both branches use the same value names, as ONNX allows."""
    g = GraphBuilder()
    x = source if last else g.op("Identity", source, output="inner.x")
    weight = g.normal(4, 4, name=f"{name}.w")
    g.op("Add", g.op(op, g.op("MatMul", x, weight, output="inner.h"), output="inner.f"), x, output="inner.y")
    if last:
        return g.graph({"inner.y": ["N", 4]})
    g.op("Exp", "inner.y", output="inner.out")
    return g.graph({"inner.out": ["N", 4]})


def scope(branch: str) -> tuple[str, ...]:
    return (f"If_y/{branch}",)


@pytest.mark.parametrize("branch", ["then_branch", "else_branch"])
def test_a_block_inside_one_branch_goes_and_its_namesake_stays(branch):
    model = with_if(residual_branch("then", "Tanh"), residual_branch("else", "Sigmoid"))
    block = make_block("inner", "inner.x", "inner.y", scope=scope(branch))
    result = collapse_blocks(model, [Cut(block, Form.BYPASS)])
    onnx.checker.check_model(result, full_check=True)
    kinds = {a.name: [n.op_type for n in a.g.node] for a in result.graph.node[-1].attribute}
    weights = {a.name: [t.name for t in a.g.initializer] for a in result.graph.node[-1].attribute}
    other = "else_branch" if branch == "then_branch" else "then_branch"
    assert kinds[branch] == ["Identity", "Exp"]
    assert len(kinds[other]) == 5
    assert weights == {branch: [], other: [f"{other.split('_')[0]}.w"]}
    for feed in FLAGS:
        cut = feed["flag"] == (branch == "then_branch")
        wanted = np.exp(-X) if cut else run(model, feed)[0]
        np.testing.assert_allclose(run(result, feed)[0], wanted, rtol=1e-6)


def test_without_its_scope_a_name_in_two_branches_is_not_guessed():
    model = with_if(residual_branch("then", "Tanh"), residual_branch("else", "Sigmoid"))
    with pytest.raises(InputError, match="inner is not in this model"):
        collapse_blocks(model, [Cut(make_block("inner", "inner.x", "inner.y"), Form.BYPASS)])


def test_a_branch_output_that_falls_on_an_outer_value_keeps_an_identity():
    model = with_if(residual_branch("then", "Tanh", last=True), body("Neg", "stem", name="else"))
    block = make_block("inner", "stem", "inner.y", scope=scope("then_branch"))
    result = check(model, [block], FLAGS)
    then = next(a.g for a in result.graph.node[-1].attribute if a.name == "then_branch")
    assert [(n.op_type, list(n.input), list(n.output)) for n in then.node] == [
        ("Identity", ["stem"], ["inner.y"])
    ]


def test_outer_and_inner_block_at_once():
    model = with_if(residual_branch("then", "Tanh", source="sum"), body("Neg", "sum", name="else"))
    blocks = [
        make_block("b", "stem", "sum"),
        make_block("inner", "inner.x", "inner.y", scope=scope("then_branch")),
    ]
    both = check(model, blocks, FLAGS)
    one_by_one = collapse_blocks(
        collapse_blocks(model, [Cut(blocks[0], Form.BYPASS)]), [Cut(blocks[1], Form.BYPASS)]
    )
    assert both == one_by_one
    assert collapse_blocks(model, [Cut(b, Form.BYPASS) for b in blocks[::-1]]) == both


def test_a_block_in_a_loop_body_whose_input_is_carried():
    inner = GraphBuilder()
    inner.input("i", [], TensorProto.INT64)
    inner.input("keep", [], TensorProto.BOOL)
    state = inner.input("state", ["N", 4])
    inner.op("Identity", "keep", output="keep.out")
    inner.op("Add", inner.op("MatMul", state, "w"), state, output="state.out")
    loop = inner.graph({"keep.out": [], "state.out": ["N", 4]})
    loop.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    g = GraphBuilder()
    g.weight(np.eye(4), name="w")
    x = g.input("x", ["N", 4])
    g.op(
        "Loop",
        g.weight(np.array(3), dtype=np.int64),
        g.weight(np.array(True), dtype=bool),
        x,
        body=loop,
        output="y",
    )
    model = g.model({"y": ["N", 4]})
    block = make_block("step", "state", "state.out", scope=("Loop_y/body",))
    result = check(model, [block], [{"x": X}])
    assert [t.name for t in result.graph.initializer] == ["w_1", "w_2"]
    np.testing.assert_array_equal(run(result, {"x": X})[0], X)


def test_a_block_in_a_scan_body():
    inner = GraphBuilder()
    total, item = inner.input("total", [4]), inner.input("item", [4])
    inner.op("Add", total, item, output="total.out")
    inner.op("Add", inner.op("Tanh", item), item, output="r")
    inner.op("Exp", "r", output="scanned")
    scan = inner.graph({"total.out": [4], "scanned": [4]})
    g = GraphBuilder()
    x = g.input("x", [2, 4])
    node = helper.make_node(
        "Scan", [g.weight(np.zeros(4)), x], ["last", "y"], name="scan", body=scan, num_scan_inputs=1
    )
    g.nodes.append(node)
    model = g.model({"last": [4], "y": [2, 4]})
    check(model, [make_block("b", "item", "r", scope=("scan/body",))], [{"x": X}])
