"""A map on a branch, folded into its last operator, is the map applied to the branch's value."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, make_block, random_feeds, run
from onnx import helper, numpy_helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.expose import expose_values
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Refit, Repair
from lacoot_deploy.graph.surgery.folding import Folder, fold_refits

WIDTH = 6
IMAGE, ROWS, TOKENS = ("N", WIDTH, 5, 5), ("N", WIDTH), ("N", 4, WIDTH)


def conv(g, x, **attributes):
    group = attributes.get("group", 1)
    weights = g.normal(WIDTH, WIDTH // group, 3, 3)
    bias = [] if attributes.pop("bare", False) else [g.normal(WIDTH)]
    return g.op("Conv", x, weights, *bias, pads=[1] * 4, **attributes)


def norm(g, x):
    values = [g.normal(WIDTH), g.normal(WIDTH), g.normal(WIDTH), g.weight(np.full(WIDTH, 0.7))]
    return g.op("BatchNormalization", conv(g, x), *values)


def matmul(g, x, *, swapped=False):
    product = g.op("MatMul", x, g.normal(WIDTH, WIDTH))
    bias = g.normal(WIDTH)
    return g.op("Add", *((bias, product) if swapped else (product, bias)))


BRANCHES = {
    "convolution": (IMAGE, conv, True),
    "convolution without bias": (IMAGE, lambda g, x: conv(g, x, bare=True), True),
    "grouped convolution": (IMAGE, lambda g, x: conv(g, x, group=2), False),
    "batch norm": (IMAGE, norm, False),
    "gemm": (ROWS, lambda g, x: g.op("Gemm", x, g.normal(WIDTH, WIDTH), g.normal(WIDTH)), True),
    "gemm transposed": (
        ROWS,
        lambda g, x: g.op("Gemm", x, g.normal(WIDTH, WIDTH), g.normal(WIDTH), transB=1),
        True,
    ),
    "gemm without bias": (ROWS, lambda g, x: g.op("Gemm", x, g.normal(WIDTH, WIDTH)), True),
    "matmul and add": (TOKENS, matmul, True),
    "add and matmul": (TOKENS, lambda g, x: matmul(g, x, swapped=True), True),
}


def one_block(branch, shape, *, dtype=np.float32, **options):
    """relu(x) + branch(relu(x)), relu: a block called `block` with its branch's value."""
    g = GraphBuilder(**options)
    x = g.op("Relu", g.input("x", shape), output="x0")
    value = branch(g, x)
    g.op("Add", x, value, output="merged")
    g.op("Relu", "merged", output="y")
    return g, make_block("block", "x0", "y", branch=value, merge="merged", trailing=("y",), shape=shape)


def a_map(shape, *, linear, seed=3):
    random = np.random.default_rng(seed)
    axis, shift = (1 if len(shape) != 3 else 2), random.normal(size=WIDTH).astype(np.float32)
    if linear:
        return Repair(axis=axis, shift=shift, matrix=random.normal(size=(WIDTH, WIDTH)).astype(np.float32))
    return Repair(axis=axis, shift=shift, scale=random.normal(size=WIDTH).astype(np.float32))


def by_hand(repair, value):
    """T(value), one channel vector at a time."""
    moved = np.moveaxis(value, repair.axis, -1).astype(np.float64)
    matrix = np.diag(repair.scale) if repair.matrix is None else repair.matrix
    return np.moveaxis(
        np.einsum("ij,...j->...i", matrix.astype(np.float64), moved) + repair.shift, -1, repair.axis
    )


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", BRANCHES)
def test_folding_is_exact(name, linear):
    shape, branch, takes_matrix = BRANCHES[name]
    g, block = one_block(branch, shape)
    model = g.model({"y": shape})
    place = Folder(model).find(block)
    assert place is not None
    assert place.matrix is takes_matrix
    repair = a_map(shape, linear=linear)
    if linear and not takes_matrix:
        with pytest.raises(InputError, match="branch of block 'block'"):
            collapse_blocks(model, [], [Refit(block, repair)])
        return
    before = model.SerializeToString()
    folded = collapse_blocks(model, [], [Refit(block, repair)])
    onnx.checker.check_model(folded, full_check=True)
    assert model.SerializeToString() == before
    assert len(folded.graph.node) == len(model.graph.node)
    feeds = random_feeds(model)
    x0, value = run(expose_values(model, ["x0", block.units[0].branch]), feeds)[1:]
    expected = np.maximum(x0 + by_hand(repair, value), 0)
    np.testing.assert_allclose(run(folded, feeds)[0], expected, rtol=1e-5, atol=1e-5)


def test_weights_that_others_read_are_copied_and_not_changed_under_them():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", IMAGE), output="x0")
    weights, bias = g.normal(WIDTH, WIDTH, 3, 3, name="shared"), g.normal(WIDTH, name="bias")
    first = g.op("Conv", x, weights, bias, pads=[1] * 4)
    g.op("Add", x, first, output="middle")
    second = g.op("Conv", "middle", weights, bias, pads=[1] * 4)
    g.op("Add", "middle", second, output="y")
    model = g.model({"y": IMAGE})
    block = make_block("second", "middle", "y", branch=second, shape=IMAGE)
    folded = collapse_blocks(model, [], [Refit(block, a_map(IMAGE, linear=True))])
    feeds = random_feeds(model)
    for old, new in zip(
        run(expose_values(model, ["middle"]), feeds)[1:],
        run(expose_values(folded, ["middle"]), feeds)[1:],
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)
    assert {tensor.name for tensor in folded.graph.initializer} >= {"shared", "bias", "second/refit/weight"}


