"""An ONNX graph as a differentiable network, distilled from the dense one; weights go back into the same graph."""
