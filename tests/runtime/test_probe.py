from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import chain, make_model, text_encoder

from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.probe import probe_shapes


def test_free_dimensions_keep_their_names_and_fixed_ones_become_numbers():
    shapes = probe_shapes(chain(2), ["h0", "r1", "h2"])
    assert shapes == dict.fromkeys(("h0", "r1", "h2"), ("n", 8, 8, 8))
    assert probe_shapes(text_encoder(), ["embedded", "pooled"]) == {
        "embedded": ("batch", "sequence", 3),
        "pooled": ("batch", 3),
    }


def test_dimensions_without_a_name_and_derived_ones_are_told_apart():
    pool = helper.make_node("MaxPool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2])
    again = helper.make_node("Relu", ["half"], ["y"])
    model = make_model(
        [pool, again],
        {"x": (TensorProto.FLOAT, [None, 3, "height", "width"])},
        {"y": (TensorProto.FLOAT, None)},
    )
    shapes = probe_shapes(model, ["x", "half", "y"])
    assert shapes["x"] == ("x:0", 3, "height", "width")
    assert shapes["half"] == shapes["y"]
    assert shapes["half"][:2] == ("x:0", 3)
    assert isinstance(shapes["half"][2], str)
    assert len({shapes["half"][2], shapes["half"][3], "height", "width"}) == 4


def test_a_model_that_runs_at_one_size_only_gives_that_size():
    # The free sides are declared wrongly: the reshape needs 224 x 224.
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    model = make_model(
        nodes,
        {"x": (TensorProto.FLOAT, [1, 3, "h", "w"])},
        {"y": (TensorProto.FLOAT, None)},
        {"to": np.array([3, 224, 224])},
    )
    assert probe_shapes(model, ["y"]) == {"y": (3, 224, 224)}


def test_a_value_that_does_not_exist_is_an_input_error():
    with pytest.raises(InputError, match="nope"):
        probe_shapes(chain(1), ["nope"])
