"""What merging does to a graph: which nodes go, which stay and why, and that outputs stay what they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, random_feeds, run

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.linear import Code, MergeResult, list_activations, merge_linear


def merged(
    model: onnx.ModelProto, mode: str = "always", *, tolerance: float = 1e-5, **options
) -> MergeResult:
    """Merge, and hold the result to the original: checker, signature, outputs to 1e-5 of the largest entry."""
    before = model.SerializeToString()
    result = merge_linear(model, mode, **options)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result.model, full_check=True)
    for side in ("input", "output"):
        assert list(getattr(result.model.graph, side)) == list(getattr(model.graph, side))
    feeds = random_feeds(model, batch=2)
    for a, b in zip(run(model, feeds), run(result.model, feeds), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()
    return result


def ops(result: MergeResult) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


def codes(result: MergeResult) -> list[str]:
    return [refusal.reason.code for refusal in result.refused]


def norm(g: GraphBuilder, value: str, channels: int) -> str:
    positive = [g.weight(g.random.uniform(0.5, 1.5, channels)) for _ in range(2)]
    return g.op("BatchNormalization", value, positive[0], g.normal(channels), g.normal(channels), positive[1])


def test_fully_connected_layers_in_every_spelling_become_one() -> None:
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    value = g.op("Gemm", x, g.normal(16, 8), g.normal(16), transB=1, alpha=0.5, beta=2.0)
    value = g.op("Dropout", value)
    value = g.op("Gemm", value, g.normal(16, 12), g.normal(1, 12))
    value = g.op("Add", g.op("MatMul", value, g.normal(12, 9)), g.normal(9))
    value = g.op("Gemm", value, g.normal(9, 5), output="y")
    result = merged(g.model({"y": ["N", 5]}))
    assert ops(result) == ["Gemm"]
    assert len(result.merges) == 4
    assert all(record.exact for record in result.merges)


def test_matrices_on_tokens_become_one_and_keep_their_form() -> None:
    g = GraphBuilder()
    value = g.op("Add", g.op("MatMul", g.input("x", ["N", 7, 8]), g.normal(8, 32)), g.normal(32))
    g.op("MatMul", value, g.normal(32, 5), output="y")
    assert ops(merged(g.model({"y": ["N", 7, 5]}))) == ["MatMul", "Add"]


def test_a_first_gemm_may_read_its_input_transposed_and_a_second_may_not() -> None:
    g = GraphBuilder()
    value = g.op("Gemm", g.input("x", [8, 6]), g.normal(8, 6), transA=1)
    g.op("Gemm", value, g.normal(6, 4), output="y")
    assert ops(merged(g.model({"y": [6, 4]}))) == ["Gemm"]
    g = GraphBuilder()
    value = g.op("Gemm", g.input("x", [8, 6]), g.normal(6, 5))
    g.op("Gemm", value, g.normal(8, 4), transA=1, output="y")
    result = merged(g.model({"y": [5, 4]}))
    assert ops(result) == ["Gemm", "Gemm"]
    assert codes(result) == [Code.TRANSPOSED.value]


def test_maps_per_channel_go_into_the_weights_around_them() -> None:
    g = GraphBuilder()
    value = norm(g, g.input("x", ["N", 3, 8, 8]), 3)
    value = g.op("Conv", value, g.normal(6, 3, 3, 3))
    value = g.op("Div", g.op("Mul", value, g.normal(6, 1, 1)), g.weight(2.0))
    value = g.op("Sub", g.normal(1, 6, 1, 1), g.op("Add", value, g.normal(1)))
    value = norm(g, value, 6)
    g.op("Identity", value, output="y")
    result = merged(g.model({"y": ["N", 6, 6, 6]}), "cheaper")
    assert ops(result) == ["Conv"]
    assert all(record.before is None for record in result.merges)


def test_a_constant_that_differs_by_position_is_no_map_per_channel() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 3, 8, 8]), g.normal(6, 3, 1, 1))
    g.op("Mul", value, g.normal(8, 8), output="y")
    assert ops(merged(g.model({"y": ["N", 6, 8, 8]}))) == ["Conv", "Mul"]


def test_a_constant_that_widens_the_value_stays() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 3, 8, 8]), g.normal(1, 3, 1, 1))
    g.op("Mul", value, g.normal(5, 1, 1), output="y")
    assert ops(merged(g.model({"y": ["N", 5, 8, 8]}))) == ["Conv", "Mul"]


def test_a_pointwise_convolution_goes_through_pooling_and_flattening() -> None:
    for flatten in ("Flatten", "Reshape", "ReduceMean"):
        g = GraphBuilder(opset=17)
        value = g.op("Conv", g.input("x", ["N", 4, 6, 6]), g.normal(12, 2, 1, 1), g.normal(12), group=2)
        if flatten == "Flatten":
            value = g.op("Flatten", g.op("AveragePool", value, kernel_shape=[3, 3], strides=[3, 3]))
        elif flatten == "Reshape":
            value = g.op("GlobalAveragePool", value)
            value = g.op("Reshape", value, g.weight([-1, 12], dtype=np.int64))
        else:
            value = g.op("ReduceMean", value, axes=[2, 3], keepdims=0)
        features = 48 if flatten == "Flatten" else 12
        g.op("Gemm", value, g.normal(features, 3), g.normal(3), output="y")
        result = merged(g.model({"y": ["N", 3]}), "cheaper")
        assert "Conv" not in ops(result), flatten


def test_a_norm_goes_through_flattening() -> None:
    g = GraphBuilder()
    value = g.op("Flatten", norm(g, g.input("x", ["N", 4, 3, 3]), 4))
    g.op("Gemm", value, g.normal(36, 5), output="y")
    assert ops(merged(g.model({"y": ["N", 5]}))) == ["Flatten", "Gemm"]


def test_a_value_with_other_readers_or_that_is_an_output_stays() -> None:
    g = GraphBuilder()
    hidden = g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, 6), output="hidden")
    value = g.op("Gemm", hidden, g.normal(6, 6))
    g.op("Add", value, hidden, output="y")
    shared = merged(g.model({"y": ["N", 6]}))
    assert ops(shared) == ["Gemm", "Gemm", "Add"]
    assert codes(shared) == [Code.OTHER_READERS.value]
    public = merged(g.model({"y": ["N", 6], "hidden": ["N", 6]}))
    assert codes(public) == [Code.GRAPH_OUTPUT.value]


@pytest.mark.parametrize("between", ["residual", "clip", "norm", "relu"])
def test_nothing_merges_across_what_is_not_linear(between: str) -> None:
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    value = g.op("Gemm", x, g.normal(8, 8))
    if between == "residual":
        value = g.op("Add", value, x)
    elif between == "clip":
        value = g.op("Clip", value, g.weight(0.0), g.weight(6.0))
    elif between == "norm":
        value = g.op("LayerNormalization", value, g.normal(8), g.normal(8))
    else:
        value = g.op("Relu", value)
    g.op("Gemm", value, g.normal(8, 4), output="y")
    model = g.model({"y": ["N", 4]})
    result = merged(model)
    assert result.model == model
    assert not result.merges


def test_a_slope_of_one_is_nothing_and_one_near_it_only_where_that_is_allowed() -> None:
    for slope, allowed in ((1.0, False), (0.97, False), (0.97, True)):
        g = GraphBuilder()
        value = g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, 20), g.normal(20))
        value = g.op("PRelu", value, g.weight(np.full(20, slope)))
        g.op("Gemm", value, g.normal(20, 4), output="y")
        result = merged(g.model({"y": ["N", 4]}), tolerance=0.1, allow_inexact=allowed)
        gone = slope == 1.0 or allowed
        assert ops(result) == (["Gemm"] if gone else ["Gemm", "PRelu", "Gemm"])
        if allowed:
            (record,) = [record for record in result.merges if not record.exact]
            assert record.error == pytest.approx(0.03, abs=1e-6)
            assert record.reason is not None


def test_counting_decides_unless_told_otherwise() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 8, 16, 16]), g.normal(8, 8, 3, 3), pads=[2, 2, 2, 2])
    g.op("Conv", value, g.normal(8, 8, 3, 3), output="y")
    model = g.model({"y": ["N", 8, 16, 16]})
    counted = merged(model, "cheaper")
    assert codes(counted) == [Code.NOT_CHEAPER.value]
    assert "1,600 parameters, as two" in counted.refused[0].reason.text
    assert ops(merged(model, "always")) == ["Conv"]
    assert merged(model, "never").model == model
    with pytest.raises(UsageError, match="sometimes"):
        merge_linear(model, "sometimes")  # type: ignore[arg-type]


def test_a_measurement_may_decide_and_sees_the_pair_alone() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 8, 16, 16]), g.normal(8, 8, 3, 3), pads=[2, 2, 2, 2])
    value = g.op("Relu", g.op("Conv", value, g.normal(8, 8, 3, 3)))
    g.op("Flatten", value, output="y")
    model = g.model({"y": ["N", 2048]})
    seen = []

    def pays(record, pair) -> bool:
        seen.append((record.before.parameters, record.after.parameters))
        onnx.checker.check_model(pair, full_check=True)
        assert [node.op_type for node in pair.graph.node] == ["Conv", "Conv"]
        assert run(pair, random_feeds(pair))[0].shape == (1, 8, 16, 16)
        return len(seen) == 1

    assert ops(merged(model, "cheaper", pays=pays)) == ["Conv", "Relu", "Flatten"]
    assert seen == [(2 * 9 * 64, 25 * 64)]
    refused = merged(model, "cheaper", pays=lambda record, pair: False)
    assert codes(refused) == [Code.NOT_FASTER.value]


def test_shared_weights_keep_what_the_other_reader_needs() -> None:
    g = GraphBuilder()
    shared = g.normal(6, 6, name="shared")
    x = g.input("x", ["N", 6])
    left = g.op("Gemm", g.op("Gemm", x, shared), g.normal(6, 4), output="left")
    g.op("Relu", g.op("Gemm", x, shared), output="right")
    result = merged(g.model({left: ["N", 4], "right": ["N", 6]}))
    assert ops(result) == ["Gemm", "Gemm", "Relu"]


def test_weights_given_through_copies_are_constants_and_stay_as_long_as_they_are_read() -> None:
    g = GraphBuilder()
    bias = g.normal(4, name="bias")
    copy = g.op("Identity", bias)
    value = g.op("Conv", g.input("x", ["N", 4, 6, 6]), g.normal(4, 4, 1, 1), bias)
    value = g.op("Relu", g.op("Conv", value, g.normal(4, 4, 1, 1), copy))
    g.op("Conv", value, g.normal(4, 4, 1, 1), copy, output="y")
    model = g.model({"y": ["N", 4, 6, 6]})
    assert [a.merges for a in list_activations(model)] == [True]
    assert ops(merged(model)) == ["Conv", "Relu", "Conv"]


def test_dead_weights_and_notes_go_and_everything_else_is_carried_over() -> None:
    g = GraphBuilder()
    value = g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, 20, name="w1"), g.normal(20, name="b1"))
    g.op("Gemm", value, g.normal(20, 4, name="w2"), output="y")
    model = g.model({"y": ["N", 4]})
    model.metadata_props.add(key="kept", value="yes")
    model.graph.node[0].doc_string = "first"
    model.graph.doc_string = "graph"
    result = merged(model).model
    assert [p.value for p in result.metadata_props] == ["yes"]
    assert result.graph.doc_string == "graph"
    assert result.graph.node[0].doc_string == "first"
    assert sorted(t.name for t in result.graph.initializer) == ["b1", "w1"]
    assert value not in {v.name for v in result.graph.value_info}


def test_overridable_weights_and_bodies_are_left_alone() -> None:
    g = GraphBuilder()
    value = g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, 20, name="w1"))
    g.op("Gemm", value, g.normal(20, 4, name="w2"), output="y")
    model = g.model({"y": ["N", 4]})
    model.graph.input.append(onnx.helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, [8, 20]))
    assert merge_linear(model, "always").model == model


def test_a_value_that_a_body_reads_has_another_reader() -> None:
    g = GraphBuilder()
    x = g.input("x", ["N", 4])
    hidden = g.op("Gemm", x, g.normal(4, 4), output="hidden")
    last = g.op("Gemm", hidden, g.normal(4, 4))
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["hidden"], ["inner"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    condition = g.weight(True, dtype=np.bool_)
    picked = g.op("If", condition, then_branch=body, else_branch=body)
    g.op("Add", last, picked, output="y")
    assert ops(merged(g.model({"y": ["N", 4]}))) == ["Gemm", "Gemm", "If", "Add"]


def test_half_precision_that_would_overflow_is_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", ["N", 4], onnx.TensorProto.FLOAT16)
    value = g.op("Gemm", x, g.weight(np.full((4, 4), 300.0), dtype=np.float16))
    g.op("Gemm", value, g.weight(np.full((4, 4), 300.0), dtype=np.float16), output="y")
    model = g.model({"y": ["N", 4]}, dtype=onnx.TensorProto.FLOAT16)
    result = merge_linear(model, "always")
    assert result.model == model
    assert codes(result) == [Code.RANGE.value]


def test_merging_twice_is_merging_once() -> None:
    g = GraphBuilder()
    value = norm(g, g.op("Conv", g.input("x", ["N", 3, 8, 8]), g.normal(6, 3, 3, 3)), 6)
    g.op("Conv", value, g.normal(4, 6, 1, 1), g.normal(4), output="y")
    once = merged(g.model({"y": ["N", 4, 6, 6]})).model
    again = merge_linear(once, "always")
    assert again.model == once
    assert not again.merges
