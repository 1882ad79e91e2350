"""Fused merges: SkipLayerNormalization and its simplified sibling, as ONNX Runtime's optimiser writes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, make_block, random_feeds, run

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Repair

WIDTH = 8


def layer_norm(x, gamma, beta, epsilon):
    centre = x - x.mean(-1, keepdims=True)
    return centre / np.sqrt((centre**2).mean(-1, keepdims=True) + epsilon) * gamma + beta


def rms_norm(x, gamma, beta, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gamma


class Fused:
    """x -> branch -> SkipLayerNormalization(branch, x) -> exp, the sum itself read by a second output."""

    def __init__(
        self, *, simplified: bool = False, opset: int = 17, with_sum: bool = False, bias: bool = True
    ):
        g = GraphBuilder(opset=opset, seed=3)
        self.simplified, self.epsilon = simplified, 1e-3
        x = g.op("Neg", g.input("x", ["N", 5, WIDTH]), output="stem")
        branch = g.op("MatMul", x, g.normal(WIDTH, WIDTH, name="branch.w"), output="branch")
        operands = [branch, x, g.normal(WIDTH, name="gamma", scale=1)]
        if not simplified:
            operands.append(g.normal(WIDTH, name="beta", scale=1))
        if bias:
            operands.append(g.normal(WIDTH, name="branch.b"))
        kind = "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization"
        outputs = ["normed", "", "", "total"] if with_sum else ["normed"]
        g.op(kind, *operands, domain="com.microsoft", epsilon=self.epsilon, output="normed")
        g.nodes[-1].output.extend(outputs[1:])
        g.op("Exp", "normed", output="y")
        wanted = {"y": ["N", 5, WIDTH]}
        if with_sum:
            g.op("Sin", "total", output="z")
            wanted["z"] = ["N", 5, WIDTH]
        self.model = g.model(wanted)
        self.weights = {t.name: onnx.numpy_helper.to_array(t) for t in self.model.graph.initializer}
        self.feeds = random_feeds(self.model)
        self.x = -self.feeds["x"]

    def norm(self, value):
        form = rms_norm if self.simplified else layer_norm
        return form(value, self.weights["gamma"], self.weights.get("beta", 0), self.epsilon)

    def block(self, y: str = "normed", **options):
        kind = "SkipSimplifiedLayerNormalization" if self.simplified else "SkipLayerNormalization"
        return make_block("b", "stem", y, merge="normed", merge_op=kind, shape=("N", 5, WIDTH), **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [12, 17, 18, 23])
@pytest.mark.parametrize("simplified", [False, True])
def test_shortcut_leaves_the_norm_of_the_skip_path(simplified, opset, bias):
    fused = Fused(simplified=simplified, opset=opset, bias=bias)
    result = collapse_blocks(fused.model, [Cut(fused.block(), Form.SHORTCUT)])
    onnx.checker.check_model(result, full_check=True)
    kinds = [node.op_type for node in result.graph.node]
    assert kinds[-1] == "Exp"
    assert not any("Skip" in kind for kind in kinds)
    assert {t.name for t in result.graph.initializer} & set(fused.weights) == {"gamma"} | (
        set() if simplified else {"beta"}
    )
    np.testing.assert_allclose(run(result, fused.feeds)[0], np.exp(fused.norm(fused.x)), rtol=1e-4, atol=1e-5)


def test_a_fused_norm_is_spelt_as_the_model_already_spells_it():
    g = GraphBuilder(opset=14, seed=3)
    x = g.op("LayerNormalization", g.input("x", ["N", 5, WIDTH]), g.normal(WIDTH), axis=-1, output="stem")
    branch = g.op("MatMul", x, g.normal(WIDTH, WIDTH))
    g.op("SkipLayerNormalization", branch, x, g.normal(WIDTH), domain="com.microsoft", output="y")
    model = g.model({"y": ["N", 5, WIDTH]}, infer=False)
    block = make_block("b", "stem", "y", merge_op="SkipLayerNormalization", shape=("N", 5, WIDTH))
    result = collapse_blocks(model, [Cut(block, Form.SHORTCUT)])
    assert [node.op_type for node in result.graph.node] == ["LayerNormalization", "LayerNormalization"]
    run(result, random_feeds(model))


def test_bypass_takes_the_norm_along():
    fused = Fused()
    result = collapse_blocks(fused.model, [Cut(fused.block(), Form.BYPASS)])
    assert [node.op_type for node in result.graph.node] == ["Neg", "Exp"]
    np.testing.assert_allclose(run(result, fused.feeds)[0], np.exp(fused.x), rtol=1e-6)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("simplified", [False, True])
def test_the_sum_and_its_norm_both_have_readers(simplified, form):
    """Pre-norm: the sum is the block's output, and its norm feeds the next block."""
    fused = Fused(simplified=simplified, with_sum=True)
    result = collapse_blocks(fused.model, [Cut(fused.block("total"), form)])
    y, z = run(result, fused.feeds)
    np.testing.assert_allclose(y, np.exp(fused.norm(fused.x)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(z, np.sin(fused.x), rtol=1e-5, atol=1e-6)
    assert not any("Skip" in node.op_type for node in result.graph.node)


@pytest.mark.parametrize("form", list(Form))
def test_a_repair_goes_before_the_norm(form):
    fused = Fused(with_sum=True)
    rng = np.random.default_rng(0)
    shift, scale = rng.normal(size=(2, WIDTH)).astype(np.float32)
    result = collapse_blocks(fused.model, [Cut(fused.block("total"), form, Repair(2, shift, scale))])
    onnx.checker.check_model(result, full_check=True)
    y, z = run(result, fused.feeds)
    mapped = fused.x * scale + shift
    np.testing.assert_allclose(y, np.exp(fused.norm(mapped)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(z, np.sin(mapped), rtol=1e-5, atol=1e-5)


def test_a_statistic_of_the_fused_norm_that_is_read_is_refused():
    fused = Fused(with_sum=True)
    fused.model.graph.node[2].output[1] = "mean"
    fused.model.graph.node[-1].input[0] = "mean"
    with pytest.raises(InputError, match="mean, a statistic of block b's fused norm, is read elsewhere"):
        collapse_blocks(fused.model, [Cut(fused.block(), Form.SHORTCUT)])
