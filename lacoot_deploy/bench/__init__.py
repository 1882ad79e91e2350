"""Paired latency measurement and its statistics."""

from lacoot_deploy.bench.latency import bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.result import BenchResult

__all__ = ["BenchOptions", "BenchResult", "bench"]
