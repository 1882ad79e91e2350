"""Every family of the operator table gives what ONNX Runtime gives, by the version of the operator set."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from builders import GraphBuilder, run

from lacoot_deploy.errors import InputError
from lacoot_deploy.healing.flat import flatten
from lacoot_deploy.healing.module import graph_module
from lacoot_deploy.healing.operators import FAMILIES, TABLE, find
from lacoot_deploy.healing.operators.base import Call
from lacoot_deploy.healing.weights import trainable_weights

MICROSOFT = "com.microsoft"
MAP = (2, 4, 6, 7)


def values(shape, dtype=np.float32, seed=0, low=None):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(low or 0, 5, shape).astype(dtype)
    found = rng.normal(size=shape).astype(dtype)
    return found if low is None else np.abs(found) + low


def check(kind, *given, opset=17, domain="", outputs=1, constant=(), **attributes):
    """One node, its operands given or constant, in PyTorch and in ONNX Runtime."""
    operands = [None if operand is None else np.asarray(operand) for operand in given]
    g = GraphBuilder(opset=opset, ir_version=8)
    feeds, names = {}, []
    for place, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif place in constant:
            names.append(g.weight(operand, dtype=operand.dtype))
        else:
            element = onnx.helper.np_dtype_to_tensor_dtype(operand.dtype)
            feeds[f"x{place}"] = operand
            names.append(g.input(f"x{place}", operand.shape, element))
    results = [f"y{i}" for i in range(outputs)]
    g.nodes.append(onnx.helper.make_node(kind, names, results, domain=domain, **attributes))
    g.domains.add(domain)
    model = g.model({}, infer=False)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in results)
    expected = run(model, feeds)
    found = graph_module(flatten(model)).values({k: torch.from_numpy(v) for k, v in feeds.items()})
    for name, theirs in zip(results, expected, strict=True):
        ours = found[name].numpy()
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


UNARY = """
    Abs Neg Sign Floor Ceil Round Exp Erf Sin Cos Atan Sinh Asinh Sigmoid Tanh Relu Softsign
    HardSwish Mish Softplus Elu Selu Celu LeakyRelu HardSigmoid ThresholdedRelu Shrink Softmax
    LogSoftmax Identity Flatten GlobalAveragePool GlobalMaxPool Transpose LpNormalization
    MeanVarianceNormalization
