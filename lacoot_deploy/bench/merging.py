"""Whether two operators run faster as one on this machine: the pair against the merged operator, interleaved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lacoot_deploy.bench.latency import bench
from lacoot_deploy.bench.options import QUICK
from lacoot_deploy.graph.linear import MergeRecord, merge_linear
from lacoot_deploy.runtime.options import AUTO, Runtime

if TYPE_CHECKING:
    import onnx

PAIR = replace(QUICK, min_time=2.0, rounds=5)
"""Several rounds of fresh sessions: one session alone can happen to get slower kernels."""


class MergeMeasurer:
    """Decides about merges by measuring; what was decided is kept.

    Args:
        runtime: Where pairs are run.

    Attributes:
        faster: The values between operators that were found faster as one, in the order in which they were measured.
    """

    def __init__(self, runtime: Runtime = AUTO) -> None:
        self._runtime = runtime
        self._known: dict[tuple[object, ...], bool] = {}
        self.faster: list[str] = []

    def __call__(self, record: MergeRecord, pair: onnx.ModelProto) -> bool:
        """Whether the merged operator is faster with 95 % confidence."""
        key = (record.value, record.before, record.after)
        if key not in self._known:
            merged = merge_linear(pair, "always", allow_inexact=True).model
            result = bench(pair, merged, PAIR, runtime=self._runtime)
            self._known[key] = result.ci95 is not None and result.ci95[0] > 1.0
            if self._known[key]:
                self.faster.append(record.value)
        return self._known[key]
