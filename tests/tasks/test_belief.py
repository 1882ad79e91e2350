"""Labels that the dense network cannot tell are doubted, and what may be the matter is found by trying."""

from __future__ import annotations

import numpy as np
import pytest

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks import Judge
from lacoot_deploy.tasks.belief import require_belief, try_labels

RANDOM = np.random.default_rng(3)
WEIGHTS = RANDOM.standard_normal((6, 5))
X = RANDOM.standard_normal((300, 6))


def network(samples):
    return {"y": np.tanh(samples.feeds["x"]) @ WEIGHTS}


def belief(labels, *, x=X, further=None, outputs=None):
    samples = Samples({"x": x}, labels, further_labels=further or {})
    judge = Judge.of(network(samples) if outputs is None else outputs, samples)
    return try_labels(judge, samples, run=network if outputs is None else None)


RIGHT = network(Samples({"x": X}))["y"].argmax(axis=1)


def test_right_labels_are_believed_and_the_score_is_said():
    found = belief(RIGHT)
    assert found.believed
    assert found.score.value == 100
    assert 10 < found.guess < 40
    assert "accuracy 100.00 % (95 % interval 98" in found.sentence()
    require_belief(found, trust=False)


def test_few_samples_are_believed_sooner():
    labels = RIGHT[:12].copy()
    labels[:4] = (labels[:4] + 1) % 5
    assert belief(labels, x=X[:12]).believed


def test_labels_by_chance_are_not_believed():
    found = belief(RANDOM.permutation(RIGHT))
    assert not found.believed
    assert found.hint is None
    with pytest.raises(InputError, match=r"do not seem to belong .* guessing gives .* --trust-labels"):
        require_belief(found, trust=False)
    require_belief(found, trust=True)


def test_labels_that_count_from_one_are_told():
    found = belief((RIGHT + 1) % 5)
    assert not found.believed
    assert "Labels less one give 100.00 %" in found.hint


def test_another_order_of_the_classes_is_told():
    found = belief(np.array([2, 4, 1, 0, 3])[RIGHT])
    assert "Another order of the classes gives 100.00 %" in found.hint


def test_inputs_in_another_scale_are_told():
    found = belief(RIGHT, x=X * 255 + 2000)
    assert not found.believed
    assert "less its mean" in found.hint


def test_other_labels_of_the_same_data_are_told():
    found = belief(None, further={"age": RANDOM.permutation(RIGHT), "kind": RIGHT})
    assert "'kind' of the same data" in found.hint


def test_targets_in_other_units_are_told():
    values = RANDOM.standard_normal((200, 1))
    found = belief(1000 * values + 7, x=X[:200], outputs={"y": values})
    assert not found.believed
    assert "other units" in found.hint


def test_labels_of_one_class_alone_can_still_be_believed_or_not():
    counts = np.bincount(RIGHT, minlength=5)
    assert belief(np.full(300, counts.argmax())).believed
    assert not belief(np.full(300, counts.argmin())).believed


def test_without_labels_there_is_nothing_to_believe():
    assert belief(None).believed
