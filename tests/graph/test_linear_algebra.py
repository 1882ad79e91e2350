"""Two linear operators in a row are one: against PyTorch and onnx.reference in double precision, over random shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from lacoot_deploy.graph.linear import Code, merge_linear
from lacoot_deploy.graph.linear.algebra import (
    Geometry,
    bias_through_convolution,
    border_problem,
    compose_convolutions,
    compose_geometry,
    reaches_output,
)
from lacoot_deploy.graph.linear.reference import convolve, relative_change

EXACT = 1e-12
QUICK = settings(max_examples=30, deadline=None)


def torch_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, geometry: Geometry) -> Any:
    """PyTorch in double precision; the padding is done by hand, so that it may be asymmetric."""
    import torch
    from torch.nn import functional

    pads = [
        side
        for axis in reversed(range(len(geometry.kernel)))
        for side in (geometry.begin[axis], geometry.end[axis])
    ]
    run_ = functional.conv1d if len(geometry.kernel) == 1 else functional.conv2d
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (x, weight)]
    return run_(
        functional.pad(tensors[0], pads),
        tensors[1],
        None if bias is None else torch.from_numpy(bias),
        stride=geometry.strides,
        dilation=geometry.dilations,
        groups=geometry.groups,
    ).numpy()


@st.composite
def geometries(draw: st.DrawFn, axes: int) -> Geometry:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    return Geometry(
        kernel=each(1, 3),
        strides=each(1, 3),
        begin=each(0, 2),
        end=each(0, 2),
        dilations=each(1, 2),
        groups=draw(st.sampled_from([1, 2, 4])),
    )


@st.composite
def chains(draw: st.DrawFn) -> dict[str, Any]:
    """Two convolutions in a row that fit each other, with input, weights and biases."""
    axes = draw(st.sampled_from([1, 2]))
    first, second = draw(geometries(axes)), draw(geometries(axes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    middle = 4 * draw(st.integers(1, 2))
    channels = first.groups * draw(st.integers(1, 2))
    outputs = second.groups * draw(st.integers(1, 2))
    sizes = tuple(
        draw(
            st.integers(first.reach(a) + 1 + second.reach(a) * first.strides[a], 14)
            if first.reach(a) + 1 + second.reach(a) * first.strides[a] < 14
            else st.just(20)
        )
        for a in range(axes)
    )
    return {
        "first": first,
        "second": second,
        "x": random.normal(size=(2, channels, *sizes)),
        "w1": random.normal(size=(middle, channels // first.groups, *first.kernel)),
        "w2": random.normal(size=(outputs, middle // second.groups, *second.kernel)),
        "b1": random.normal(size=middle) if draw(st.booleans()) else None,
        "b2": random.normal(size=outputs) if draw(st.booleans()) else None,
        "sizes": sizes,
    }


def relative(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))


def both(chain: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    first, second = chain["first"], chain["second"]
    apart = torch_convolution(
        torch_convolution(chain["x"], chain["w1"], chain["b1"], first), chain["w2"], chain["b2"], second
    )
    weight = compose_convolutions(chain["w1"], first, chain["w2"], second)
    bias = np.zeros(len(weight)) if chain["b2"] is None else chain["b2"]
    if chain["b1"] is not None:
        bias = bias + bias_through_convolution(chain["b1"], chain["w2"], second.groups)
    return apart, torch_convolution(chain["x"], weight, bias, compose_geometry(first, second))


@given(chains())
@settings(max_examples=100, deadline=None)
def test_two_convolutions_said_to_be_one_are_one(chain: dict[str, Any]) -> None:
    biased = chain["b1"] is not None and reaches_output(chain["b1"], chain["w2"], chain["second"].groups)
    unknown = (None,) * len(chain["sizes"])
    problems = [
        border_problem(chain["first"], chain["second"], biased=biased, sizes=sizes)
        for sizes in (chain["sizes"], unknown)
    ]
    if None in problems:
        assert relative(*both(chain)) <= EXACT
    if problems[1] is None:
        assert problems[0] is None, "what holds for every size holds for this one"


@given(chains())
@QUICK
def test_unpadded_second_convolutions_always_merge(chain: dict[str, Any]) -> None:
    second = chain["second"]
    zeros = (0,) * len(second.kernel)
    chain["second"] = Geometry(second.kernel, second.strides, zeros, zeros, second.dilations, second.groups)
    assert border_problem(chain["first"], chain["second"], biased=True, sizes=chain["sizes"]) is None
    apart, together = both(chain)
    assert relative(apart, together) <= EXACT


@given(
    kernels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    biased=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@QUICK
def test_a_border_is_refused_only_where_it_really_differs(
    kernels: tuple[int, int], pads: tuple[int, int], biased: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    first, second = (
        Geometry((k, k), (1, 1), (p, p), (p, p), (1, 1), 1) for k, p in zip(kernels, pads, strict=True)
    )
    chain = {
        "first": first,
        "second": second,
        "x": random.normal(size=(2, 3, 9, 8)),
        "w1": random.normal(size=(4, 3, kernels[0], kernels[0])),
        "w2": random.normal(size=(5, 4, kernels[1], kernels[1])),
        "b1": random.normal(size=4) if biased else None,
        "b2": None,
        "sizes": (9, 8),
    }
    problem = border_problem(first, second, biased=biased, sizes=(9, 8))
    error = relative(*both(chain))
    assert (error <= EXACT) == (problem is None)


@given(chains())
@QUICK
def test_the_measuring_convolution_is_pytorchs(chain: dict[str, Any]) -> None:
    expected = torch_convolution(chain["x"], chain["w1"], chain["b1"], chain["first"])
    for sample, row in zip(chain["x"], expected, strict=True):
        assert relative(row, convolve(sample, chain["w1"], chain["b1"], chain["first"])) <= EXACT


def onnx_chain(chain: dict[str, Any], dtype: Any) -> onnx.ModelProto:
    g = GraphBuilder(opset=17)
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = g.input("x", ["N", *chain["x"].shape[1:]], elem)
    for number, name in ((1, "first"), (2, "second")):
        geometry = chain[name]
        operands = [g.weight(chain[f"w{number}"], dtype=dtype)]
        if chain[f"b{number}"] is not None:
            operands.append(g.weight(chain[f"b{number}"], dtype=dtype))
        value = g.op(
            "Conv",
            value,
            *operands,
            output="y" if number == 2 else None,
            strides=geometry.strides,
            pads=[*geometry.begin, *geometry.end],
            dilations=geometry.dilations,
            group=geometry.groups,
        )
    return g.model({"y": ["N", None, *(None for _ in chain["sizes"])]}, dtype=elem)


@given(chains())
@settings(max_examples=40, deadline=None)
def test_merged_files_agree_in_single_precision_or_are_refused(chain: dict[str, Any]) -> None:
    model = onnx_chain(chain, np.float32)
    result = merge_linear(model, "always")
    feeds = {"x": chain["x"].astype(np.float32)}
    if not result.merges:
        assert result.model == model
        assert result.refused[0].reason.code in (Code.BORDER_BIAS.value, Code.BORDER_WINDOW.value)
        forced = merge_linear(model, "always", allow_inexact=True)
        (record,) = forced.merges
        assert record.reason == result.refused[0].reason
        before, after = run(model, feeds)[0], run(forced.model, feeds)[0]
        # Measured on random input of the same size: of the same order as on any other. Where the pair reads nothing
        # but its padding it gives nothing, and there is no largest entry to compare with.
        if record.error and np.abs(before).max() > 1e-3:
            assert relative(before, after) < 30 * record.error + 1e-5
        return
    assert len(result.model.graph.node) == 1
    assert relative(run(model, feeds)[0], run(result.model, feeds)[0]) <= 1e-5


@given(chains())
@settings(max_examples=20, deadline=None)
def test_merged_files_agree_in_double_precision(chain: dict[str, Any]) -> None:
    model = onnx_chain(chain, np.float64)
    result = merge_linear(model, "always")
    if result.merges:
        (before,), (after,) = (
            ReferenceEvaluator(m).run(None, {"x": chain["x"]}) for m in (model, result.model)
        )
        assert relative(before, after) <= EXACT


@given(
    dims=st.tuples(*[st.integers(1, 6)] * 4),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    factors=st.tuples(*[st.sampled_from([1.0, 0.5, -2.0])] * 4),
    biased=st.tuples(st.booleans(), st.booleans()),
    spelling=st.tuples(*[st.sampled_from(["Gemm", "MatMul"])] * 2),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=50, deadline=None)
def test_fully_connected_layers_agree(
    dims: tuple[int, int, int, int],
    turned: tuple[bool, bool, bool],
    factors: tuple[float, ...],
    biased: tuple[bool, bool],
    spelling: tuple[str, str],
    seed: int,
    dtype: Any,
) -> None:
    rows, features, hidden, outputs = dims
    g = GraphBuilder(seed=seed)
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    first_turned = turned[0] and spelling[0] == "Gemm"
    value = g.input("x", [features, rows] if first_turned else [rows, features], elem)
    for number, (kind, width, height) in enumerate(
        ((spelling[0], features, hidden), (spelling[1], hidden, outputs))
    ):
        last = "y" if number else None
        shape = (height, width) if turned[1 + number] and kind == "Gemm" else (width, height)
        weight, bias = g.normal(*shape, dtype=dtype), g.normal(height, dtype=dtype)
        if kind == "MatMul":
            value = g.op("MatMul", value, weight, output=None if biased[number] else last)
            if biased[number]:
                value = g.op("Add", bias, value, output=last)
            continue
        value = g.op(
            "Gemm",
            value,
            weight,
            *([bias] if biased[number] else []),
            output=last,
            transA=int(first_turned and not number),
            transB=int(turned[1 + number]),
            alpha=factors[2 * number],
            beta=factors[2 * number + 1],
        )
    model = g.model({"y": [rows, outputs]}, dtype=elem)
    result = merge_linear(model, "always")
    kinds = [node.op_type for node in result.model.graph.node]
    assert sum(kind in ("Gemm", "MatMul") for kind in kinds) == 1
    onnx.checker.check_model(result.model, full_check=True)
    x = np.random.default_rng(seed).normal(
        size=[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    )
    feeds = {"x": x.astype(dtype)}
    before, after = (np.asarray(run(m, feeds)[0]) for m in (model, result.model))
    assert np.abs(before - after).max() <= (1e-5 if dtype is np.float32 else EXACT) * max(
        np.abs(before).max(), 1e-3 if dtype is np.float32 else 1e-10
    )


@given(
    kind=st.sampled_from(["BatchNormalization", "Mul", "Add", "Sub", "Div", "rsub"]),
    behind=st.booleans(),
    pad=st.integers(0, 1),
    group=st.sampled_from([1, 2]),
    scalar=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@QUICK
def test_maps_per_channel_agree_or_are_refused(
    kind: str, behind: bool, pad: int, group: int, scalar: bool, seed: int
) -> None:
    g = GraphBuilder(seed=seed)

    def affine(value: str, channels: int, output: str | None) -> str:
        if kind == "BatchNormalization":
            variance = g.weight(g.random.uniform(0.5, 2, channels))
            operands = [g.normal(channels), g.normal(channels), g.normal(channels), variance]
            return g.op(kind, value, *operands, output=output, epsilon=1e-3)
        constant = g.weight(g.random.uniform(0.5, 2, () if scalar else (channels, 1, 1)))
        if kind == "rsub":
            return g.op("Sub", constant, value, output=output)
        return g.op(kind, value, constant, output=output)

    value = g.input("x", ["N", 4, 6, 7])
    if not behind:
        value = affine(value, 4, None)
    weight = g.normal(6, 4 // group, 3, 2)
    value = g.op("Conv", value, weight, pads=[pad, 0, pad, 1], group=group, output=None if behind else "y")
    if behind:
        affine(value, 6, "y")
    model = g.model({"y": ["N", 6, None, None]})
    result = merge_linear(model, "cheaper")
    x = {"x": np.random.default_rng(seed).normal(size=(2, 4, 6, 7)).astype(np.float32)}
    assert relative(run(model, x)[0], run(result.model, x)[0]) <= 1e-5
    shifts = kind not in ("Mul", "Div")
    assert len(result.model.graph.node) == (2 if shifts and not behind else 1)


@pytest.mark.parametrize("first_pad", [0, 1, 2])
def test_published_mistakes_are_inexact_and_say_by_how_much(first_pad: int) -> None:
    """3x3 (pad 1) twice differs at the border whatever the bias; 3x3 (pad 2) then 3x3 (pad 0) does not."""
    random = np.random.default_rng(0)
    first = Geometry((3, 3), (1, 1), (first_pad,) * 2, (first_pad,) * 2, (1, 1), 1)
    second = Geometry((3, 3), (1, 1), (2 - first_pad,) * 2, (2 - first_pad,) * 2, (1, 1), 1)
    w1, w2 = random.normal(size=(8, 8, 3, 3)), random.normal(size=(8, 8, 3, 3))
    problem = border_problem(first, second, biased=False, sizes=(16, 16))
    assert (problem is None) == (first_pad == 2)
    change = relative_change(
        [(w1, None, first), (w2, None, second)],
        [(compose_convolutions(w1, first, w2, second), None, compose_geometry(first, second))],
        channels=8,
        sizes=(16, 16),
    )
    assert change <= EXACT if first_pad == 2 else change > 0.05


def test_a_merged_kernel_is_never_cropped() -> None:
    """LayerFold cuts the 5x5 of two 3x3 to 3x3, a third of the output gone; here the merged kernel is 5x5."""
    random = np.random.default_rng(0)
    plain = Geometry((3, 3), (1, 1), (0, 0), (0, 0), (1, 1), 1)
    w1, w2 = random.normal(size=(8, 8, 3, 3)), random.normal(size=(8, 8, 3, 3))
    merged = compose_convolutions(w1, plain, w2, plain)
    assert merged.shape == (8, 8, 5, 5)
    cropped = merged.copy()
    cropped[..., [0, -1], :] = cropped[..., :, [0, -1]] = 0
    geometry = compose_geometry(plain, plain)
    chain = [(w1, None, plain), (w2, None, plain)]
    lost = relative_change(chain, [(cropped, None, geometry)], channels=8, sizes=(16, 16))
    kept = relative_change(chain, [(merged, None, geometry)], channels=8, sizes=(16, 16))
    assert lost > 0.2
    assert kept <= EXACT


def test_a_biased_pointwise_convolution_before_a_padded_one_is_refused_with_its_error() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 4, 10, 10]), g.normal(8, 4, 1, 1), g.normal(8, scale=1.0))
    g.op("Conv", value, g.normal(4, 8, 3, 3), output="y", pads=[1, 1, 1, 1])
    model = g.model({"y": ["N", 4, 10, 10]})
    (refused,) = merge_linear(model, "always").refused
    assert refused.reason.code == Code.BORDER_BIAS.value
    (record,) = merge_linear(model, "always", allow_inexact=True).merges
    assert record.error > 0.05


def test_without_bias_it_merges_whatever_the_padding() -> None:
    g = GraphBuilder()
    value = g.op("Conv", g.input("x", ["N", 4, 10, 10]), g.normal(8, 4, 1, 1))
    g.op("Conv", value, g.normal(4, 8, 3, 3), g.normal(4), output="y", pads=[1, 1, 1, 1])
    assert [record.exact for record in merge_linear(g.model({"y": ["N", 4, 10, 10]}), "always").merges] == [
        True
    ]


@pytest.mark.parametrize(("groups", "dilations"), [((2, 4), (1, 1)), ((8, 1), (1, 1)), ((1, 1), (2, 3))])
def test_groups_and_dilations_that_differ_take_the_finest_that_holds_both(
    groups: tuple[int, int], dilations: tuple[int, int]
) -> None:
    """Multiplying weights as if groups and dilations were alike gives another network."""
    first, second = (
        Geometry((3, 3), (1, 1), (0, 0), (0, 0), (d, d), g) for g, d in zip(groups, dilations, strict=True)
    )
    random = np.random.default_rng(0)
    chain = {
        "first": first,
        "second": second,
        "x": random.normal(size=(1, 8, 16, 16)),
        "w1": random.normal(size=(8, 8 // groups[0], 3, 3)),
        "w2": random.normal(size=(8, 8 // groups[1], 3, 3)),
        "b1": random.normal(size=8),
        "b2": None,
    }
    assert relative(*both(chain)) <= EXACT
