"""Which values answer to which, and where the head begins."""

from __future__ import annotations

import pytest
from builders import GraphBuilder, residual_cnn, residual_mlp

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.healing.ends import find_head, head_weights, likeness, pair_ends
from lacoot_deploy.healing.flat import flatten
from lacoot_deploy.healing.near import frontier
from lacoot_deploy.healing.weights import trainable_weights


def pairs(model, gone):
    blocks = find_blocks(model)
    cut = collapse_blocks(model, [Cut(blocks[i], Form.BYPASS) for i in gone])
    found = pair_ends(likeness(model, cut), find_blocks(cut), [value.name for value in cut.graph.input])
    return {pair.value: (pair.target, pair.kind) for pair in found}


def test_an_end_before_a_hole_answers_to_the_value_behind_it():
    model, _ = residual_mlp(4)
    assert pairs(model, [1, 2]) == {
        "layer0.out": ("layer2.out", "end"),
        "layer3.out": ("layer3.out", "end"),
    }
    assert pairs(model, [0])["stem_relu"] == ("layer0.out", "hole")


def test_what_is_before_the_last_hole_answers_to_what_the_head_read():
    model, _ = residual_mlp(3)
    assert pairs(model, [2])["layer1.out"] == ("layer2.out", "end")


def test_another_network_has_nothing_in_common():
    one, _ = residual_mlp(2)
    g = GraphBuilder()
    y = g.op("Tanh", g.op("MatMul", g.input("x", ["N", 8]), g.normal(8, 8), output="other"), output="y")
    found = likeness(one, g.model({y: ["N", 8]}))
    assert found.nodes == 0
    assert not found.targets


def test_the_head_is_what_lies_behind_the_last_value_that_all_outputs_need():
    graph = flatten(residual_cnn(2)[0])
    weights = trainable_weights(graph)
    head = find_head(graph, weights, ["layer0.out", "layer1.out"])
    assert [node.op for node in head.nodes] == ["Gemm"]
    assert head_weights(graph, weights, head) == ["head.w"]


def test_a_network_that_ends_with_its_last_block_has_no_head():
    graph = flatten(residual_mlp(2, head=False)[0])
    assert find_head(graph, trainable_weights(graph), ["layer0.out", "layer1.out"]) is None


def test_heads_that_share_no_value_have_features_each():
    g = GraphBuilder()
    x = g.op("Relu", g.op("MatMul", g.input("x", ["N", 4]), g.normal(4, 4)), output="body")
    a = g.op("Relu", g.op("MatMul", x, g.normal(4, 4)), output="a")
    one, two = (
        g.op("MatMul", a, g.normal(4, 2), output="one"),
        g.op("MatMul", x, g.normal(4, 3), output="two"),
    )
    graph = flatten(g.model({one: ["N", 2], two: ["N", 3]}))
    head = find_head(graph, trainable_weights(graph), ["body"])
    assert head.features == ("body",)


@pytest.mark.parametrize(
    ("trained", "expected"), [("layer2.w1", ("layer1.out",)), ("layer0.w1", ("stem_relu",))]
)
def test_onnx_runtime_computes_what_lies_before_the_first_trained_weight(trained, expected):
    graph = flatten(residual_mlp(3)[0])
    assert frontier(graph, [trained], graph.outputs) == expected
