"""Reads the pickled batches of CIFAR-10 and nothing else: no class is looked up, no function called, no code run.

A pickle is a program for a small machine. This is that machine in Python with only those instructions that a
dictionary of bytes, texts, numbers, lists and plain byte arrays needs; what stands for NumPy's constructors only
remembers what it was given.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError

_OPCODES = (
    *("PROTO", "STOP", "FRAME", "MARK", "POP", "POP_MARK", "DUP"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("LIST", "EMPTY_LIST", "APPEND", "APPENDS", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)


class _Call:
    """What stands for `numpy._reconstruct`, `numpy.dtype` and the like: holds arguments and state, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None


class _Array(_Call):
    """An array in the making; its state is (version, shape, dtype, in Fortran order, bytes)."""

    def values(self) -> NDArray[np.uint8]:
        """The array.

        Raises:
            ValueError: It is no array of bytes.
        """
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Call) or kind.arguments[:1] not in (("u1",), (b"u1",)) or fortran:
            raise ValueError("its data are no plain bytes")
        if not isinstance(data, bytes):
            raise ValueError("its data are no bytes")
        return np.frombuffer(data, np.uint8).reshape([int(side) for side in shape])


class _Name(_Call):
    """`numpy.ndarray` as an argument."""


def _encode(text: Any, encoding: Any) -> bytes:
    """What protocol 2 writes for bytes: `_codecs.encode(text, "latin1")`."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it encodes something other than bytes")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Call,
    ("_codecs", "encode"): _encode,
}


# The one written in Python: the memo of the other is an array, as long as the file says.
_Machine: Any = pickle._Unpickler


class _Reader(_Machine):  # type: ignore[misc]
    """Runs the few instructions."""

    dispatch = {code: _Machine.dispatch[code] for code in (getattr(pickle, n)[0] for n in _OPCODES)}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def _set_items(self) -> None:
        """Like pickle's own, but a key is a text: hashing a tuple in a tuple in a tuple ... ends the process."""
        items = self.pop_mark()
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise pickle.UnpicklingError("it fills something other than a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._put(target, key, value)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put(self.stack[-1], key, value)

    def _dictionary(self) -> None:
        items = self.pop_mark()
        made: dict[Any, Any] = {}
        for key, value in zip(items[::2], items[1::2], strict=False):
            self._put(made, key, value)
        self.append(made)

    def _put(self, target: Any, key: Any, value: Any) -> None:
        if type(target) is not dict or not isinstance(key, (str, bytes)):
            raise pickle.UnpicklingError("it has a key that is no text")
        target[key] = value

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("it fills something other than a list")
        self.stack[-1].extend(values)

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function not in _KNOWN.values() or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it calls what is no function")
        self.append(function(*arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Call):
            raise pickle.UnpicklingError("it gives a state to what has none")
        self.stack[-1].state = state

    dispatch |= {
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
        pickle.DICT[0]: _dictionary,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.REDUCE[0]: _call,
        pickle.BUILD[0]: _build,
    }


def read_batch(data: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of a pickled CIFAR-10 batch.

    Args:
        data: The file's bytes.
        name: What messages call it.

    Returns:
        uint8 [N, 3, 32, 32] and int64 [N].

    Raises:
        InputError: It is no such batch, or it asks for anything else than arrays and lists.
    """
    try:
        batch = _Reader(io.BytesIO(data), encoding="bytes").load()
        values = batch[b"data"]
        images = (values.values() if isinstance(values, _Array) else _bytes(values)).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"], np.int64)
        if labels.shape != (len(images),):
            raise ValueError(f"it has {len(images)} images and labels of shape {list(labels.shape)}")
    except Exception as error:  # the instructions end in whatever an operand of another type ends in
        raise InputError(f"{name} is no CIFAR-10 batch: {str(error) or type(error).__name__}.") from None
    return images, labels


def _bytes(values: Any) -> NDArray[np.uint8]:
    if not isinstance(values, bytes):
        raise ValueError("its data are no array of bytes")
    return np.frombuffer(values, np.uint8)
