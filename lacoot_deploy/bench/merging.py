"""Whether two operators run faster as one on this machine: the pair against the merged operator, interleaved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lacoot_deploy.bench.latency import bench
from lacoot_deploy.graph.linear import MergeRecord, merge_linear

if TYPE_CHECKING:
    import onnx

SECONDS = 2.0
"""Timed runs of one pair, both sides together."""

ROUNDS = 5
"""Rounds of fresh sessions: one session alone can happen to get slower kernels."""


class MergeMeasurer:
    """Decides about merges by measuring; what was decided is kept.

    Args:
        provider: Execution provider.
        threads: CPU threads; None for ONNX Runtime's choice.

    Attributes:
        faster: The values between operators that were found faster as one, in the order in which they were measured.
    """

    def __init__(self, *, provider: str = "auto", threads: int | None = None) -> None:
        self._provider, self._threads = provider, threads
        self._known: dict[tuple[object, ...], bool] = {}
        self.faster: list[str] = []

    def __call__(self, record: MergeRecord, pair: onnx.ModelProto) -> bool:
        """Whether the merged operator is faster with 95 % confidence."""
        key = (record.value, record.before, record.after)
        if key not in self._known:
            merged = merge_linear(pair, "always", allow_inexact=True).model
            result = bench(
                pair,
                merged,
                min_time=SECONDS,
                rounds=ROUNDS,
                provider=self._provider,
                threads=self._threads,
                memory=False,
                variants=False,
            )
            self._known[key] = result.ci95 is not None and result.ci95[0] > 1.0
            if self._known[key]:
                self.faster.append(record.value)
        return self._known[key]
