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


EXAMPLES = [
    Example("classification", {"y": normal(12, 5)}, RANDOM.integers(0, 5, 12)),
    Example("classification", {"y": softmax(normal(12, 5))}, np.array([1, -100] * 6)),
    Example("classification", {"y": normal(12, 5, 1, 1)}, softmax(normal(12, 5))),
    Example("regression", {"y": normal(12, 1), "z": normal(12, 3, 2)}, None),
    Example("regression", {"y": normal(12, 3)}, normal(12, 3)),
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
    assert itself.abs().max() < 1e-9


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
