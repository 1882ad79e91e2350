"""Module paths from what exporters and tools leave of them."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, residual_cnn

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.index import index_model
from lacoot_deploy.graph.model.naming import (
    NAME_SCOPES,
    Names,
    Scopes,
    common,
    parse_name_scopes,
    parse_slashed,
)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/encoder/layer.0/attention/self/query/MatMul", "encoder.layer.0.attention.self.query"),
        ("/features/features.3/conv/conv.0/conv.0.0/Conv", "features.3.conv.0.0"),
        ("/level3/tree1/tree1/conv1/Conv", "level3.tree1.tree1.conv1"),
        ("/Add_2", ""),
    ],
)
def test_scopes_in_node_names(name, scope):
    assert ".".join(parse_slashed(name)) == scope


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_1']", ("layer1", "0", "conv1")),
        ("['', 'add_3']", ()),
        ("['add_3']", None),
        ("nonsense", None),
        ("__import__('os')", None),
    ],
)
def test_scopes_that_pytorch_records(text, scope):
    assert parse_name_scopes(text) == scope


def test_common_scope_ignores_what_is_unknown():
    assert common([("a", "b", "c"), None, ("a", "b", "d")]) == ("a", "b")
    assert common([None]) is None


def test_names_are_unique_and_numbered_in_order():
    names = Names()
    assert [names.take("a"), names.take("a"), names.take("b"), names.take("a")] == ["a", "a_2", "b", "a_3"]


def scoped(name: Callable[[int, str], str], *, relu: bool = False) -> onnx.ModelProto:
    """Two blocks whose nodes are named by block number (None outside of them) and operator."""
    model, _ = residual_cnn(blocks=2, relu=relu)
    number, last = 0, "Relu" if relu else "Add"
    for place, node in enumerate(model.graph.node):
        node.name = name(number if place > 1 and number < 2 else None, node.op_type)
        number += place > 1 and node.op_type == last and not (relu and node.input[0].startswith("conv"))
    return model


def names(model: onnx.ModelProto) -> list[str]:
    return [block.name for block in find_blocks(model)]


class TestBlockNames:
    def test_from_recorded_scopes(self):
        model = scoped(lambda number, op: f"{number}", relu=True)
        for node in model.graph.node:
            path = "['', 'x']" if node.name == "None" else f"['', 'stage', 'stage.{node.name}', 'x']"
            node.metadata_props.add(key=NAME_SCOPES, value=path)
            node.name = ""
        assert names(model) == ["stage.0", "stage.1"]

    def test_from_slashed_names(self):
        model = scoped(lambda number, op: f"/stage/stage.{number}/{op}")
        assert names(model) == ["stage.0", "stage.1"]

    def test_from_tensorflow_names(self):
        model = scoped(lambda number, op: f"net/block{number}/{op.lower()}/{op}")
        assert names(model) == ["net/block0", "net/block1"]

    def test_from_the_flat_layer_names_of_keras(self):
        model = scoped(lambda number, op: f"net/conv2_block{number}_{op.lower()}/{op}")
        assert names(model) == ["net/conv2_block0", "net/conv2_block1"]

    def test_from_the_names_of_weights(self):
        model, _ = residual_cnn(blocks=2)
        for node in model.graph.node:
            node.name = ""
        for tensor in model.graph.initializer:
            tensor.name = tensor.name.replace("layer", "body.")
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name.endswith((".weight", ".bias")):
                    node.input[place] = name.replace("layer", "body.")
        assert names(model) == ["body.0", "body.1"]

    def test_from_the_merge_where_nothing_else_tells(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 8])
        for _ in range(2):
            x = g.op("Add", x, g.op("MatMul", g.op("Relu", x), g.weight(np.ones((8, 8)))))
        g.op("Neg", x, output="y")
        model = g.model({"y": None})
        first = names(model)
        assert first == ["Add_add_4", "Add_add_8"]
        assert names(model) == first
        for node in model.graph.node:
            node.name = ""
        assert names(model) == ["Add:add_4", "Add:add_8"]

    def test_equal_names_are_told_apart(self):
        model = scoped(lambda number, op: f"/{'shared' if number is not None else 'rest'}/{op}")
        assert names(model) == ["shared", "shared_2"]


def test_a_shared_weight_says_nothing():
    g = GraphBuilder()
    x, shared = g.input("x", ["N", 8]), g.normal(8, 8, name="first.weight")
    for _ in range(2):
        x = g.op("MatMul", x, shared)
    model = g.model({x: None}, infer=False)
    for node in model.graph.node:
        node.name = ""
    index = index_model(model).main
    assert [Scopes(index).of(node) for node in index.nodes] == [None, None]
