"""Reads JSON from strangers: what cannot be written back, or is deeper than any record of ours, is refused."""

from __future__ import annotations

import json
import re
from typing import Any

from lacoot_deploy.errors import InputError

MAX_DEPTH = 64
"""Lists in tables in lists: ours have about ten."""

MAX_DIGITS = 20

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, what: str) -> Any:
    """The value that a JSON text holds.

    Args:
        text: The text.
        what: What error messages call it.

    Raises:
        InputError: It is no JSON, nested too deeply, or holds a number or text that cannot be written back: a number
            that is not finite or has more than 20 digits, half of a surrogate pair.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_short)
    except RecursionError:
        raise InputError(f"{what} is nested too deeply to be read.") from None
    except ValueError as error:  # JSONDecodeError is one
        raise InputError(f"{what} is not JSON ({error}).") from None
    _check(value, what, texts=_SURROGATE.search(text) is not None)
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise ValueError(f"{digits[:MAX_DIGITS]} is too large a number")
    return number


def _short(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits")
    return int(digits)


def _check(value: Any, what: str, *, texts: bool) -> None:
    """Look at every level, one after the other: recursion is what deep nesting would break."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if texts:
            _check_texts(level, what)
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
                if texts:
                    _check_texts(list(item), what)
            elif isinstance(item, list):
                inner += item
        if not inner:
            return
        level = inner
    raise InputError(f"{what} is nested too deeply to be read.")


def _check_texts(values: list[Any], what: str) -> None:
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(f"{what} holds half of a surrogate pair, which is no text.") from None
