"""Nothing is trained before PyTorch gives what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError, LacootError, VerificationError
from lacoot_deploy.healing.flat import FlatGraph
from lacoot_deploy.healing.module import GraphModule, graph_module
from lacoot_deploy.healing.weights import HALVES
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.options import Runtime

EQUAL = 1e-5
"""Largest difference of an output, relative to its largest entry."""

EQUAL_HALF = 2e-2
"""The same for files in half precision, which ONNX Runtime computes in half precision and PyTorch in single."""

NAMED = 5
"""How many operators that differ a message names."""


def tolerance(graph: FlatGraph) -> float:
    """What outputs of a network may differ by."""
    half = any(constant.tensor.data_type in HALVES for constant in graph.constants.values())
    return EQUAL_HALF if half else EQUAL


def difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest difference of two arrays over the largest entry of the second; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.size == 0:
        return 0.0
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(b[finite]).max())
    largest = float(np.abs(a[finite] - b[finite]).max())
    return largest / scale if scale else largest


def check_equal(
    module: GraphModule,
    graph: FlatGraph,
    feeds: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    *,
    model: onnx.ModelProto,
    path: Path,
) -> float:
    """Hold the module's values against ONNX Runtime's.

    Args:
        module: The network in PyTorch, on the host.
        graph: Its graph.
        feeds: What it is fed with.
        expected: ONNX Runtime's values for the same feeds.
        model: The model.
        path: Its file.

    Returns:
        The largest difference, relative to the largest entry of its value.

    Raises:
        VerificationError: A value differs; the operators at which it begins are named.
    """
    with torch.no_grad():
        found = module.values({name: torch.from_numpy(values) for name, values in feeds.items()})
    allowed, worst, where = tolerance(graph), 0.0, ""
    for name, values in expected.items():
        if name in found and values.dtype.kind == "f":
            here = difference(found[name].numpy(), values)
            if not here <= worst:
                worst, where = here, name
    if worst <= allowed:
        return worst
    culprits = _culprits(graph, feeds, model, path, allowed)
    named = f" It begins at {', '.join(culprits)}." if culprits else ""
    raise VerificationError(
        f"In PyTorch {path} is not what it is in ONNX Runtime: {where} differs by {worst:.1e} of its largest entry, "
        f"and {allowed:.0e} is allowed.{named} Nothing was trained."
    )


def _culprits(
    graph: FlatGraph,
    feeds: Mapping[str, NDArray[Any]],
    model: onnx.ModelProto,
    path: Path,
    allowed: float,
) -> Sequence[str]:
    """The operators whose operands agree and whose results do not."""
    main = {name for node in model.graph.node for name in node.output if name}
    names = [n for node in graph.nodes for n in node.outputs if n in main and n not in graph.constants]
    try:
        whole = graph_module(graph, wanted=names)
        with torch.no_grad():
            ours = whole.values({name: torch.from_numpy(values) for name, values in feeds.items()})
        theirs = ExposedSession(model, names, runtime=Runtime("cpu"), source=path).run(feeds)
    except LacootError:
        return ()
    wrong = {
        name
        for name in names
        if isinstance(theirs[name], np.ndarray)
        and theirs[name].dtype.kind == "f"
        and difference(ours[name].numpy(), theirs[name]) > allowed
    }
    first = [
        f"{node.op} ({node.label})"
        for node in graph.nodes
        if wrong.intersection(node.outputs) and not wrong.intersection(node.reads)
    ]
    return first[:NAMED]


def check_gradients(module: GraphModule, loss: torch.Tensor) -> list[str]:
    """Names of the weights that the loss does not reach; their parameters are told to stay as they are.

    Raises:
        InputError: It reaches none, or is not finite.
    """
    if not bool(torch.isfinite(loss)):
        raise InputError(
            "The loss is not finite before the first step: the networks' values are not on these samples."
        )
    loss.backward()  # type: ignore[no-untyped-call]
    still = []
    for name, weight in module.weights.items():
        if weight.grad is None:
            weight.requires_grad_(False)
            still.append(name)
        weight.grad = None
    if len(still) == len(module.weights):
        raise InputError(
            "No trainable weight lies before a value that is matched, so there is nothing to train."
        )
    return still