def test_weights_in_constant_nodes_give_way_to_folded_ones():
    def branch(g, x):
        weights = numpy_helper.from_array(g.random.normal(size=(WIDTH, WIDTH, 1, 1)).astype(np.float32))
        return g.op("Conv", x, g.op("Constant", value=weights))

    g, block = one_block(branch, IMAGE)
    model = g.model({"y": IMAGE})
    repair = a_map(IMAGE, linear=True)
    folded = collapse_blocks(model, [], [Refit(block, repair)])
    assert [node.op_type for node in folded.graph.node] == ["Relu", "Conv", "Add", "Relu"]
    feeds = random_feeds(model)
    x0, value = run(expose_values(model, ["x0", block.units[0].branch]), feeds)[1:]
    np.testing.assert_allclose(
        run(folded, feeds)[0], np.maximum(x0 + by_hand(repair, value), 0), rtol=1e-5, atol=1e-5
    )


def test_weights_in_external_data_are_read_from_beside_the_model(tmp_path):
    g, block = one_block(conv, IMAGE)
    model = g.model({"y": IMAGE})
    repair = a_map(IMAGE, linear=True)
    expected = run(collapse_blocks(model, [], [Refit(block, repair)]), feeds := random_feeds(model))[0]
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="w.data")
    loaded = load_model(path)
    folded = collapse_blocks(loaded, [], [Refit(block, repair)], folder=tmp_path)
    onnx.load_external_data_for_model(folded, str(tmp_path))
    np.testing.assert_array_equal(run(folded, feeds)[0], expected)


def test_half_precision_weights_stay_half_precision():
    g = GraphBuilder()
    x = g.input("x", IMAGE, onnx.TensorProto.FLOAT16)
    value = g.op("Conv", x, g.normal(WIDTH, WIDTH, 1, 1, dtype=np.float16))
    g.op("Add", x, value, output="y")
    model = g.model({"y": IMAGE}, dtype=onnx.TensorProto.FLOAT16)
    block = make_block("block", "x", "y", branch=value, shape=IMAGE, dtype="float16")
    folded = collapse_blocks(model, [], [Refit(block, a_map(IMAGE, linear=True))])
    assert {tensor.data_type for tensor in folded.graph.initializer} == {onnx.TensorProto.FLOAT16}
    huge = Repair(axis=1, shift=np.zeros(WIDTH, np.float32), scale=np.full(WIDTH, 1e6, np.float32))
    with pytest.raises(InputError, match="range of float16"):
        collapse_blocks(model, [], [Refit(block, huge)])


def refused():
    def read_elsewhere():
        g, block = one_block(conv, IMAGE)
        g.op("Neg", block.units[0].branch, output="z")
        return g.model({"y": IMAGE, "z": IMAGE}), block

    def a_public_output():
        g, block = one_block(conv, IMAGE)
        return g.model({"y": IMAGE, block.units[0].branch: IMAGE}), block

    def weights_that_callers_may_override():
        g, block = one_block(conv, IMAGE)
        weights = g.weights[0]
        g.inputs.append(helper.make_tensor_value_info(weights.name, weights.data_type, list(weights.dims)))
        return g.model({"y": IMAGE}), block

    def an_activation_at_the_end():
        g, block = one_block(lambda g, x: g.op("Tanh", conv(g, x)), IMAGE)
        return g.model({"y": IMAGE}), block

    def a_bias_per_position():
        g, block = one_block(
            lambda g, x: g.op("Add", g.op("MatMul", x, g.normal(WIDTH, WIDTH)), g.normal(4, WIDTH)), TOKENS
        )
        return g.model({"y": TOKENS}), block

    def a_scaled_gemm():
        g, block = one_block(lambda g, x: g.op("Gemm", x, g.normal(WIDTH, WIDTH), alpha=2.0), ROWS)
        return g.model({"y": ROWS}), block

    return [value for value in locals().values() if callable(value)]


@pytest.mark.parametrize("build", refused(), ids=lambda build: build.__name__)
def test_what_is_not_exact_is_refused(build):
    model, block = build()
    assert Folder(model).find(block) is None
    with pytest.raises(InputError, match="does not end in an operator"):
        fold_refits(model, [Refit(block, a_map(IMAGE, linear=False))])


def test_a_map_of_other_width_is_refused():
    g, block = one_block(conv, IMAGE)
    wide = Repair(axis=1, shift=np.zeros(9, np.float32), scale=np.ones(9, np.float32))
    with pytest.raises(InputError, match="9 channels, not 6"):
        collapse_blocks(g.model({"y": IMAGE}), [], [Refit(block, wide)])
