"""Inner values as outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import random_feeds, residual_cnn, run

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.expose import expose_values


def test_exposed_values_stand_behind_the_outputs_in_the_order_wanted():
    model, blocks = residual_cnn()
    before = model.SerializeToString()
    names = [blocks[1].output, blocks[0].input, "logits", blocks[1].output]
    exposed = expose_values(model, names)
    assert [v.name for v in exposed.graph.output] == ["logits", "layer1.out", "stem_relu"]
    assert model.SerializeToString() == before
    feeds = random_feeds(model)
    values = run(exposed, feeds)
    np.testing.assert_array_equal(values[0], run(model, feeds)[0])
    assert values[1].shape == values[2].shape == (2, 4, 8, 8)
    assert (values[2] >= 0).all()


def test_types_are_given_where_the_model_notes_them():
    model, _ = residual_cnn()
    exposed = expose_values(model, ["layer0.sum"])
    onnx.checker.check_model(exposed, full_check=True)
    assert exposed.graph.output[1].type.tensor_type.shape.dim[1].dim_value == 4


def test_values_without_a_noted_type_run_too():
    model, _ = residual_cnn()
    del model.graph.value_info[:]
    assert run(expose_values(model, ["layer0.sum"]), random_feeds(model))[1].shape == (2, 4, 8, 8)


def test_inputs_and_weights_can_be_exposed():
    model, _ = residual_cnn()
    feeds = random_feeds(model)
    _, image, weight = run(expose_values(model, ["image", "stem.weight"]), feeds)
    np.testing.assert_array_equal(image, feeds["image"])
    np.testing.assert_array_equal(weight, onnx.numpy_helper.to_array(model.graph.initializer[0]))


def test_an_unknown_value_is_refused():
    model, _ = residual_cnn()
    with pytest.raises(InputError, match="no value nobody"):
        expose_values(model, ["nobody"])