""".split()  # noqa: SIM905


@pytest.mark.parametrize("kind", UNARY)
def test_one_operand(kind):
    check(kind, 2 * values(MAP), opset=18)


@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Reciprocal"])
def test_one_positive_operand(kind):
    check(kind, values(MAP, low=0.1))


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"])
def test_two_operands(kind):
    check(kind, values((2, 3, 4)), values((3, 1), seed=1, low=0.5))


@pytest.mark.parametrize(("a", "b"), [(-7, 2), (7, -2), (-8, 3)])
def test_whole_numbers_are_divided_towards_zero(a, b):
    check("Div", np.array([a], np.int64), np.array([b], np.int64))
    check("Mod", np.array([a], np.int64), np.array([b], np.int64))


def test_an_operand_is_laid_along_an_axis_before_operator_set_7():
    # ONNX Runtime no longer runs these; NumPy says what they are.
    run_it = find("", "Add").build(Call("Add", "", 6, {"broadcast": 1, "axis": 1}))
    a, b = values((2, 3, 4)), values((3,), seed=1)
    np.testing.assert_array_equal(run_it(torch.from_numpy(a), torch.from_numpy(b)).numpy(), a + b[:, None])


def test_activations_with_attributes():
    check("Gelu", values((3, 4)), opset=20, approximate="tanh")
    check("Gelu", values((3, 4)), opset=20)
    check("HardSigmoid", values((3, 4)), alpha=0.4, beta=0.3)
    check("Clip", values((3, 4)), opset=6, min=-0.5, max=0.5)
    check("Clip", values((3, 4)), np.float32(-0.5), np.float32(0.5), constant=(1,))
    check("Clip", values((3, 4)), None, np.float32(0.5), constant=(2,))
    check("PRelu", values((2, 3, 4)), values((3, 1), seed=2))
    for exponent in (2.0, 3.0, 0.5):
        check("Pow", values((3, 4), low=0.1), np.float32(exponent), constant=(1,))


REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"
)


@pytest.mark.parametrize("kind", REDUCTIONS.split())
def test_reductions_take_axes_as_attribute_or_operand(kind):
    if kind != "ReduceSum":
        check(kind, values(MAP), opset=13, axes=[1, 3], keepdims=0)
    check(kind, values(MAP), np.array([-1, 1], np.int64), opset=18)
    check(kind, values(MAP), opset=18, keepdims=0)
    check(kind, values(MAP), np.zeros(0, np.int64), opset=18, noop_with_empty_axes=1)


def test_softmax_was_over_all_later_axes_before_operator_set_13():
    check("Softmax", values(MAP), opset=11, axis=2)
    check("Softmax", values(MAP), opset=13, axis=1)
    check("CumSum", values((3, 4)), np.array(1, np.int64), exclusive=1, reverse=1)


def test_shapes():
    check("Reshape", values((2, 3, 4)), np.array([0, -1], np.int64))
    check("Reshape", values((2, 3, 4)), np.array([4, -1], np.int64), constant=(1,))
    check("Squeeze", values((2, 1, 4, 1)), np.array([1, -1], np.int64))
    check("Squeeze", values((2, 1, 4)), opset=11, axes=[1])
    check("Unsqueeze", values((2, 4)), np.array([0, -1], np.int64))
    check("Concat", values((2, 3)), values((2, 1), seed=1), axis=-1)
    check("Expand", values((3, 1)), np.array([2, 1, 4], np.int64))
    check("Tile", values((2, 3)), np.array([2, 1], np.int64))
    check("Transpose", values((2, 3, 4)), perm=[1, 2, 0])
    check("Shape", values((2, 3, 4)), start=-2)
    check("Trilu", values((4, 4)), np.array(1, np.int64), upper=0)
    check("EyeLike", values((3, 4)), k=1, dtype=1)
    check("DepthToSpace", values((1, 8, 2, 3)), blocksize=2)
    check("DepthToSpace", values((1, 8, 2, 3)), blocksize=2, mode="CRD")
    check("SpaceToDepth", values((1, 2, 4, 6)), blocksize=2)
    check("ConstantOfShape", np.array([2, 3], np.int64))
    check("Range", np.int64(1), np.int64(9), np.int64(3))


def test_splits():
    check("Split", values((2, 7)), np.array([3, 4], np.int64), outputs=2, axis=1)
    check("Split", values((2, 7)), opset=18, outputs=3, axis=1, num_outputs=3)
    check("Split", values((2, 6)), opset=11, outputs=2, axis=1, split=[2, 4])


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [2**31], [2], [2]),
        ([-1], [-5], [1], [-1]),
        ([0, -3], [1, -1], [0, 3], [1, 1]),
        ([5], [1], [2], [1]),
    ],
)
def test_slices(starts, ends, axes, steps):
    check("Slice", values(MAP), *(np.array(part, np.int64) for part in (starts, ends, axes, steps)))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pads(mode):
    check("Pad", values((2, 3, 5)), np.array([0, 1, 2, 0, 0, 1], np.int64), mode=mode)
    check("Pad", values((2, 3, 5)), np.array([0, 0, -1, 1, 0, -1], np.int64), np.float32(0.5))
    check(
        "Pad",
        values((2, 3, 5)),
        np.array([1, 2], np.int64),
        None,
        np.array([-1], np.int64),
        opset=18,
        mode=mode,
    )


def test_picking():
    check("Gather", values((5, 3)), np.array([[0, -1], [2, 4]], np.int64))
    check("Gather", values((2, 5, 3)), np.array(-2, np.int64), axis=1)
    check("GatherElements", values((3, 4)), np.array([[0, -1], [1, 2]], np.int64), axis=1)
    check("GatherND", values((2, 3, 4)), np.array([[0, 1], [1, -1]], np.int64))
    check("GatherND", values((2, 3, 4)), np.array([[1], [2]], np.int64), batch_dims=1)
    check("ScatterND", values((4, 3)), np.array([[1], [-1]], np.int64), values((2, 3), seed=1))
    check(
        "ScatterElements",
        values((3, 3)),
        np.array([[0, 1], [1, 2]], np.int64),
        values((2, 2), seed=1),
        axis=1,
    )
    check("OneHot", np.array([[0, -1], [2, 1]], np.int64), np.int64(4), np.array([0, 1], np.float32), axis=1)
    check("TopK", values((3, 6)), np.array([2], np.int64), outputs=2)
    check("ArgMax", values((3, 6)), axis=1, keepdims=0)
    check("ArgMin", values((3, 6)), axis=0, select_last_index=1)
    check("NonZero", np.array([[0, 1], [1, 1]], np.float32))
    check("Where", np.array([True, False]), values((2,)), values((2,), seed=1))
    check("Cast", values((2, 3)), to=onnx.TensorProto.INT64)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"dilations": [2, 1]},
    ],
)
def test_convolutions(attributes):
    x, w, b = values(MAP), values((6, 2, 3, 3), seed=1), values((6,), seed=2)
    check("Conv", x, w, b, group=2, **attributes)
    wt = values((4, 3, 3, 3), seed=1)
    check("ConvTranspose", x, wt, b, group=2, **attributes)


def test_convolutions_of_other_ranks():
    check("Conv", values((2, 3, 9)), values((4, 3, 3), seed=1), strides=[2])
    check("ConvTranspose", values(MAP), values((4, 3, 2, 2), seed=1), strides=[2, 2], output_padding=[1, 0])
    check("ConvTranspose", values(MAP), values((4, 3, 3, 3), seed=1), strides=[2, 2], output_shape=[12, 14])


@pytest.mark.parametrize(
    "attributes", [{}, {"ceil_mode": 1}, {"pads": [1, 1, 0, 1]}, {"auto_pad": "SAME_UPPER"}]
)
def test_pools(attributes):
    common = {"kernel_shape": [3, 2], "strides": [2, 2], **attributes}
    check("MaxPool", values(MAP), **common)
    check("AveragePool", values(MAP), **common)
    check("AveragePool", values(MAP), count_include_pad=1, **common)


def test_norms():
    vector = [values((4,), seed=i, low=0.3) for i in range(4)]
    check("BatchNormalization", values(MAP), *vector)
    check("InstanceNormalization", values(MAP), *vector[:2])
    check("LayerNormalization", values((2, 3, 4)), *vector[:2])
    check("LayerNormalization", values((2, 3, 4)), values((3, 4), seed=5), outputs=3, axis=1)
    check("GroupNormalization", values(MAP), *vector[:2], opset=21, num_groups=2)
    check("LRN", values(MAP), size=3)


@pytest.mark.parametrize("system", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizes(mode, system):
    x = values((1, 2, 5, 6))
    check(
        "Resize",
        x,
        None,
        np.array([1, 1, 2.0, 1.5], np.float32),
        mode=mode,
        coordinate_transformation_mode=system,
    )
    sizes = np.array([1, 2, 8, 3], np.int64)
    check("Resize", x, None, None, sizes, mode=mode, coordinate_transformation_mode=system)


def test_products():
    check("MatMul", values((2, 3, 4)), values((4, 5), seed=1))
    check(
        "Gemm",
        values((4, 3)),
        values((5, 4), seed=1),
        values((5,), seed=2),
        transA=1,
        transB=1,
        alpha=0.5,
        beta=2.0,
    )
    check("Einsum", values((2, 3, 4)), values((2, 5, 4), seed=1), equation="bij, bkj -> bik")
    check("GridSample", values((1, 2, 5, 6)), values((1, 3, 4, 2), seed=1) / 2, opset=16)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers(kind, direction):
    ways, gates, size = 1 + (direction == "bidirectional"), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 5
    w, r = values((ways, gates * size, 4), seed=1), values((ways, gates * size, size), seed=2)
    b = values((ways, 2 * gates * size), seed=3)
    outputs = 3 if kind == "LSTM" else 2
    attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
    check(
        kind, values((3, 2, 4)), w, r, b, outputs=outputs, hidden_size=size, direction=direction, **attributes
    )


def test_fused_operators():
    x, skip, vector = values((2, 3, 4)), values((2, 3, 4), seed=1), values((4,), seed=2)
    check("SkipLayerNormalization", x, skip, vector, vector, vector, domain=MICROSOFT)
    check("SkipSimplifiedLayerNormalization", x, skip, vector, domain=MICROSOFT)
    check("BiasGelu", x, vector, domain=MICROSOFT)
    check("FastGelu", x, vector, domain=MICROSOFT)
    check("QuickGelu", x, domain=MICROSOFT, alpha=1.5)
    check("FusedMatMul", x, values((3, 4), seed=1), domain=MICROSOFT, transB=1, alpha=0.5)
    w = values((4, 4, 3, 3), seed=1)
    check(
        "FusedConv",
        values(MAP),
        w,
        values((4,), seed=2),
        domain=MICROSOFT,
        pads=[1, 1, 1, 1],
        activation="Relu",
    )
    qkv, bias = values((4, 12), seed=1), values((12,), seed=2)
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    check("Attention", x, qkv, bias, mask, domain=MICROSOFT, num_heads=2)
    check("Attention", x, qkv, bias, domain=MICROSOFT, num_heads=2, unidirectional=1)
    check("MultiHeadAttention", x, skip, skip, bias, domain=MICROSOFT, num_heads=2)


def test_what_the_table_lacks_is_named():
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", [2, 4]), g.normal(4, 4))
    y = g.op("Det", g.op("Foo", x, domain="my.own"), output="y")
    with pytest.raises(InputError, match=r"these operators.*my\.own\.Foo.*Det"):
        graph_module(flatten(g.model({y: [2]}, infer=False)))


def test_the_table_is_large_and_every_family_adds_to_it():
    assert len(TABLE) > 150
    assert len(FAMILIES) > 8
    assert find("ai.onnx", "Conv") is find("", "Conv")


def test_a_vector_is_a_weight_and_a_mask_is_none():
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", ["N", 4]), g.normal(4, 4, name="w"))
    x = g.op("Add", x, g.normal(4, name="bias"))
    x = g.op("Add", x, g.weight([[0.0, -1e9, 0.0, 0.0]], name="mask"))
    x = g.op("Div", x, g.normal(4, name="divisor"))
    x = g.op("Mul", x, g.weight(0.5, name="scalar"))
    assert trainable_weights(flatten(g.model({x: ["N", 4]}))) == ["w", "bias"]
