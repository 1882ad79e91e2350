"""What a sample costs is the same number in NumPy and in PyTorch, for every task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lacoot_deploy.data.types import Samples
from lacoot_deploy.tasks import TaskOptions, fit_task

RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Example:
    task: str
    outputs: dict[str, Any]
    labels: Any = None
    further: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


def normal(*shape):
    return RANDOM.standard_normal(shape)


def softmax(values):
    e = np.exp(values)
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def boxes(count):
    corner = RANDOM.uniform(0, 8, (12, count, 2))
    return np.concatenate([corner, corner + RANDOM.uniform(1, 4, (12, count, 2))], axis=2)


def numbers(top, *shape):
    return RANDOM.integers(0, top, shape)


MASK = {"attention_mask": np.arange(6)[None] < RANDOM.integers(2, 7, 12)[:, None]}
PAIRS = {"pair": np.arange(12) // 2, "score": np.repeat(RANDOM.random(6), 2)}
TRUE = {"boxes": boxes(3), "classes": RANDOM.integers(-1, 2, (12, 3))}

EXAMPLES = [
    Example("classification", {"y": normal(12, 5)}, numbers(5, 12)),
    Example("classification", {"y": softmax(normal(12, 5))}, np.array([1, -100] * 6)),
    Example("classification", {"y": normal(12, 5, 1, 1)}, softmax(normal(12, 5))),
    Example("classification", {"y": numbers(5, 12)}, numbers(5, 12)),
    Example("multilabel", {"y": normal(12, 4)}, numbers(2, 12, 4)),
    Example("multilabel", {"y": sigmoid(normal(12))}, numbers(2, 12)),
    Example("regression", {"y": normal(12, 1), "z": normal(12, 3, 2)}, None),
    Example("regression", {"y": normal(12, 3)}, normal(12, 3)),
    Example(
        "segmentation",
        {"y": normal(12, 3, 4, 5)},
        np.where(numbers(4, 12, 8, 10) == 3, 255, numbers(3, 12, 8, 10)),
    ),
    Example("segmentation", {"y": sigmoid(normal(12, 1, 4, 5))}, numbers(2, 12, 4, 5)),
    Example("segmentation", {"y": numbers(3, 12, 4, 5)}, numbers(3, 12, 8, 10)),
    Example("tokens", {"y": normal(12, 6, 7)}, numbers(7, 12, 6), inputs=MASK),
    Example("tokens", {"y": normal(12, 6, 7)}, None, inputs=MASK),
    Example("embedding", {"y": normal(12, 6, 7)}, None, inputs=MASK),
    Example("embedding", {"y": normal(12, 7)}, None, PAIRS),
    Example("detection", {"boxes": boxes(9), "scores": sigmoid(normal(12, 9, 2))}, None, TRUE),
    Example("detection", {"boxes": boxes(9), "scores": normal(12, 9, 3)}, None, TRUE),
    Example("denoising", {"y": normal(12, 2, 3)}, None, {"noise": normal(12, 2, 3)}, {"x": normal(12, 2, 3)}),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.task)
def test_costs_are_one_number_in_numpy_and_in_torch(example):
    torch = pytest.importorskip("torch")
    feeds = {"x": np.zeros((12, 1), np.float32), **example.inputs}
    samples = Samples(feeds, example.labels, further_labels=example.further)
    task = fit_task(example.outputs, samples, TaskOptions(example.task))
    other = {
        name: values + 0.3 * normal(*values.shape)
        if values.dtype.kind == "f" and values.min() < 0
        else values[::-1]
        for name, values in example.outputs.items()
    }
    tensors = {
        name: torch.tensor(values.copy(), requires_grad=values.dtype.kind == "f")
        for name, values in other.items()
    }
    dense = {name: torch.tensor(values) for name, values in example.outputs.items()}
    truth = task.truth(samples.label_arrays, samples.own_feeds)
    for known in (truth, truth.unlabelled()):
        costs = task.costs(other, known, example.outputs)
        assert costs.shape == (12,)
        assert costs.min() >= 0
        same = task.torch_costs(tensors, known, dense)
        np.testing.assert_allclose(same.detach().numpy(), costs, rtol=1e-6, atol=1e-9)
        if same.requires_grad:
            same.mean().backward()
            assert all(t.grad is None or torch.isfinite(t.grad).all() for t in tensors.values())
    itself = task.torch_costs(dense, truth.unlabelled(), dense)
    assert itself.abs().max() < 1e-6


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.task)
def test_a_score_has_an_interval_and_equal_networks_keep_one(example):
    feeds = {"x": np.zeros((12, 1), np.float32), **example.inputs}
    samples = Samples(feeds, example.labels, further_labels=example.further)
    task = fit_task(example.outputs, samples, TaskOptions(example.task))
    truth = task.truth(samples.label_arrays, samples.own_feeds)
    for measure in task.measures:
        chosen = task.with_measure(measure.name)
        found = chosen.statistics(example.outputs, truth, example.outputs)
        score = chosen.score(found)
        assert score.low <= score.value <= score.high
        difference = chosen.difference(found, found)
        assert difference.drop == 0
        # An error against one's own answers is zero whatever the samples: only that leaves nothing to chance.
        if truth.labels or measure.span is not None:
            assert difference.low < 0 < difference.high
