"""Linearise and merge: activations made linear, and the linear operators around them fused into one."""

from lacoot_deploy.graph.linear.merge import MergeResult, merge_linear
from lacoot_deploy.graph.linear.records import Code, MergeRecord, Refusal

__all__ = ["Code", "MergeRecord", "MergeResult", "Refusal", "merge_linear"]
