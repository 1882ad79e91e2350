"""Every architecture of the ground truth is searched, on samples made from its own input description."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from architectures import ARCHITECTURES
from ground_truth import export

from lacoot_deploy.data import Samples
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.runtime.feeds import generate_feeds, index_limits, model_inputs
from lacoot_deploy.runtime.probe import probe_shapes
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.planning import Evidence, Limit, make_plan
from lacoot_deploy.selection.trials import Trials

SAMPLES = 12
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


def samples_of(model: onnx.ModelProto) -> Samples:
    """Samples for a model, one run of generated input after another where its batch is fixed."""
    inputs, limits = model_inputs(model), index_limits(model)
    runs = [generate_feeds(inputs, seed=seed, limits=limits) for seed in range(SAMPLES)]
    scalars = {info.name for info in inputs if not info.shape}
    feeds = {
        info.name: runs[0][info.name]
        if info.name in scalars
        else np.concatenate([run[info.name] for run in runs])[:SAMPLES]
        for info in inputs
    }
    return Samples(feeds, shared=frozenset(scalars))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BY_NAME)
def test_it_is_searched(name, tmp_path):
    architecture = BY_NAME[name]
    module, inputs = architecture.build()
    exporter = architecture.exporters[-1]
    options = architecture.options.get(exporter, {})
    model = export(module, inputs, exporter, **options)
    path = tmp_path / "model.onnx"
    save_model(model, path)
    able = [b for b in find_blocks(model) if b.collapsible and not b.scope]
    if not able:
        ends = [value for b in find_blocks(model) for value in (b.input, b.output)]
        able = [
            b for b in find_blocks(model, shapes=probe_shapes(model, ends)) if b.collapsible and not b.scope
        ]
    if not able:
        pytest.skip("nothing can go")
    evidence = Evidence.split(samples_of(model))
    for repair in ("none", "auto"):
        plan = make_plan(
            model,
            able,
            Limit(count=1),
            SearchOptions(repair=repair, search="ranked"),
            evidence=evidence,
            trials=Trials(source=path),
        )
        assert len(plan.steps) == 1
