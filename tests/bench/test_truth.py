"""Claims about real time, for a machine with some to spare; `samples/benchmarks/bench_honesty.py` has more of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import chain

from lacoot_deploy.bench import bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.runtime.options import Runtime

OPTIONS = BenchOptions(memory=False, min_time=4.0)
CPU = Runtime("cpu", threads=1)


@pytest.mark.slow
def test_half_of_a_chain_of_equal_blocks_takes_half_the_time():
    result = bench(
        chain(24, channels=16, side=32), chain(12, channels=16, side=32), options=OPTIONS, runtime=CPU
    )
    assert result.verdict == "faster"
    # What is not in the blocks (call, first layout change) is under one percent of either.
    assert result.speedup == pytest.approx(2.0, rel=0.03) or result.ci95[0] <= 2.0 <= result.ci95[1]


@pytest.mark.slow
def test_a_model_is_neither_faster_nor_slower_than_itself():
    model = chain(12, channels=16, side=32)
    verdicts = [
        bench(model, model, options=replace(OPTIONS, seed=seed), runtime=CPU).verdict for seed in range(3)
    ]
    assert verdicts == ["no detectable difference"] * 3
