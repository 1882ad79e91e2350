"""Quality of outputs against labels and against the dense network, from hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.selection.search import is_real_gain
from lacoot_deploy.tasks.judge import Judge, relative_rms


def judge_of(dense, labels=None):
    count = len(next(iter(dense.values())))
    return Judge.of(dense, Samples({"x": np.zeros((count, 1), np.float32)}, labels))


def test_accuracy_agreement_and_loss_are_what_they_say():
    dense = {"logits": np.log(np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))}
    judge = judge_of(dense, np.array([1, 0, 1, 1]))
    quality = judge.judge({"logits": np.log(np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]))})
    assert quality.accuracy == 50.0
    assert quality.agreement == 50.0
    assert quality.loss == pytest.approx(-np.mean(np.log([0.9, 0.9, 0.1, 0.4])))
    kl = [
        0.5 * np.log(0.5 / 0.1) + 0.5 * np.log(0.5 / 0.9),
        0,
        0.2 * np.log(0.2 / 0.9) + 0.8 * np.log(0.8 / 0.1),
        0,
    ]
    assert quality.divergence == pytest.approx(np.mean(kl))


def test_outputs_that_are_probabilities_already_are_not_softmaxed_again():
    probabilities = np.array([[0.7, 0.3], [0.1, 0.9]])
    a = judge_of({"p": probabilities}, np.array([0, 1]))
    b = judge_of({"p": np.log(probabilities) + 3}, np.array([0, 1]))
    assert a.judge(a.dense).loss == pytest.approx(b.judge(b.dense).loss)


def test_a_model_of_unknown_purpose_is_judged_by_its_numbers():
    dense = {"map": np.tile([[0.0, 2.0, 1.0]], (4, 2, 1)), "count": np.arange(4)}
    judge = judge_of(dense)
    assert judge.task.name == "regression"
    quality = judge.judge({"map": dense["map"] * 1.1, "count": np.arange(4)})
    assert quality.drift == pytest.approx(0.1)
    assert quality.score < 100
    assert quality.score_name == "R2 against the dense network"
    assert judge.costs({"map": dense["map"] * 1.1}) == pytest.approx(np.full(4, 0.01))


def test_what_is_not_finite_costs_infinitely_much():
    judge = judge_of({"y": np.eye(3)}, np.arange(3))
    broken = np.eye(3)
    broken[1, 1] = np.nan
    assert judge.judge({"y": broken}).loss == np.inf
    assert np.isinf(judge.costs({"y": broken})).tolist() == [False, True, False]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="3 classes"):
        judge_of({"y": np.eye(3)}, np.array([0, 1, 3]))
    with pytest.raises(InputError, match="belong to no output"):
        judge_of({"y": np.ones((3, 2, 2))}, np.array([0, 1, 1]))
    with pytest.raises(InputError, match="judged by no task"):
        judge_of({"y": np.ones((3, 2), np.bool_)})


def test_relative_rms_of_nothing_is_nothing():
    zeros = np.zeros((2, 2))
    assert relative_rms([zeros], [zeros]) == 0
    assert relative_rms([zeros + 1], [zeros]) == np.inf


def test_a_gain_is_real_only_beyond_chance():
    random = np.random.default_rng(0)
    dense = np.zeros(400)
    cheap = random.exponential(1.0, 400)
    assert not is_real_gain(cheap, cheap, dense)
    assert not is_real_gain(cheap, random.permutation(cheap), dense)
    assert is_real_gain(cheap, cheap * 0.8, dense)
    assert not is_real_gain(cheap, cheap * 0.99, dense)  # certain, but too little to pay for
    assert is_real_gain(np.full(4, np.inf), np.ones(4), dense[:4])
    assert not is_real_gain(np.ones(4), np.full(4, np.inf), dense[:4])


def test_rows_of_length_one_are_no_class_scores() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    embedding = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    judge = judge_of({"sentence": embedding})
    turned = np.roll(embedding, 1, axis=1)
    assert judge.task.name == "embedding"
    expected = 1 - (turned * embedding).sum(axis=1)
    np.testing.assert_allclose(judge.costs({"sentence": turned}), expected, rtol=1e-5)
    assert judge_of({"scores": rows}).judge({"scores": rows}).score_name == "agreement"
    assert judge_of({"one": np.eye(8, dtype=np.float32)}).judge({"one": np.eye(8)}).agreement == 100
    labels = np.zeros(50, dtype=np.int64)
    assert judge_of({"sentence": embedding}, labels).judge({"sentence": embedding}).accuracy is not None
