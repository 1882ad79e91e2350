"""A table of ONNX operators as PyTorch functions, one family a file.

Each entry reads a node once, by the version of the operator set that the file imports, and gives the function that
runs it. Half precision is worked with in float32. What is not here cannot lie behind a weight that is trained.
"""

from __future__ import annotations

from lacoot_deploy.healing.operators import (
    attention,
    contrib,
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    recurrent,
    reduction,
    resizing,
    shaping,
)
from lacoot_deploy.healing.operators.base import TABLE, Operator, UnknownOperatorError

__all__ = ["FAMILIES", "TABLE", "Operator", "UnknownOperatorError", "find"]

FAMILIES = (
    elementwise,
    shaping,
    indexing,
    reduction,
    linear,
    convolution,
    normalisation,
    resizing,
    attention,
    recurrent,
    contrib,
)
"""The modules that fill the table."""


def find(domain: str, op: str) -> Operator | None:
    """The entry of an operator; None where the table has none.

    Args:
        domain: Its domain.
        op: Its type.
    """
    return TABLE.get(("" if domain == "ai.onnx" else domain, op))
