"""A file as a PyTorch module, and the module's weights back into the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.healing.flat import flatten
from lacoot_deploy.healing.module import GraphModule, graph_module
from lacoot_deploy.healing.patch import write_weights
from lacoot_deploy.healing.weights import quantised, trainable_weights


def torch_module(model: str | Path, *, values: Sequence[str] = ()) -> GraphModule:
    """A `torch.nn.Module` that computes what an ONNX file computes, its parameters under the file's weight names.

    Batch norms use the statistics in the file, dropout does nothing, and half precision is worked with in float32. It
    runs on any device and differentiates; ordinary loops, optimisers and `torch.compile`d losses work on it.

    Args:
        model: The file.
        values: Names of inner values to give behind the outputs.

    Returns:
        The module; it takes the inputs in order or by name and gives the outputs, a tuple where there are several.

    Raises:
        InputError: The file cannot be read, is quantised, holds an operator that PyTorch cannot run here, or has no
            weight that can be trained.
    """
    path = Path(model)
    proto = load_model(path)
    graph = flatten(proto, path.parent)
    kind = quantised(graph)
    if kind is not None:
        raise InputError(f"{path} is quantised (it holds {kind}): train the network first, then quantise it.")
    weights = trainable_weights(graph)
    if not weights:
        raise InputError(f"{path} has no weight that can be trained.")
    return graph_module(graph, weights=weights, wanted=(*graph.outputs, *values), source=path)


def save_weights(module: GraphModule, model: str | Path, output: str | Path) -> Path:
    """Write a module's weights into the same graph: every byte of the file but theirs stays what it was.

    Weights that are as they were are not written. What was written is read again and held against the module.

    Args:
        module: A module of `torch_module`.
        model: The file that it was made of; it is not changed.
        output: The file to write; external data goes beside it.

    Returns:
        The written file.

    Raises:
        InputError: The module is of another file, a file cannot be read or written, or a weight is not finite or
            leaves the range of its type.
        VerificationError: What was written does not hold what it should.
    """
    trained = {
        name: weight.detach().to("cpu", torch.float64 if weight.dtype == torch.float64 else torch.float32)
        for name, weight in module.weights.items()
    }
    write_weights(model, output, {name: value.numpy() for name, value in trained.items()})
    return Path(output)
