"""What follows the sum of a residual block, and what comes before the block, read from the code of its forward."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

PASSING = (nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten)
"""Modules that make nothing negative of what is not."""

RECTIFYING = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax)
_RELUS = (torch.relu, functional.relu, torch.relu_)
_ADDS = (operator.add, operator.iadd, torch.add)


def trailing_of(block: nn.Module) -> list[nn.Module] | None:
    """The modules between a block's last addition and its result, in order; None where its code does not tell.

    Args:
        block: Of one input, its last addition that of branch and skip path.
    """
    try:
        graph = fx.Tracer().trace(block)
    except Exception:  # whatever a stranger's forward does with a stand-in for a tensor
        return None
    node = next(n for n in graph.nodes if n.op == "output").args[0]
    trailing: list[nn.Module] = []
    while isinstance(node, fx.Node):
        if node.target in _ADDS or (node.op == "call_method" and node.target in ("add", "add_")):
            return trailing[::-1]
        if node.op == "call_module":
            trailing.append(block.get_submodule(str(node.target)))
        elif node.target in (*_RELUS, "relu", "relu_"):
            trailing.append(nn.ReLU())
        else:
            return None
        node = node.args[0]
    return None


def never_negative(model: nn.Module, name: str) -> bool:
    """Whether the code tells that what goes into a block is never below zero: it comes out of a ReLU or the like."""

    class Whole(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return module_qualified_name == name or super().is_leaf_module(m, module_qualified_name)

    try:
        graph = Whole().trace(model)
    except Exception:  # as above; then it is not known
        return False
    node: Any = next((n.args[0] for n in graph.nodes if n.op == "call_module" and n.target == name), None)
    while isinstance(node, fx.Node):
        if node.target in (*_RELUS, "relu", "relu_"):
            return True
        if node.op != "call_module":
            return False
        module = model.get_submodule(str(node.target))
        if isinstance(module, RECTIFYING):
            return True
        if not isinstance(module, PASSING):
            return False
        node = node.args[0]
    return False
