"""Surgery on small graphs: what the cut model computes, and that its signature stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, make_block, random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.model.blocks import Form, Reason
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Repair


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


@pytest.mark.parametrize("opset", [6, 17])
def test_a_repair_is_clipped_as_the_block_was(opset):
    """ReLU6 after the merge: the input is within 0..6 already, the mapped input is not."""
    g = GraphBuilder(opset=opset)
    bounds = {"min": 0.0, "max": 6.0} if opset < 11 else {}
    limits = [] if bounds else [g.weight(0.0, name="low"), g.weight(6.0, name="high")]
    x = g.op("Clip", g.input("x", ["N", 4, 2, 2]), *limits, output="stem", **bounds)
    g.op("Clip", g.op("Add", g.op("Tanh", x), x, output="sum"), *limits, output="y", **bounds)
    model = g.model({"y": ["N", 4, 2, 2]})
    block = make_block("b", "stem", "y", merge="sum", trailing=["y"], shape=("N", 4, 2, 2))
    cut = Cut(block, Form.BYPASS, Repair(1, np.full(4, -20, np.float32), np.full(4, 50, np.float32)))
    if opset < 7:
        with pytest.raises(InputError, match="opset 7 or newer"):
            collapse_blocks(model, [cut])
        return
    feeds = random_feeds(model)
    (y,) = run(collapse_blocks(model, [cut]), feeds)
    np.testing.assert_allclose(y, np.clip(np.clip(feeds["x"], 0, 6) * 50 - 20, 0, 6), rtol=1e-5, atol=1e-5)
    assert y.min() == 0
    assert y.max() == 6


def test_a_shortcut_repair_sits_on_the_skip_path_before_the_trailing_op():
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ["N", 4]), output="stem")
    skip = g.op("MatMul", x, g.normal(4, 6), output="skip")
    g.op("Relu", g.op("Add", g.op("MatMul", x, g.normal(4, 6)), skip, output="sum"), output="y")
    model = g.model({"y": ["N", 6]})
    block = make_block(
        "b", "stem", "y", merge="sum", skip="skip", trailing=["y"], shape=("N", 4), output_shape=("N", 6),
        forms=[Form.SHORTCUT],
    )  # fmt: skip
    repair = Repair(1, np.linspace(-1, 1, 6, dtype=np.float32), np.full(6, 2, np.float32))
    result = collapse_blocks(model, [Cut(block, Form.SHORTCUT, repair)])
    feeds = random_feeds(model)
    wanted = run(collapse_blocks(model, [Cut(block, Form.SHORTCUT)]), feeds, outputs=None)
    (raw,) = run(cut_by_hand(model, [(block, Form.SHORTCUT)]), feeds)
    np.testing.assert_array_equal(wanted[0], raw)
    stem = np.maximum(feeds["x"], 0)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    mapped = np.maximum(stem @ weight * 2 + np.linspace(-1, 1, 6), 0)
    np.testing.assert_allclose(run(result, feeds)[0], mapped, rtol=1e-5, atol=1e-5)


def test_two_units_in_one_block_both_lose_their_branch():
    g = GraphBuilder()
    x = g.op("Neg", g.input("x", ["N", 4]), output="stem")
    first = g.op("Add", g.op("Tanh", x), x, output="first")
    g.op("Add", g.op("Sigmoid", first, output="inner"), first, output="second")
    g.op("Exp", "second", output="y")
    model = g.model({"y": ["N", 4]})
    units = [make_block("b.u1", "stem", "first").units[0], make_block("b.u2", "first", "second").units[0]]
    block = make_block("b", "stem", "second", units=units, shape=("N", 4))
    for form in Form:
        result = cut_and_check(model, [block], form)
        assert [node.op_type for node in result.graph.node] == ["Neg", "Exp"]
    repair = Repair(1, np.ones(4, np.float32), np.ones(4, np.float32))
    result = collapse_blocks(model, [Cut(block, Form.SHORTCUT, repair)])
    assert [node.op_type for node in result.graph.node] == ["Neg", "Mul", "Add", "Exp"]


class TestPublicOutputs:
    """The block's output is an output of the model, and its input something with a public name too."""

    def build(self, *, source: str, also_output: bool = False, twice: bool = False):
        g = GraphBuilder()
        x = g.input("x", ["N", 4])
        if source == "inner":
            x = g.op("Neg", x, output="stem")
        elif source == "initializer":
            x = g.normal(2, 4, name="table")
        g.op("Add", g.op("Tanh", x), x, output="y")
        outputs = {"y": ["N", 4]}
        blocks = [make_block("b", x, "y", shape=("N", 4))]
        if twice:
            g.op("Add", g.op("Sigmoid", x), x, output="z")
            outputs["z"] = ["N", 4]
            blocks.append(make_block("c", x, "z", shape=("N", 4)))
        if also_output:
            outputs[x] = ["N", 4]
        return g.model(outputs), blocks

    def test_inner_source_is_renamed(self):
        model, blocks = self.build(source="inner")
        assert [n.op_type for n in cut_and_check(model, blocks).graph.node] == ["Neg"]

    @pytest.mark.parametrize("source", ["input", "initializer"])
    def test_public_source_keeps_an_identity(self, source):
        model, blocks = self.build(source=source)
        assert [n.op_type for n in cut_and_check(model, blocks).graph.node] == ["Identity"]

    def test_source_that_is_an_output_keeps_an_identity(self):
        model, blocks = self.build(source="inner", also_output=True)
        assert [n.op_type for n in cut_and_check(model, blocks).graph.node] == ["Neg", "Identity"]

    @pytest.mark.parametrize("source", ["inner", "input"])
    def test_two_outputs_on_one_value(self, source):
        model, blocks = self.build(source=source, twice=True)
        kinds = [n.op_type for n in cut_and_check(model, blocks).graph.node]
        assert kinds == (["Neg", "Identity"] if source == "inner" else ["Identity", "Identity"])

    def test_the_outputs_other_readers_follow(self):
        g = GraphBuilder()
        x = g.op("Neg", g.input("x", ["N", 4]), output="stem")
        g.op("Add", g.op("Tanh", x), x, output="y")
        g.op("Exp", "y", output="z")
        model = g.model({"y": ["N", 4], "z": ["N", 4]})
        result = cut_and_check(model, [make_block("b", "stem", "y")])
        assert [list(n.input) for n in result.graph.node] == [["x"], ["y"]]


