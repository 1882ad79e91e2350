"""A model split at its blocks computes what the whole computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, make_block, random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.segments import Splitter
from lacoot_deploy.graph.surgery.channels import channel_axis
from lacoot_deploy.selection.pieces import type_of


def run_pieces(model, segments, feeds):
    splitter = Splitter(model)
    values = dict(feeds)
    for segment in segments:
        read = {name: values[name] for name in segment.inputs}
        part = splitter.model(segment, {name: type_of(value) for name, value in read.items()})
        values.update(zip(segment.outputs, run(part, read), strict=True))
    return values


def split_at_blocks(model, blocks):
    return Splitter(model).split(blocks)


@pytest.mark.parametrize("build", [residual_mlp, residual_cnn])
def test_the_pieces_run_one_after_another_give_the_outputs_of_the_whole(build):
    model, blocks = build(3)
    segments = split_at_blocks(model, blocks)
    assert [set(s.owners) for s in segments] == [set(), {"layer0"}, {"layer1"}, {"layer2"}, set()]
    feeds = random_feeds(model)
    whole = run(model, feeds)[0]
    np.testing.assert_array_equal(run_pieces(model, segments, feeds)["logits"], whole)


def test_a_mask_from_outside_goes_into_every_block_that_reads_it():
    g = GraphBuilder()
    x, mask = g.input("x", ["N", 4]), g.input("mask", ["N", 1])
    keep = g.op("Sub", g.weight(1.0), mask, output="keep")
    blocks = []
    for i in range(2):
        branch = g.op("Mul", g.op("MatMul", x, g.normal(4, 4)), keep)
        y = g.op("Add", x, branch, output=f"y{i}")
        blocks.append(make_block(f"b{i}", x, y, branch=branch))
        x = y
    model = g.model({"y1": ["N", 4]})
    segments = split_at_blocks(model, blocks)
    assert all("keep" in s.inputs for s in segments if s.owners)
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run_pieces(model, segments, feeds)["y1"], run(model, feeds)[0])


def test_an_early_value_read_late_is_passed_along():
    g = GraphBuilder()
    x = g.input("x", ["N", 4])
    early = g.op("Tanh", x, output="early")
    branch = g.op("MatMul", early, g.normal(4, 4))
    y = g.op("Add", early, branch, output="y")
    g.op("Mul", y, early, output="z")
    model = g.model({"z": ["N", 4]})
    segments = split_at_blocks(model, [make_block("b", "early", "y", branch=branch)])
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run_pieces(model, segments, feeds)["z"], run(model, feeds)[0])


def test_blocks_that_lie_in_one_another_share_pieces():
    model, blocks = residual_mlp(3)
    outer = make_block("outer", blocks[0].input, blocks[1].output)
    crossing = make_block("crossing", blocks[1].input, blocks[2].output)
    segments = split_at_blocks(model, [*blocks, outer, crossing])
    assert [set(s.owners) for s in segments if s.owners] == [
        {"layer0", "outer"},
        {"layer1", "outer", "crossing"},
        {"layer2", "crossing"},
    ]
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run_pieces(model, segments, feeds)["logits"], run(model, feeds)[0])


def test_nodes_may_stand_in_any_order_and_dead_ones_are_left_out():
    model, blocks = residual_mlp(3)
    feeds = random_feeds(model)
    expected = run(model, feeds)[0]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    nodes = list(shuffled.graph.node)
    dead = onnx.helper.make_node("Relu", [blocks[1].output], ["dead"])
    del shuffled.graph.node[:]
    shuffled.graph.node.extend([dead, *reversed(nodes)])
    segments = split_at_blocks(shuffled, blocks)
    assert not any("dead" in node.output for segment in segments for node in segment.nodes)
    np.testing.assert_array_equal(run_pieces(shuffled, segments, feeds)["logits"], expected)


def test_what_is_read_outside_a_block_does_not_go_with_it():
    g = GraphBuilder()
    x = g.input("x", ["N", 4])
    inner = g.op("Tanh", g.op("MatMul", x, g.normal(4, 4)), output="inner")
    branch = g.op("MatMul", inner, g.normal(4, 4))
    y = g.op("Add", x, branch, output="y")
    g.op("Mul", y, inner, output="z")
    model = g.model({"z": ["N", 4]})
    block = make_block("b", "x", "y", branch=branch)
    (owned,) = [s for s in split_at_blocks(model, [block]) if s.owners]
    assert "inner" in owned.inputs
    assert [node.op_type for node in owned.nodes] == ["MatMul", "Add"]


def test_a_part_is_cut_off_at_its_inputs():
    model, blocks = residual_mlp(2)
    part = Splitter(model).extract([blocks[0].output], [blocks[1].output])
    assert part.inputs == (blocks[0].output,)
    with pytest.raises(InputError, match="No node computes"):
        Splitter(model).extract([], ["missing"])


def test_the_channel_axis_is_where_channels_are_mixed():
    cnn, cnn_blocks = residual_cnn(1)
    assert channel_axis(cnn, cnn_blocks[0].input, 4) == 1
    assert channel_axis(cnn, cnn_blocks[0].output, 4) == 1
    mlp, mlp_blocks = residual_mlp(1)
    assert channel_axis(mlp, mlp_blocks[0].input, 2) == 1
    g = GraphBuilder()
    x = g.input("x", ["N", 6, 6, 8])
    g.op("Conv", g.op("Transpose", x, perm=[0, 3, 1, 2]), g.normal(8, 8, 1, 1), output="y")
    assert channel_axis(g.model({"y": ["N", 8, 6, 6]}), "x", 4) == 3
    g = GraphBuilder()
    x = g.input("x", ["N", 5, 8])
    g.op("LayerNormalization", x, g.normal(8), g.normal(8), axis=-1, output="y")
    assert channel_axis(g.model({"y": ["N", 5, 8]}), "x", 3) == 2
