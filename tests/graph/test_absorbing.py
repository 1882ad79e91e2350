"""A norm takes in the affine map behind it, exactly, where nothing else reads its result."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, make_block, random_feeds, run

from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Repair


def post_norm(watched: bool = False, shared: bool = False):
    """Two post-norm units; the norm in front of the second may be an output, or share its weights with another."""
    g = GraphBuilder()
    x = g.input("x", ["N", 5, 8])
    scale, shift = g.normal(8), g.normal(8)
    blocks = []
    for i in range(2):
        branch = g.op("MatMul", g.op("Relu", g.op("MatMul", x, g.normal(8, 16))), g.normal(16, 8))
        merge = g.op("Add", x, branch)
        weights = (scale, shift) if shared else (g.normal(8), g.normal(8))
        y = g.op("LayerNormalization", merge, *weights, axis=-1, output=f"norm{i}")
        blocks.append(make_block(f"b{i}", x, y, branch=branch, merge=merge, trailing=(y,), shape=("N", 5, 8)))
        x = y
    g.op("MatMul", x, g.normal(8, 3), output="y")
    outputs = {"y": ["N", 5, 3]} | ({"norm0": ["N", 5, 8]} if watched else {})
    return g.model(outputs), blocks[1]


def cut_and_by_hand(model, block):
    rng = np.random.default_rng(0)
    scale, shift = (rng.normal(size=8).astype(np.float32) for _ in range(2))
    cut = Cut(block, Form.BYPASS, Repair(axis=2, shift=shift, scale=scale), clip=False)
    feeds = random_feeds(model)
    head = onnx.utils.Extractor(model)
    before = run(head.extract_model(["x"], ["norm0"]), feeds)[0] * scale + shift
    expected = run(head.extract_model(["norm1"], ["y"]), {"norm1": before})[0]
    return collapse_blocks(model, [cut]), feeds, expected


@pytest.mark.parametrize("shared", [False, True])
def test_the_norm_in_front_takes_the_map_in(shared):
    model, block = post_norm(shared=shared)
    smaller, feeds, expected = cut_and_by_hand(model, block)
    kinds = [node.op_type for node in smaller.graph.node]
    assert "Mul" not in kinds
    assert kinds.count("Add") == 1
    onnx.checker.check_model(smaller, full_check=True)
    np.testing.assert_allclose(run(smaller, feeds)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_norm_that_somebody_else_reads_stays_as_it_is():
    model, block = post_norm(watched=True)
    smaller, feeds, expected = cut_and_by_hand(model, block)
    assert "Mul" in [node.op_type for node in smaller.graph.node]
    np.testing.assert_allclose(run(smaller, feeds)[0], expected, rtol=1e-5, atol=1e-5)
