"""Linearise and merge: activations made linear, and the linear operators around them fused into one."""

from lacoot_deploy.graph.linear.activations import Activation, list_activations
from lacoot_deploy.graph.linear.linearise import Linearisation, linearise
from lacoot_deploy.graph.linear.merge import MergeResult, merge_linear
from lacoot_deploy.graph.linear.records import Code, MergeRecord, Refusal

__all__ = [
    "Activation",
    "Code",
    "Linearisation",
    "MergeRecord",
    "MergeResult",
    "Refusal",
    "linearise",
    "list_activations",
    "merge_linear",
]
