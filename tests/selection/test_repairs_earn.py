"""A repair must show in what the task is about, not only in how near the dense network is."""

from __future__ import annotations

import numpy as np
from builders import residual_mlp

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.discovery import survey
from lacoot_deploy.selection.limits import Evidence, Limit
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.planning import make_plan


def plan(task, repair="auto"):
    model = residual_mlp(4)[0]
    x = np.random.default_rng(0).standard_normal((160, 8)).astype(np.float32)
    evidence = Evidence.split(Samples({"x": x}), task=TaskOptions(task))
    return make_plan(
        model, survey(model).blocks, Limit(count=2), SearchOptions(repair=repair), evidence=evidence
    )


def test_vectors_get_no_repair_that_only_brings_them_nearer():
    auto, none = plan("embedding"), plan("embedding", "none")
    assert [step.block for step in auto.steps] == [step.block for step in none.steps]
    assert all(step.repair is None for step in auto.steps)
    assert not auto.refits
    assert any(step.repair is not None for step in plan("regression").steps)
