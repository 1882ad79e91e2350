from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import classifier, make_model

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.evaluate import accuracy, predict, top_k_hits
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session


@pytest.mark.parametrize("batch", ["n", 4])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_predictions_do_not_depend_on_the_batch_size(batch, batch_size):
    weight = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    x = np.random.default_rng(3).standard_normal((11, 6)).astype(np.float32)
    session = open_session(classifier(weight, batch=batch), runtime=Runtime("cpu"))
    logits = predict(session, Samples({"x": x}), batch_size=batch_size)["logits"]
    np.testing.assert_allclose(logits, x @ weight, rtol=1e-5, atol=1e-6)


def test_accuracy_is_in_percent():
    logits = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0], [5.0, 4.0, 3.0]])
    labels = np.array([2, 1, 1, 2])
    assert accuracy(logits, labels) == 50.0
    assert accuracy(logits, labels, k=2) == 75.0
    assert accuracy(logits, labels, k=3) == 100.0


def test_top_1_is_argmax_also_with_ties():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 3, (200, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 200)
    np.testing.assert_array_equal(top_k_hits(logits, labels), logits.argmax(axis=1) == labels)


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(InputError, match="5"):
        accuracy(np.zeros((2, 3)), np.array([0, 5]))


def test_an_output_without_sample_axis_is_refused():
    node = helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)
    model = make_model([node], {"x": (TensorProto.FLOAT, ["n", 2])}, {"mean": (TensorProto.FLOAT, [])})
    with pytest.raises(InputError, match="no sample axis"):
        predict(open_session(model, runtime=Runtime("cpu")), Samples({"x": np.zeros((3, 2), np.float32)}))
