"""Surgery on small graphs: what the cut model computes, and that its signature stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, make_block, random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.blocks import Form, Reason
from lacoot_deploy.graph.cuts import Cut, Repair
from lacoot_deploy.graph.surgery import collapse_blocks


def assert_same(model: onnx.ModelProto, oracle: onnx.ModelProto) -> None:
    feeds = random_feeds(oracle)
    for ours, theirs in zip(run(model, feeds), run(oracle, feeds), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def signature(model: onnx.ModelProto) -> tuple[bytes, ...]:
    return tuple(v.SerializeToString() for v in (*model.graph.input, *model.graph.output))


def cut_and_check(model, blocks, form=Form.BYPASS):
    result = collapse_blocks(model, [Cut(b, form) for b in blocks])
    onnx.checker.check_model(result, full_check=True)
    assert signature(result) == signature(model)
    assert_same(result, cut_by_hand(model, [(b, form) for b in blocks]))
    return result


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("head", [True, False], ids=["inner", "graph-output"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "plain"])
@pytest.mark.parametrize("stem_relu", [True, False], ids=["positive", "signed"])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)], ids=str)
def test_cut_equals_the_cut_by_hand(form, head, relu, stem_relu, which):
    model, blocks = residual_mlp(relu=relu, stem_relu=stem_relu, head=head)
    result = cut_and_check(model, [blocks[i] for i in which], form)
    weights = {tensor.name for tensor in result.graph.initializer}
    for i in range(3):
        assert (f"layer{i}.w1" in weights) == (i not in which)


def test_order_of_the_cuts_does_not_matter():
    model, blocks = residual_mlp(4)
    cuts = [Cut(blocks[i], Form.BYPASS) for i in (3, 1, 2)]
    assert collapse_blocks(model, cuts) == collapse_blocks(model, cuts[::-1])


def test_the_input_model_is_not_touched():
    model, blocks = residual_mlp()
    before = model.SerializeToString(deterministic=True)
    collapse_blocks(model, [Cut(blocks[1], Form.BYPASS)])
    assert model.SerializeToString(deterministic=True) == before


def test_no_cut_gives_an_equal_model():
    model, _ = residual_cnn()
    assert collapse_blocks(model, []) == model


def test_cutting_twice_is_refused():
    model, blocks = residual_mlp()
    once = collapse_blocks(model, [Cut(blocks[1], Form.BYPASS)])
    with pytest.raises(InputError, match=r"layer1 is not in this model.*collapsed already"):
        collapse_blocks(once, [Cut(blocks[1], Form.BYPASS)])
    with pytest.raises(UsageError, match="share the merge"):
        collapse_blocks(model, [Cut(blocks[1], Form.BYPASS), Cut(blocks[1], Form.SHORTCUT)])


def test_blocks_that_cannot_go_are_refused():
    model, _ = residual_mlp()
    fixed = make_block(
        "b", "stem_relu", "layer0.out", reason=Reason("interior-read", "Its interior is read.")
    )
    with pytest.raises(UsageError, match="Its interior is read"):
        collapse_blocks(model, [Cut(fixed, Form.BYPASS)])
    only = make_block("b", "stem_relu", "layer0.out", merge="layer0.sum", forms=[Form.SHORTCUT])
    with pytest.raises(UsageError, match="cannot go as bypass; it can go as shortcut"):
        collapse_blocks(model, [Cut(only, Form.BYPASS)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "plain"])
@pytest.mark.parametrize("kind", ["affine", "linear"])
@pytest.mark.parametrize("build", [residual_mlp, residual_cnn])
def test_a_repair_computes_its_map(build, kind, relu, dtype):
    if build is residual_cnn and dtype is np.float64:
        pytest.skip("ONNX Runtime has no double-precision convolution")
    model, blocks = build(relu=relu, head=False, dtype=dtype)
    block = blocks[-1]
    channels = block.shape[1]
    rng = np.random.default_rng(5)
    shift = rng.normal(size=channels).astype(np.float32)
    scale = rng.normal(size=channels).astype(np.float32)
    matrix = rng.normal(size=(channels, channels)).astype(np.float32)
    if kind == "affine":
        repair, matrix = Repair(axis=1, shift=shift, scale=scale), np.diag(scale)
    else:
        repair = Repair(axis=1, shift=shift, matrix=matrix)
    result = collapse_blocks(model, [Cut(block, Form.BYPASS, repair)])
    onnx.checker.check_model(result, full_check=True)
    assert signature(result) == signature(model)
    feeds = random_feeds(model)
    (x,) = run(collapse_blocks(model, [Cut(block, Form.BYPASS)]), feeds)
    wanted = np.einsum("oc,nc...->no...", matrix.astype(np.float64), x.astype(np.float64))
    wanted = wanted + shift.reshape(-1, *[1] * (x.ndim - 2))
    if relu:
        wanted = np.maximum(wanted, 0)
    (y,) = run(result, feeds)
    assert y.dtype == dtype
    tolerance = {np.float16: 2e-2, np.float32: 1e-5, np.float64: 1e-6}[dtype]
    np.testing.assert_allclose(y, wanted, rtol=tolerance, atol=tolerance)


def test_an_identity_repair_changes_no_bit():
    model, blocks = residual_cnn(relu=False)
    repair = Repair(axis=1, shift=np.zeros(4, np.float32), scale=np.ones(4, np.float32))
    result = collapse_blocks(model, [Cut(blocks[1], Form.BYPASS, repair)])
    assert [n.op_type for n in result.graph.node].count("BatchNormalization") == 1
    assert_same(result, cut_by_hand(model, [(blocks[1], Form.BYPASS)]))


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("kind", ["affine", "linear"])
def test_repairs_on_any_axis(axis, kind):
    g = GraphBuilder()
    x = g.op("Neg", g.input("x", ["N", 3, 4, 5]), output="neg")
    g.op("Add", g.op("Tanh", x), x, output="y")
    model = g.model({"y": ["N", 3, 4, 5]})
    block = make_block("b", "neg", "y", shape=("N", 3, 4, 5))
    channels = block.shape[axis]
    rng = np.random.default_rng(0)
    shift, scale = rng.normal(size=(2, channels)).astype(np.float32)
    matrix = rng.normal(size=(channels, channels)).astype(np.float32)
    repair = Repair(axis, shift, scale) if kind == "affine" else Repair(axis, shift, matrix=matrix)
    result = collapse_blocks(model, [Cut(block, Form.BYPASS, repair)])
    onnx.checker.check_model(result, full_check=True)
    feeds = random_feeds(model)
    applied = np.diag(scale) if kind == "affine" else matrix
    moved = np.moveaxis(-feeds["x"], axis, -1)
    np.testing.assert_allclose(
        run(result, feeds)[0], np.moveaxis(moved @ applied.T + shift, -1, axis), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("repair", "message"),
    [
        (Repair(5, np.zeros(8, np.float32), np.ones(8, np.float32)), "axis 5 does not exist"),
        (Repair(1, np.zeros(8, np.float32), np.ones(4, np.float32)), "must be equal"),
        (Repair(1, np.zeros(4, np.float32), np.ones(4, np.float32)), "has 8 channels"),
        (Repair(1, np.zeros(8, np.float32)), "neither a scale nor a matrix"),
        (Repair(1, np.zeros(8, np.float32), matrix=np.ones((8, 4), np.float32)), "must be square"),
        (Repair(1, np.full(8, 1e6, np.float32), np.ones(8, np.float32)), "float16 cannot represent"),
        (Repair(1, np.full(8, np.nan, np.float32), np.ones(8, np.float32)), "float16 cannot represent"),
    ],
)
def test_a_repair_that_does_not_fit_is_refused(repair, message):
    model, blocks = residual_mlp(dtype=np.float16)
    with pytest.raises(InputError, match=message):
        collapse_blocks(model, [Cut(blocks[1], Form.BYPASS, repair)])
