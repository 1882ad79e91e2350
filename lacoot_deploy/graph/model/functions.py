"""Model-local functions: which of them hold residual sums, and a model with those written out."""

from __future__ import annotations

import onnx
import onnx.inliner

from lacoot_deploy.graph.model import ops


def with_sums_written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or with its functions inlined where one of them holds a residual sum.

    What is inside a function belongs to all its calls; only written out can one of them lose a block.
    """
    if not any(map(holds_residual_sum, model.functions)):
        return model
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    except Exception:  # the C++ side raises several unrelated types; the blocks are then named and refused
        return model
    return inlined


def holds_residual_sum(function: onnx.FunctionProto) -> bool:
    """Whether a function adds a value to what it computes from that value with weights or in calls of its own."""
    sources: dict[str, set[str]] = {name: {name} for name in function.input}
    worked: dict[str, set[str]] = {}
    for node in function.node:
        reads = [name for name in node.input if name in sources]
        merges = node.op_type in ops.ADD and not node.domain
        if merges and any(a in worked.get(b, ()) for a in reads for b in reads if a != b):
            return True
        before = set().union(*(sources[name] for name in reads)) if reads else set()
        done = set().union(*(worked.get(name, set()) for name in reads)) if reads else set()
        if node.op_type in ops.LINEAR or node.domain not in ops.KNOWN_DOMAINS:
            done = done | before
        for name in node.output:
            if name:
                sources[name], worked[name] = before | {name}, done
    return False