def test_a_shared_weight_stays_while_another_block_reads_it():
    g = GraphBuilder()
    weight = g.normal(4, 4, name="shared")
    x = g.op("Neg", g.input("x", ["N", 4]), output="v0")
    for i in range(3):
        x = g.op("Add", g.op("MatMul", x, weight), x, output=f"v{i + 1}")
    model = g.model({"v3": ["N", 4]})
    blocks = [make_block(f"b{i}", f"v{i}", f"v{i + 1}", shape=("N", 4)) for i in range(3)]
    assert [t.name for t in cut_and_check(model, blocks[:2]).graph.initializer] == ["shared"]
    assert not cut_and_check(model, blocks).graph.initializer


def test_weights_in_constant_nodes_go_with_the_block():
    g = GraphBuilder()
    x = g.op("Neg", g.input("x", ["N", 4]), output="stem")
    weight = g.op("Constant", value=onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32)))
    g.op("Exp", g.op("Add", g.op("MatMul", x, weight), x, output="sum"), output="y")
    result = cut_and_check(g.model({"y": ["N", 4]}), [make_block("b", "stem", "sum")])
    assert [n.op_type for n in result.graph.node] == ["Neg", "Exp"]


def test_a_name_that_is_taken_is_not_given_again():
    g = GraphBuilder()
    x = g.op("Neg", g.input("x", ["N", 4, 2]), output="stem")
    g.op("Exp", g.op("Add", g.op("Tanh", x), x, output="sum"), output="y")
    g.weight(np.zeros(3), name="b/scale")
    g.op("Identity", "y", output="b/BatchNormalization")
    model = g.model({"b/BatchNormalization": ["N", 4, 2]})
    block = make_block("b", "stem", "sum", shape=("N", 4, 2))
    repair = Repair(1, np.zeros(4, np.float32), np.ones(4, np.float32))
    result = collapse_blocks(model, [Cut(block, Form.BYPASS, repair)])
    onnx.checker.check_model(result, full_check=True)
    assert_same(result, cut_by_hand(model, [(block, Form.BYPASS)]))
    new = next(node for node in result.graph.node if node.op_type == "BatchNormalization")
    assert new.name == "b/BatchNormalization_1"
    assert list(new.input) == ["stem", "b/scale_1", "b/shift", "b/mean", "b/variance"]
    assert list(new.output) == ["sum"]


