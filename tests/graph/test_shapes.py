"""Shapes without running the model: inferred, followed symbolically, through shape arithmetic, and measured."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from lacoot_deploy.graph.model.blocks import Shape
from lacoot_deploy.graph.model.expose import expose_values
from lacoot_deploy.graph.model.index import index_model
from lacoot_deploy.graph.model.table import same_shape
from lacoot_deploy.graph.shapes import dims
from lacoot_deploy.graph.shapes.infer import infer


def shapes_of(model: onnx.ModelProto, *names: str, **options: object) -> list[Shape | None]:
    table = infer(index_model(model), **options)[()]
    return [table.shape(name) for name in names]


class TestSameShape:
    def test_numbers_and_symbols(self):
        assert same_shape(("N", 3), ("N", 3)) is True
        assert same_shape(("N", 3), ("N", 4)) is False
        assert same_shape(("N", 3), ("M", 3)) is None
        assert same_shape(("N", 3), (2, 3)) is None
        assert same_shape((3,), (3, 1)) is False

    def test_unknown_is_not_yes(self):
        assert same_shape(None, (3,)) is None
        assert same_shape((None,), (None,)) is None


class TestDimensions:
    @pytest.mark.parametrize(
        ("result", "expected"),
        [
            (dims.multiply("N", 4), "4*N"),
            (dims.divide("4*N", 4), "N"),
            (dims.divide(dims.multiply("N", "H"), "H"), "N"),
            (dims.divide("s0*64", "64*s0"), 1),
            (dims.add("N", 0), "N"),
            (dims.add(dims.add("N", 3), -3), "N"),
            (dims.subtract("H", "H"), 0),
            (dims.modulo("8*N", 4), 0),
            (dims.multiply(None, 4), None),
            (dims.divide(7, 2), 3),
            (dims.divide(-7, 2), -3),
        ],
    )
    def test_arithmetic(self, result, expected):
        assert result == expected

    def test_what_does_not_cancel_stays_apart(self):
        assert dims.divide("N", 2) != dims.divide("N", 3)
        assert dims.add("N", 1) != dims.add("N", 2)

    def test_one_sample(self):
        assert [dims.sample_value(dim) for dim in (7, "N", "17*N", None)] == [7, 1, 17, 1]

    @given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 9))
    def test_products_agree_with_numbers(self, a, b, n):
        symbolic = dims.divide(dims.multiply(dims.multiply("N", a), b), b)
        assert (a if isinstance(symbolic, int) else dims.factors(symbolic)[0] * n) == a * n


def pyramid(size: list[int | str]) -> onnx.ModelProto:
    """Convolutions, pools, a resize and a crop on a free size."""
    g = GraphBuilder()
    x = g.input("x", ["N", 3, *size])
    a = g.op("Conv", x, g.normal(4, 3, 3, 3), pads=[1] * 4, output="same")
    b = g.op("Conv", a, g.normal(4, 4, 3, 3), pads=[1] * 4, strides=[2, 2], output="half")
    g.op("MaxPool", a, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2], output="pooled")
    g.op("Resize", b, "", g.weight([1, 1, 2, 2]), output="double")
    g.op("Conv", a, g.normal(4, 4, 3, 3), output="valid")
    g.op("Slice", a, *(g.weight(v, dtype=np.int64) for v in ([1, 1], [-1, -1], [2, 3])), output="cropped")
    g.op("Neg", b, output="y")
    model = g.model({"y": None}, infer=False)
    return model


NAMES = ("same", "half", "pooled", "double", "valid", "cropped", "y")


class TestFreeSizes:
    def test_equal_where_the_arithmetic_is_equal(self):
        x, same, half, pooled, _, valid, cropped, _ = shapes_of(pyramid(["H", "W"]), "x", *NAMES)
        assert same == ("N", 4, *x[2:])
        assert same_shape(half, pooled) is True
        assert same_shape(valid, cropped) is True
        assert same_shape(same, half) is not True
        assert same_shape(same, valid) is not True

    @pytest.mark.parametrize("size", [[8, 8], [9, 7], [5, 12]])
    def test_numbers_agree_with_a_run(self, size):
        model = pyramid(size)
        found = shapes_of(model, *NAMES)
        measured = run(expose_values(model, NAMES[:-1]), random_feeds(model, batch=2), outputs=list(NAMES))
        assert found == [("N", *array.shape[1:]) for array in measured]

    @settings(max_examples=25, deadline=None)
    @given(st.integers(3, 12), st.integers(3, 12), st.integers(1, 3))
    def test_what_is_called_equal_is_equal(self, height, width, batch):
        model = pyramid(["H", "W"])
        feeds = {"x": np.zeros((batch, 3, height, width), np.float32)}
        measured = dict(
            zip(NAMES, run(expose_values(model, NAMES[:-1]), feeds, outputs=list(NAMES)), strict=True)
        )
        found = dict(zip(NAMES, shapes_of(model, *NAMES), strict=True))
        for a in NAMES:
            for b in NAMES:
                if same_shape(found[a], found[b]):
                    assert measured[a].shape == measured[b].shape


class TestShapeArithmetic:
    def test_reshape_by_computed_sizes(self):
        g = GraphBuilder()
        x = g.input("x", ["N", 6, 4, 4])
        size = g.op("Shape", x)
        batch = g.op("Gather", size, g.weight([0], dtype=np.int64))
        area = g.op("Mul", g.op("Gather", size, g.weight([2], dtype=np.int64)), g.weight([4], dtype=np.int64))
        target = g.op("Concat", batch, g.weight([6], dtype=np.int64), area, axis=0)
        flat = g.op("Reshape", x, target, output="flat")
        windows = g.op("Reshape", flat, g.weight([-1, 3, 16], dtype=np.int64), output="windows")
        back = g.op("Reshape", windows, g.op("Shape", x), output="back")
        g.op("Neg", back, output="y")
        model = g.model({"y": None}, infer=False)
        assert shapes_of(model, "flat", "windows", "back") == [
            ("N", 6, 16),
            ("2*N", 3, 16),
            ("N", 6, 4, 4),
        ]

    def test_padding_to_a_multiple(self):
        g = GraphBuilder()
        x = g.input("x", [1, 4, 10, 8])
        height = g.op("Gather", g.op("Shape", x), g.weight(2, dtype=np.int64))
        seven = g.weight(7, dtype=np.int64)
        missing = g.op("Mod", g.op("Sub", seven, g.op("Mod", height, seven)), seven)
        vector = g.op("Unsqueeze", missing, g.weight([0], dtype=np.int64))
        pads = g.op(
            "Concat", g.weight([0] * 6, dtype=np.int64), vector, g.weight([0], dtype=np.int64), axis=0
        )
        g.op("Pad", x, pads, output="y")
        assert shapes_of(g.model({"y": None}, infer=False), "y") == [(1, 4, 14, 8)]


class TestSources:
    def test_measured_shapes_supersede(self):
        model, _ = residual_cnn(blocks=1)
        assert shapes_of(model, "layer0.out", shapes={"layer0.out": (7, 7)}) == [(7, 7)]

    def test_exporters_symbols_are_kept(self):
        model, _ = residual_cnn(blocks=1)
        assert shapes_of(model, "layer0.sum") == [("N", 4, 8, 8)]

    def test_zero_and_negative_declared_sizes_mean_free(self):
        g = GraphBuilder()
        g.op("Relu", g.input("x", [-1, 3]), output="y")
        (shape,) = shapes_of(g.model({"y": None}, infer=False), "y")
        assert shape[1:] == (3,)
        assert isinstance(shape[0], str)

    def test_external_weights_are_not_read(self, tmp_path: Path):
        model, _ = residual_cnn(blocks=1, channels=32)
        path = tmp_path / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        (tmp_path / "weights.bin").unlink()
        lean = onnx.load(path, load_external_data=False)
        assert shapes_of(lean, "layer0.sum") == [("N", 32, 8, 8)]

    def test_inference_that_fails_leaves_the_rest(self):
        model, _ = residual_cnn(blocks=1)
        model.graph.node.append(helper.make_node("NoSuchOperator", ["image"], ["z"]))
        assert shapes_of(model, "layer0.sum") == [("N", 4, 8, 8)]
