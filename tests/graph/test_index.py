"""Producers and consumers of every value, data paths, bodies, fused merges; and the speed of it all."""

import time

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, residual_mlp
from onnx import TensorProto, helper

from lacoot_deploy.graph.discovery import find_blocks, survey
from lacoot_deploy.graph.model.index import HIDDEN, index_model


def labels(nodes) -> list[str]:
    return [node.op for node in nodes]


def test_producers_and_consumers():
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    a = g.op("Relu", x)
    g.op("Add", a, a, output="y")
    index = index_model(g.model({"y": None})).main
    assert index.producer[a].op == "Relu"
    assert labels(index.readers(a)) == ["Add"]
    assert (index.inputs, index.outputs) == (("x",), ("y",))


def test_nodes_in_bodies_read_values_around_them():
    deepest = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["n"])], "deep", [], [helper.make_tensor_value_info("n", 1, None)]
    )
    inner = GraphBuilder()
    inner.weight(True, dtype=bool, name="yes")
    inner.op("If", "yes", then_branch=deepest, else_branch=deepest, output="m")
    body = inner.graph({"m": None})
    g = GraphBuilder()
    g.op("Relu", g.input("x", ["N", 8]), output="a")
    g.op("If", g.input("flag", [], TensorProto.BOOL), then_branch=body, else_branch=body, output="y")
    index = index_model(g.model({"y": None}, infer=False))
    assert labels(index.main.readers("a")) == ["If"]
    assert {graph.scope for graph in index.graphs} == {
        (),
        ("If_y/then_branch",),
        ("If_y/then_branch", "If_m/then_branch"),
        ("If_y/then_branch", "If_m/else_branch"),
        ("If_y/else_branch",),
        ("If_y/else_branch", "If_m/then_branch"),
        ("If_y/else_branch", "If_m/else_branch"),
    }
    deep = index.graphs[2]
    assert deep.is_outer("a")
    assert "n" in deep.dynamic


def test_shapes_are_no_data():
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    size = g.op("Shape", x)
    filled = g.op("ConstantOfShape", size)
    moved = g.op("Reshape", g.op("Relu", x), size)
    index = index_model(g.model({filled: None, moved: None}, infer=False)).main
    assert moved in index.dynamic
    assert not {size, filled} & index.dynamic


def test_constants_wherever_they_are():
    g = GraphBuilder()
    weight = g.normal(2, 2)
    node = g.op("Constant", value_floats=[1.0, 2.0])
    free = g.weight([3.0])
    g.op("Sum", g.input("x", [2]), node, free, weight, output="y")
    model = g.model({"y": None}, infer=False)
    model.graph.input.append(helper.make_tensor_value_info(free, TensorProto.FLOAT, [1]))
    index = index_model(model).main
    assert list(index.constant(weight).dims) == [2, 2]
    assert list(index.constant(node).float_data) == [1.0, 2.0]
    assert index.constant(free) is None
    assert index.constant("x") is None
    assert index.inputs == ("x",)


def test_fused_merge_is_seen_as_a_sum_and_a_norm():
    g = GraphBuilder()
    x, b = g.input("x", ["N", 8]), g.input("b", ["N", 8])
    g.op(
        "SkipLayerNormalization",
        x,
        b,
        g.normal(8),
        g.normal(8),
        g.normal(8),
        domain="com.microsoft",
        output="y",
    )
    index = index_model(g.model({"y": None}, infer=False)).main
    add, norm = index.nodes
    assert (add.op, norm.op, norm.data[0]) == ("Sum", "LayerNormalization", add.output)
    assert HIDDEN in add.output
    assert add.label == norm.label == "SkipLayerNormalization_y"


def test_nodes_out_of_order_are_sorted():
    model, _ = residual_mlp(blocks=3)
    expected = find_blocks(model)
    shuffled = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(shuffled)
    assert [block.output for block in find_blocks(model)] == [block.output for block in expected]


def chain(count: int) -> onnx.ModelProto:
    """A chain of residual blocks of four nodes, named as by an exporter."""
    nodes, x = [], "x"
    for number in range(count):
        parts = [
            ("MatMul", [x, "w"], "a"),
            ("Relu", [f"a{number}"], "b"),
            ("MatMul", [f"b{number}", "w"], "c"),
        ]
        parts.append(("Add", [x, f"c{number}"], "y"))
        for op, inputs, output in parts:
            name = f"/layers/layers.{number}/{output}/{op}" if op != "Add" else f"/layers/layers.{number}/Add"
            nodes.append(helper.make_node(op, inputs, [f"{output}{number}"], name=name))
        x = f"y{number}"
    value = helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.zeros((8, 8), np.float32), "w")
    graph = helper.make_graph(nodes, "chain", [value("x", 1, ["N", 8])], [value(x, 1, ["N", 8])], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_eight_thousand_nodes_take_under_three_seconds():
    model = chain(2000)
    start = time.process_time()
    assert survey(model).undecided == ()
    blocks = find_blocks(model)
    assert time.process_time() - start < 3
    assert len(blocks) == 2000
    assert blocks[1234].name == "layers.1234"


@pytest.mark.parametrize("turn", [1, -1])
def test_deep_chains_do_not_recurse(turn):
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)][::turn]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "deep", [value("v0", 1, [2])], [value("v3000", 1, [2])])
    assert find_blocks(helper.make_model(graph)) == ()
