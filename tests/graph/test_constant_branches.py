"""Branches that give one value for every input are found, and what only nearly does so is not."""

from __future__ import annotations

import numpy as np
import pytest
from builders import GraphBuilder, make_block, random_feeds, run

from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.constant_branches import constant_cuts

WIDTH = 4
IMAGE, TOKENS = ("N", WIDTH, 6, 6), ("N", 3, WIDTH)


def zero_weights(g, x):
    return g.op(
        "Conv", g.op("Tanh", x), g.weight(np.zeros((WIDTH, WIDTH, 3, 3))), g.normal(WIDTH), pads=[1] * 4
    )


def zero_norm_scale(g, x):
    hidden = g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1))
    ones = [g.normal(WIDTH), g.normal(WIDTH), g.weight(np.ones(WIDTH))]
    return g.op("BatchNormalization", hidden, g.weight(np.zeros(WIDTH)), *ones)


def dead_relu6(g, x):
    """As in a trained MobileNetV2: what the first activation lets through can never switch the second one on."""
    limits = g.weight(np.array(0.0)), g.weight(np.array(6.0))
    first = g.op("Clip", g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1)), *limits)
    deep = g.op(
        "Conv",
        first,
        g.normal(WIDTH, 1, 3, 3, scale=0.05),
        g.weight(np.full(WIDTH, -9.0)),
        group=WIDTH,
        pads=[1] * 4,
    )
    return g.op("Conv", g.op("Clip", deep, *limits), g.normal(WIDTH, WIDTH, 1, 1), g.normal(WIDTH))


def layer_scale_of_zero(g, x):
    return g.op("Mul", g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1)), g.weight(np.zeros((WIDTH, 1, 1))))


def zero_product(g, x):
    hidden = g.op("Relu", g.op("MatMul", x, g.normal(WIDTH, WIDTH)))
    return g.op("Add", g.op("MatMul", hidden, g.weight(np.zeros((WIDTH, WIDTH)))), g.normal(WIDTH))


def mask_in_the_graph(g, x):
    """As pruning tools leave it: the weight times a mask, worked out on every run."""
    weight = g.op("Mul", g.normal(WIDTH, WIDTH, 3, 3), g.weight(np.zeros((WIDTH, WIDTH, 3, 3))))
    turned = g.op("Transpose", g.op("Cast", weight, to=1), perm=[1, 0, 2, 3])
    return g.op("Conv", x, turned, g.normal(WIDTH), pads=[1] * 4)


def never_chosen(g, x):
    condition = g.op("Not", g.weight(np.array(True), dtype=bool))
    return g.op("Where", condition, g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1)), g.normal(1, WIDTH, 1, 1))


def minus_itself(g, x):
    hidden = g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1))
    return g.op("Sub", hidden, hidden)


def sometimes_chosen(g, x):
    condition = g.weight(np.arange(WIDTH).reshape(WIDTH, 1, 1) > 1, dtype=bool)
    return g.op("Where", condition, g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1)), g.weight(0.0))


def half_a_mask(g, x):
    mask = np.ones((WIDTH, WIDTH, 1, 1))
    mask[0] = 0
    return g.op("Conv", x, g.op("Mul", g.normal(WIDTH, WIDTH, 1, 1), g.weight(mask)))


def one_live_weight(g, x):
    weights = np.zeros((WIDTH, WIDTH, 1, 1))
    weights[2, 1] = 1e-30
    return g.op("Conv", x, g.weight(weights), g.normal(WIDTH))


def relu_at_the_edge(g, x):
    first = g.op("Sigmoid", g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1)))
    deep = g.op(
        "Conv", first, g.weight(np.ones((WIDTH, WIDTH, 1, 1))), g.weight(np.full(WIDTH, -float(WIDTH)))
    )
    return g.op("Conv", g.op("Relu", deep), g.normal(WIDTH, WIDTH, 1, 1))


def padded_border(g, x):
    """Always 6 inside, but the border reads zeros: not constant."""
    six = g.op("Add", g.op("Mul", x, g.weight(np.array(0.0))), g.weight(np.array(6.0)))
    return g.op("Conv", six, g.normal(WIDTH, WIDTH, 3, 3), g.normal(WIDTH), pads=[1] * 4)


def weights_from_outside(g, x):
    return g.op("Conv", x, g.input("w", [WIDTH, WIDTH, 1, 1]), g.normal(WIDTH))


def network(branch, shape, *, relu=True):
    g = GraphBuilder()
    x = g.op("Tanh", g.input("x", shape), output="x0")
    value = branch(g, x)
    merge = g.op("Add", x, value, output="merged" if relu else "y")
    if relu:
        g.op("Relu", merge, output="y")
    block = make_block(
        "block", "x0", "y", branch=value, merge=merge, trailing=("y",) if relu else (), shape=shape
    )
    return g.model({"y": shape}), block


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("branch", "shape"),
    [
        (zero_weights, IMAGE),
        (zero_norm_scale, IMAGE),
        (dead_relu6, IMAGE),
        (layer_scale_of_zero, IMAGE),
        (zero_product, TOKENS),
        (mask_in_the_graph, IMAGE),
        (never_chosen, IMAGE),
        (minus_itself, IMAGE),
    ],
)
def test_a_constant_branch_goes_without_changing_a_bit(branch, shape, relu):
    model, block = network(branch, shape, relu=relu)
    cuts = constant_cuts(model, [block])
    assert [(cut.block.name, cut.form) for cut in cuts] == [("block", Form.SHORTCUT)]
    short = collapse_blocks(model, cuts)
    assert len(short.graph.node) < len(model.graph.node)
    feeds = random_feeds(model, batch=8)
    np.testing.assert_array_equal(run(short, feeds)[0], run(model, feeds)[0])


def test_a_branch_of_zero_leaves_no_node_behind():
    model, block = network(layer_scale_of_zero, IMAGE)
    (cut,) = constant_cuts(model, [block])
    assert cut.repair is None
    assert [node.op_type for node in collapse_blocks(model, [cut]).graph.node] == ["Tanh", "Relu"]


@pytest.mark.parametrize(
    "branch",
    [
        one_live_weight,
        relu_at_the_edge,
        padded_border,
        weights_from_outside,
        sometimes_chosen,
        half_a_mask,
    ],
)
def test_what_may_change_is_not_called_constant(branch):
    model, block = network(branch, IMAGE)
    assert constant_cuts(model, [block]) == []
