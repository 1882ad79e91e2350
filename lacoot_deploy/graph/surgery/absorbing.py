"""Lets a norm take in the affine map that follows it, so that runtimes still see the patterns that they fuse.

A norm ends in y = scale * z + shift. Where nothing but the map reads y, a * y + b = (a * scale) * z + (a * shift + b)
holds exactly: the norm's weights change, and the map's nodes go.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from lacoot_deploy.graph.model.weights import Weights
from lacoot_deploy.graph.surgery.cuts import Cut, Repair
from lacoot_deploy.graph.surgery.norms import SKIP_NORM

NORMS = {"LayerNormalization": (1, 2), "BatchNormalization": (1, 2), SKIP_NORM: (2, 3)}
"""Which inputs of a norm are its scale and its shift."""


def absorb_repairs(model: onnx.ModelProto, cuts: Iterable[Cut], folder: Path | None) -> None:
    """Fold the affine maps of cuts into the norms before them, in place, wherever that is exact.

    Args:
        model: The model that the cuts were applied to.
        cuts: The cuts.
        folder: Where its external data lies, if it has any.
    """
    affine = [
        cut for cut in cuts if cut.repair is not None and cut.repair.scale is not None and not cut.block.scope
    ]
    if not affine:
        return
    weights = Weights(model, folder)
    for cut in affine:
        assert cut.repair is not None, "those without were left out"
        _absorb(model, cut.block.name, cut.repair, weights)
    weights.drop_unread()


def _absorb(model: onnx.ModelProto, block: str, repair: Repair, weights: Weights) -> None:
    graph = model.graph
    nodes = {node.name: node for node in graph.node if node.name.startswith(f"{block}/")}
    first = nodes.get(f"{block}/Mul") or nodes.get(f"{block}/BatchNormalization")
    if first is None:
        return
    last = first if first.op_type == "BatchNormalization" else nodes.get(f"{block}/Add")
    if last is None or (last is not first and last.input[0] != first.output[0]):
        return
    value = first.input[0]
    norm = next((node for node in graph.node if value in node.output), None)
    if norm is None or not _fits(norm, value, repair, weights):
        return
    assert repair.scale is not None, "the map is an affine one"
    factor, offset = repair.scale.astype(np.float64), repair.shift.astype(np.float64)
    scale_slot, shift_slot = NORMS[norm.op_type]
    scale = weights.array(norm.input[scale_slot])
    has_shift = shift_slot < len(norm.input) and bool(norm.input[shift_slot])
    shift = weights.array(norm.input[shift_slot]) if has_shift else np.zeros(len(offset))
    weights.put(norm, scale_slot, factor * scale, scale.dtype, f"{block}/norm/scale")
    weights.put(norm, shift_slot, factor * shift + offset, scale.dtype, f"{block}/norm/shift")
    for node in (first, last) if last is not first else (first,):
        for name in node.input[1:]:
            weights.readers[name] -= 1
    norm.output[0] = last.output[0]
    gone = {first.name, last.name}
    for place in range(len(graph.node) - 1, -1, -1):
        if graph.node[place].name in gone:
            del graph.node[place]
    for place in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[place].name == value:
            del graph.value_info[place]


def _fits(norm: onnx.NodeProto, value: str, repair: Repair, weights: Weights) -> bool:
    """Whether a node is a norm over the map's channels whose one result nothing but the map reads."""
    slots = NORMS.get(norm.op_type)
    domain = "com.microsoft" if norm.op_type == SKIP_NORM else ""
    if slots is None or norm.domain not in (domain, domain or "ai.onnx"):
        return False
    if norm.output[0] != value or weights.readers.get(value) != 1:
        return False
    if norm.op_type == "BatchNormalization" and (repair.axis != 1 or len([o for o in norm.output if o]) > 1):
        return False
    if norm.op_type == "LayerNormalization" and _axis(norm) != -1:
        return False
    known = [slot for slot in slots if slot < len(norm.input) and norm.input[slot]]
    if slots[0] not in known or not all(weights.has(norm, slot) for slot in known):
        return False
    # The scale of a norm over the last axis has as many entries as that has channels.
    return all(weights.array(norm.input[slot]).shape == repair.shift.shape for slot in known)


def _axis(norm: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in norm.attribute if attribute.name == "axis"), -1)
