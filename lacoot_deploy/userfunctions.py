"""Functions of the user's own, named as `python:module:function`: data, models and metrics."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from lacoot_deploy.errors import InputError, UsageError


def load_function(target: str, what: str) -> Callable[..., Any]:
    """Import a function of the user's; the working folder counts as a place to import from.

    Args:
        target: `module:function`, also as `python:module:function`.
        what: What it is for, as messages call it (`data`, `model`, `metric`).

    Raises:
        UsageError: The target is not of that form.
        InputError: The module cannot be imported or has no such function.
    """
    module_name, _, function_name = target.removeprefix("python:").partition(":")
    if not module_name or not function_name:
        raise UsageError(f"A {what} of your own is given as python:module:function, not {target!r}.")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"The module {module_name!r} of the {what} cannot be imported: {error}.") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{module_name} has no function {function_name!r}.")
    loaded: Callable[..., Any] = function
    return loaded
