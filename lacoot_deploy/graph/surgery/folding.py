"""Folds a map over channels into the last linear operator of a block's branch: the map then costs nothing.

A block that stays can be refitted to what the shortened network feeds it. Where its branch ends in a convolution
or a matrix product with constant weights, T(W x + b) = (A W) x + (A b + shift) holds exactly, so the file keeps its
nodes and only the weights change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Block
from lacoot_deploy.graph.model.walk import attribute
from lacoot_deploy.graph.model.weights import Weights
from lacoot_deploy.graph.surgery.carry import FREE_INITIALIZERS_SINCE_IR
from lacoot_deploy.graph.surgery.cuts import Refit, Repair


@dataclass(frozen=True)
class Fold:
    """Where a map on a branch can go.

    Attributes:
        axis: Channel axis of the branch's value: 1, or -1 for the last.
        matrix: Whether a map across channels fits; else only one per channel.
        node: Index of the node in the main graph that takes the weights.
        weight: Its input that holds the weights.
        bias: Index of the node that adds the bias (the same one but for MatMul + Add).
        bias_slot: Which of that node's inputs is the bias.
    """

    axis: int
    matrix: bool
    node: int
    weight: int
    bias: int
    bias_slot: int


class Folder:
    """Finds and folds in one model; the index of its values is made once.

    Args:
        model: The model; `fold` changes it in place.
        folder: Where its external data lies, if it has any.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self._model = model
        self._weights = Weights(model, folder)
        self._free = model.ir_version >= FREE_INITIALIZERS_SINCE_IR
        self._producer = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}

    def find(self, block: Block) -> Fold | None:
        """Where a map on the branch of the block's last unit can be folded; None where that is not exact."""
        unit = block.units[-1]
        if block.scope or unit.merge_op != "Add" or not self._free or unit.branch == unit.skip:
            return None
        i = self._sole(unit.branch)
        if i is None:
            return None
        node = self._model.graph.node[i]
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Conv" and self._weights.has(node, 1):
            if len(node.input) > 2 and node.input[2] and not self._weights.has(node, 2):
                return None
            return Fold(1, attribute(node, "group", 1) == 1, i, 1, i, 2)
        if node.op_type == "Gemm" and self._weights.has(node, 1) and self._plain_gemm(node):
            return Fold(1, True, i, 1, i, 2)
        if node.op_type == "BatchNormalization" and len(node.output) == 1:
            if self._weights.has(node, 1) and self._weights.has(node, 2):
                return Fold(1, False, i, 1, i, 2)
            return None
        if node.op_type == "Add":
            return self._matmul(node, i)
        return None

    def _matmul(self, node: onnx.NodeProto, i: int) -> Fold | None:
        for slot in (0, 1):
            bias, product = node.input[slot], node.input[1 - slot]
            j = self._sole(product)
            if j is None or not self._weights.has(node, slot):
                continue
            before = self._model.graph.node[j]
            if before.op_type != "MatMul" or not self._weights.has(before, 1):
                continue
            weight, shift = self._weights.tensor(before.input[1]), self._weights.tensor(bias)
            if len(weight.dims) == 2 and list(shift.dims) == [weight.dims[1]]:
                return Fold(-1, True, j, 1, i, slot)
        return None

    def _plain_gemm(self, node: onnx.NodeProto) -> bool:
        weight = self._weights.tensor(node.input[1])
        outputs = weight.dims[0] if attribute(node, "transB", 0) else weight.dims[1]
        biased = len(node.input) > 2 and bool(node.input[2])
        if biased and not (
            self._weights.has(node, 2) and list(self._weights.tensor(node.input[2]).dims) == [outputs]
        ):
            return False
        return all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))

    def _sole(self, value: str) -> int | None:
        """The node that gives a value which nothing but one node reads."""
        return self._producer.get(value) if self._weights.readers.get(value) == 1 else None

    def fold(self, block: Block, repair: Repair) -> None:
        """Fold a map into the branch of a block.

        Raises:
            InputError: The map does not fit the branch, or it cannot be folded exactly.
        """
        place = self.find(block)
        if place is None or (repair.matrix is not None and not place.matrix):
            raise InputError(
                f"The branch of block {block.name!r} does not end in an operator that a map can be folded into."
            )
        nodes = self._model.graph.node
        node, adder = nodes[place.node], nodes[place.bias]
        weight = self._weights.array(node.input[place.weight])
        has_bias = len(adder.input) > place.bias_slot and bool(adder.input[place.bias_slot])
        # The output channels: the first axis of a convolution's weights and of a transposed Gemm's, else the last.
        first = node.op_type in ("Conv", "BatchNormalization") or (
            node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        )
        outputs = weight.shape[0 if first else -1]
        if len(repair.shift) != outputs:
            raise InputError(
                f"The map for the branch of {block.name!r} has {len(repair.shift)} channels, not {outputs}."
            )
        old_bias = self._weights.array(adder.input[place.bias_slot]) if has_bias else np.zeros(outputs)
        matrix = repair.matrix if repair.matrix is not None else repair.scale
        if matrix is None:
            raise InputError(f"The map for the branch of {block.name!r} has neither a scale nor a matrix.")
        exact = matrix.astype(np.float64)
        rows = (weight if first else weight.T).astype(np.float64).reshape(outputs, -1)
        if exact.ndim == 2:
            rows, bias = exact @ rows, exact @ old_bias
        else:
            rows, bias = exact[:, None] * rows, exact * old_bias
        folded = rows.reshape(weight.shape) if first else rows.reshape(weight.T.shape).T
        self._weights.put(node, place.weight, folded, weight.dtype, f"{block.name}/refit/weight")
        self._weights.put(
            adder,
            place.bias_slot,
            bias + repair.shift.astype(np.float64),
            weight.dtype,
            f"{block.name}/refit/bias",
        )

    def drop_unread(self) -> None:
        """Drop weights that lost their last reader to a folded copy."""
        self._weights.drop_unread()


def fold_refits(model: onnx.ModelProto, refits: Sequence[Refit], *, folder: Path | None = None) -> None:
    """Fold maps into the branches of blocks that stay, in place.

    Args:
        model: The model.
        refits: The blocks and their maps.
        folder: Where the model's external data lies, if it has any.

    Raises:
        InputError: A block is not there any more, or its branch cannot take the map exactly.
    """
    if not refits:
        return
    index = Folder(model, folder)
    for refit in refits:
        index.fold(refit.block, refit.repair)
    index.drop_unread()
