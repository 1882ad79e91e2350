"""PyTorch gives what ONNX Runtime gives for every architecture of the ground truth, from both exporters, and learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import run

from lacoot_deploy.healing.equality import EQUAL, difference
from lacoot_deploy.healing.flat import flatten
from lacoot_deploy.healing.module import graph_module
from lacoot_deploy.healing.weights import trainable_weights

ground_truth = pytest.importorskip("ground_truth")
ARCHITECTURES = pytest.importorskip("architectures").ARCHITECTURES

NETWORKS = [
    pytest.param(
        architecture,
        exporter,
        id=f"{architecture.name}-{exporter}",
        marks=() if architecture.name in ("plain_cnn", "yolo") else pytest.mark.slow,
    )
    for architecture in ARCHITECTURES
    for exporter in architecture.exporters
]


def flat(value):
    return [t for part in value for t in flat(part)] if isinstance(value, (tuple, list)) else [value]


@pytest.mark.parametrize(("architecture", "exporter"), NETWORKS)
def test_the_module_equals_onnx_runtime(architecture, exporter):
    model, _ = ground_truth.exported(architecture, exporter)
    torch.manual_seed(0)
    _, inputs = architecture.build()
    weights = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in weights]
    feeds = dict(zip(names, flat(inputs), strict=True))
    graph = flatten(model)
    trained = trainable_weights(graph)
    module = graph_module(graph, weights=trained)
    found = module.values(feeds)
    expected = run(model, {name: tensor.numpy() for name, tensor in feeds.items()})
    for value, theirs in zip(model.graph.output, expected, strict=True):
        assert difference(found[value.name].detach().numpy(), theirs) < EQUAL
    sum(value.square().sum() for value in found.values() if value.is_floating_point()).backward()
    assert all(weight.grad is not None for weight in module.weights.values())
    count = sum(weight.numel() for weight in module.weights.values())
    print(f"{len(trained)} weights of {count:,} entries")
    floats = [t for t in model.graph.initializer if t.data_type == 1 and len(t.dims) > 1]
    assert count > 0.5 * sum(int(np.prod(tensor.dims)) for tensor in floats)
