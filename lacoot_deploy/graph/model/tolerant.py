"""What files hold that no specification allows: a rule that meets it knows nothing; an invalid model is called that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import onnx

from lacoot_deploy.errors import InputError, LacootError

T = TypeVar("T")

MALFORMED = (
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
)
"""What a rule ends in that meets too few operands, an attribute of another type or a value out of all bounds."""


def attempt(rule: Callable[..., T], *arguments: Any, unknown: T) -> T:
    """What a rule says of a node; `unknown` where the node is not as its operator is specified."""
    try:
        return rule(*arguments)
    except MALFORMED:
        return unknown


@contextmanager
def invalid_is_refused(model: onnx.ModelProto) -> Iterator[None]:
    """Turn a failure on a model that ONNX's own checker refuses into a sentence about the model.

    Raises:
        InputError: The work inside failed and the model is not valid. A failure on a valid model is raised as it is.
    """
    try:
        yield
    except LacootError:
        raise
    except Exception as error:
        problem = _problem(model)
        if problem is None:
            raise
        raise InputError(f"The model is not valid, so its blocks cannot be told: {problem}") from error


def _problem(model: onnx.ModelProto) -> str | None:
    from lacoot_deploy.graph.model.skeleton import skeleton

    try:
        onnx.checker.check_model(skeleton(model))
    except Exception as error:  # the checker's, or what the model made of the copy
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None
