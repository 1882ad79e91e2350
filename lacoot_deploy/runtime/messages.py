"""Turns what ONNX Runtime says when something fails into one sentence that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.errors import InputError


def load_error(label: str, error: Exception) -> InputError:
    """Turn what ONNX Runtime says about a model that does not load into one sentence."""
    text = str(error)
    match = re.search(r"(\S+) is not a registered function/op", text)
    if match:
        operator = re.sub(r"\(-?\d+\)$", "", match.group(1))
        return InputError(
            f"{label} uses the operator {operator}, which this ONNX Runtime does not have; give the library "
            f"that has it with --custom-ops."
        )
    if "INVALID_PROTOBUF" in text or "No graph was found" in text:
        return InputError(f"{label} is no ONNX model: it cannot be parsed.")
    if "External data" in text or "external data" in text:
        return InputError(f"{label} has external data that cannot be read: {plain(text)}.")
    if _is_memory(error, text):
        return InputError(f"{label} does not fit into memory: {plain(text)}.")
    return InputError(f"{label} does not load in ONNX Runtime: {plain(text)}.")


def run_error(label: str, error: Exception, feeds: Mapping[str, NDArray[Any]] | None = None) -> InputError:
    """Turn what ONNX Runtime says about a run that failed into one sentence.

    Args:
        label: What messages call the model.
        error: What ONNX Runtime raised.
        feeds: What it was run on.
    """
    text = str(error)
    if _is_memory(error, text):
        size = re.search(r"size (\d+)", text)
        wanted = f" ({int(size.group(1)) / 2**30:.3g} GiB for one value)" if size else ""
        return InputError(f"{label} runs out of memory{wanted}; use a smaller batch or input.")
    if feeds and _SHAPES.search(text):
        given = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        return InputError(
            f"{label} does not run on inputs of these sizes: {given}. Give others with --dim NAME=VALUE or --batch, or "
            f"data that has them with --data. (ONNX Runtime: {plain(text)[:200]}.)"
        )
    return InputError(f"{label} does not run: {plain(text)}.")


_SHAPES = re.compile(r"shape|dimension|broadcast|out of bounds|out of data bounds|rank", re.IGNORECASE)
"""What ONNX Runtime says where sizes do not fit one another."""


def _is_memory(error: Exception, text: str) -> bool:
    return isinstance(error, MemoryError) or any(
        phrase in text.lower()
        for phrase in (
            "failed to allocate memory",
            "out of memory",
            "bad_alloc",
            "bad allocation",
            "cudaerrormemory",
        )
    )


def plain(text: str) -> str:
    """A message of ONNX Runtime without ONNX Runtime's status prefix and source locations, on one line."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.strip())
    text = re.sub(r"/onnxruntime_src/\S+:\d+ [^\n]*?\) ", "", text)
    return " ".join(text.split())[:400].rstrip(". ")
