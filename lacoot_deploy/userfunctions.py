"""Functions of the user's own, named as `python:module:function`: data, models and metrics."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lacoot_deploy.errors import InputError, LacootError, UsageError

_LOADED: set[str] = set()
_TRUSTED: ContextVar[bool] = ContextVar("_TRUSTED", default=False)


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Say whether functions that files name, not the user, may be imported in this block."""
    token = _TRUSTED.set(trust)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def check_trust(target: str, origin: str) -> None:
    """Refuse a function that a file names, unless the user has said so or has named the very same one before.

    Not even functions of modules that are imported anyway: `torch.hub.load` and its like run what they are given.

    Args:
        target: As for `load_function`; names of other forms name no function and pass.
        origin: The file, as messages call it.

    Raises:
        UsageError: It would run code of the file's choice.
    """
    if not target.startswith("python:"):
        return
    if not _TRUSTED.get() and target.removeprefix("python:") not in _LOADED:
        raise UsageError(
            f"{origin} names the function {target!r}, and loading it runs code that you have not chosen: look at it, "
            f"then give --trust."
        )


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
    _LOADED.add(f"{module_name}:{function_name}")
    loaded: Callable[..., Any] = function
    return loaded


def call_function(function: Callable[..., Any], target: str, *arguments: Any) -> Any:
    """What a function of the user's gives.

    Args:
        function: The function.
        target: What messages call it.
        arguments: What it is given.

    Raises:
        InputError: It fails; the message says with what, and in which line of its source.
    """
    try:
        return function(*arguments)
    except LacootError:
        raise
    except Exception as error:  # what a user's function raises is the user's to choose
        raise InputError(f"{target} failed{_place(error)}: {type(error).__name__}: {error}.") from error


def _place(error: Exception) -> str:
    """The last line of the user's own source that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<" not in frame.filename]
    if not own:
        return ""
    return f" in {os.path.basename(own[-1].filename)}, line {own[-1].lineno} ({(own[-1].line or '').strip()})"