def test_a_repair_in_bfloat16():
    """ONNX Runtime has no such kernels on the CPU: the reference evaluator shows what the nodes compute."""
    g = GraphBuilder(opset=22, ir_version=10)
    kind = onnx.TensorProto.BFLOAT16
    x = g.op("Neg", g.input("x", ["N", 4, 3], kind), output="stem")
    g.op("Add", g.op("Tanh", x), x, output="y")
    model = g.model({"y": ["N", 4, 3]}, dtype=kind)
    block = make_block("b", "stem", "y", shape=("N", 4, 3), dtype="bfloat16")
    repair = Repair(1, np.full(4, 0.5, np.float32), np.full(4, 2, np.float32))
    result = collapse_blocks(model, [Cut(block, Form.BYPASS, repair)])
    onnx.checker.check_model(result, full_check=True)
    assert {tensor.data_type for tensor in result.graph.initializer} == {kind}
    scale, shift = (onnx.numpy_helper.to_array(t).astype(np.float32) for t in result.graph.initializer)
    np.testing.assert_array_equal(scale.ravel(), 2)
    np.testing.assert_array_equal(shift.ravel(), 0.5)


class TestGuard:
    """A graph that onnx-graphsurgeon does not give back as it was is refused before anything is cut."""

    def test_a_round_trip_that_loses_a_node(self, monkeypatch):
        import onnx_graphsurgeon as gs

        model, blocks = residual_mlp()
        original = gs.export_onnx

        def lossy(graph, **options):
            exported = original(graph, **options)
            del exported.graph.node[3:]
            return exported

        monkeypatch.setattr(gs, "export_onnx", lossy)
        with pytest.raises(
            InputError, match="cannot represent this model: its round trip changes the number of nodes"
        ):
            collapse_blocks(model, [Cut(blocks[0], Form.BYPASS)])

    def test_an_import_that_fails(self, monkeypatch):
        import onnx_graphsurgeon as gs

        def failing(model):
            raise UnboundLocalError("onnx_tensor")

        monkeypatch.setattr(gs, "import_onnx", failing)
        model, blocks = residual_mlp()
        with pytest.raises(InputError, match="cannot represent this model: onnx_tensor"):
            collapse_blocks(model, [Cut(blocks[0], Form.BYPASS)])


@pytest.mark.parametrize("kind", ["affine", "linear"])
def test_a_repair_adds_no_public_input_where_weights_had_to_be_inputs(kind):
    """Before IR version 4 every initializer is an input too, and inputs do not change."""
    model, blocks = residual_cnn()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    onnx.checker.check_model(model, full_check=True)
    shift, scale = np.ones(4, np.float32), np.full(4, 2, np.float32)
    repair = Repair(1, shift, scale) if kind == "affine" else Repair(1, shift, matrix=np.diag(scale))
    result = collapse_blocks(model, [Cut(blocks[1], Form.BYPASS, repair)])
    onnx.checker.check_model(result, full_check=True)
    gone = {f"layer1.conv{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    assert [v for v in model.graph.input if v.name not in gone] == list(result.graph.input)
    feeds = random_feeds(model)
    plain, blocks = residual_cnn()
    assert_same(result, collapse_blocks(plain, [Cut(blocks[1], Form.BYPASS, repair)]))
    assert run(result, feeds)[0].shape == (2, 3)
