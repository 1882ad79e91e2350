"""Several models in one run: each against the reference, and against one another."""

from __future__ import annotations

import pytest
from builders import random_feeds, residual_mlp

from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.series import bench_series
from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.runtime.options import Runtime


def test_ratios_of_one_run_agree_with_each_other(tmp_path):
    paths = {}
    for name, blocks in (("long", 24), ("short", 6), ("same", 24)):
        paths[name] = tmp_path / f"{name}.onnx"
        model = residual_mlp(blocks, width=64)[0]
        save_model(model, paths[name])
    series = bench_series(
        paths["long"],
        {"short": paths["short"], "same": paths["same"]},
        BenchOptions(min_time=0.6, rounds=3, memory=False, variants=False),
        runtime=Runtime("cpu", 1),
        feeds=random_feeds(model, batch=4),
    )
    result = series.result("short")
    assert result.speedup > 1.5
    assert result.b.path.endswith("short.onnx")
    assert result.speedup == pytest.approx(series.ratio("a", "short").value)
    assert series.ratio("same", "short").value == pytest.approx(result.speedup, rel=0.5)
    assert series.ratio("short", "short").value == 1
