"""What the weights around an activation tell of it: its own slope, and the normalisation before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.graph.linear.activations import Activation
from lacoot_deploy.graph.model.walk import attributes_of
from lacoot_deploy.graph.model.weights import Weights

Float64 = NDArray[np.float64]


class ActivationParameters:
    """Reads weights at the activations of one model.

    Args:
        model: The model.
        folder: Where its external data lies, if it has any.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self._weights = Weights(model, folder)
        self._makers = {name: node for node in model.graph.node for name in node.output if name}

    def normal(self, activation: Activation) -> tuple[Float64, Float64] | None:
        """Mean and standard deviation per channel that a batch normalisation gives the activation's input.

        They are its shift and the size of its scale. Only one that gives the very input counts: behind a residual add
        the other summand would be missing. None where there is none.
        """
        node = self._makers.get(activation.input)
        if node is None or node.op_type != "BatchNormalization" or len(node.output) > 1:
            return None
        if not self._weights.has(node, 1) or not self._weights.has(node, 2):
            return None
        scale, shift = (self._weights.array(node.input[slot]).astype(np.float64) for slot in (1, 2))
        return shift, np.abs(scale)

    def slope(self, activation: Activation) -> Float64 | None:
        """Slope below zero of a `PRelu` or `LeakyRelu`, per channel or of length 1; None for any other."""
        node = self._makers.get(activation.output)
        if node is None:
            return None
        if node.op_type == "LeakyRelu":
            return np.array([float(attributes_of(node).get("alpha", 0.01))])
        if node.op_type == "PRelu" and self._weights.has(node, 1):
            return self._weights.array(node.input[1]).astype(np.float64).reshape(-1)
        return None
