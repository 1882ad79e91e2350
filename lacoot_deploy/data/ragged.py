"""Samples of different sizes: one array each, under one name, without a common array to hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError


class Ragged:
    """One array a sample, their sizes free; indexed like an array whose first axis counts samples.

    Attributes:
        parts: The arrays, without an axis for samples.
    """

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)

    @classmethod
    def of_batches(cls, batches: Sequence[NDArray[Any]]) -> Any:
        """Samples from arrays of a few samples each (or, where the first axis differs otherwise, of one each).

        Returns:
            One array where all samples are of one size, else a `Ragged`.
        """
        if all(batch.ndim and len(batch) == 1 for batch in batches):
            batches = [batch[0] for batch in batches]
        if len({batch.shape for batch in batches}) == 1:
            return np.stack(batches)
        return cls(batches)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries."""
        return np.result_type(*{part.dtype for part in self.parts}) if self.parts else np.dtype(float)

    @property
    def ndim(self) -> int:
        """Axes, the one that counts samples among them."""
        return 1 + (self.parts[0].ndim if self.parts else 0)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)):
            return self.parts[int(index)]
        if isinstance(index, slice):
            return Ragged(self.parts[index])
        return Ragged([self.parts[int(i)] for i in np.arange(len(self))[index]])

    def astype(self, kind: Any, *, copy: bool = True) -> Ragged:
        """The same in another type."""
        return Ragged([part.astype(kind, copy=copy) for part in self.parts])

    def joined(self, other: Ragged) -> Ragged:
        """Both, one behind the other."""
        return Ragged([*self.parts, *other.parts])

    def run(self, start: int, size: int) -> int:
        """How many samples from `start` on, at most `size`, are of one shape."""
        count = 1
        while count < size and start + count < len(self):
            if self.parts[start + count].shape != self.parts[start].shape:
                break
            count += 1
        return count

    def stacked(self, start: int, count: int) -> NDArray[Any]:
        """Samples of one shape as an array [count, ...]."""
        return np.stack(self.parts[start : start + count])


def gather_ragged(arrays: Mapping[str, Any], names: Sequence[str], source: str) -> dict[str, Any]:
    """Arrays `NAME.0`, `NAME.1`, ... of an input put together; lists of arrays too.

    Args:
        arrays: By name.
        names: The inputs.
        source: Where they come from.

    Raises:
        InputError: A number is missing.
    """
    found: dict[str, Any] = {}
    numbered: dict[str, dict[int, Any]] = {}
    for name, values in arrays.items():
        parts = re.fullmatch(r"(.+)\.(\d+)", name)
        if parts is not None and name not in names and parts[1] in names:
            numbered.setdefault(parts[1], {})[int(parts[2])] = np.asarray(values)
        elif isinstance(values, list) and name in names and len({np.shape(one) for one in values}) > 1:
            found[name] = Ragged([np.asarray(one) for one in values])
        else:
            found[name] = values if isinstance(values, Ragged) else np.asarray(values)
    for name, given in numbered.items():
        missing = next((i for i in range(len(given)) if i not in given), None)
        if missing is not None:
            raise InputError(
                f"{source} holds {len(given)} samples of {name!r} one by one, but no {name}.{missing}."
            )
        one = [given[i] for i in range(len(given))]
        found[name] = Ragged(one) if len({part.shape for part in one}) > 1 else np.stack(one)
    return found
