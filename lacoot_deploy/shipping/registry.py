"""The conversions that there are, and chains of them."""

from __future__ import annotations

import difflib

from lacoot_deploy.errors import UsageError
from lacoot_deploy.shipping.conversion import Conversion
from lacoot_deploy.shipping.fixed_shapes import FixedShapes
from lacoot_deploy.shipping.float16 import Float16
from lacoot_deploy.shipping.int8_dynamic import DynamicInt8
from lacoot_deploy.shipping.int8_static import StaticInt8
from lacoot_deploy.shipping.opset import Opset
from lacoot_deploy.shipping.ort_format import OrtFormat
from lacoot_deploy.shipping.weight_only import Weights4, Weights8

CONVERSIONS: dict[str, Conversion] = {
    conversion.name: conversion
    for conversion in (
        Float16(),
        StaticInt8(),
        DynamicInt8(),
        Weights4(),
        Weights8(),
        FixedShapes(),
        Opset(),
        OrtFormat(),
    )
}

NUMBERS = ("fp16", "int8", "int8-dynamic", "weights4", "weights8")
"""Conversions of numbers, of which a chain has one at most."""


def chain_of(text: str) -> tuple[Conversion, ...]:
    """The conversions of a chain such as `fixed+int8+ort`, in the order in which they are applied.

    Args:
        text: Names of conversions with `+` between them.

    Raises:
        UsageError: One is unknown, or they do not go together.
    """
    names = [part.strip() for part in text.split("+")]
    for name in names:
        if name not in CONVERSIONS:
            near = difflib.get_close_matches(name, CONVERSIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"There is no conversion {name!r}; choose from {', '.join(CONVERSIONS)}.{hint}")
    if len(set(names)) < len(names):
        raise UsageError(f"The chain {text!r} has a conversion twice.")
    numbers = [name for name in names if name in NUMBERS]
    if len(numbers) > 1:
        raise UsageError(f"The chain {text!r} changes the numbers twice: {' and '.join(numbers)}. Give one.")
    if "ort" in names[:-1]:
        raise UsageError(f"Nothing can follow 'ort' in {text!r}: a file in ORT format cannot be changed.")
    return tuple(CONVERSIONS[name] for name in names)
