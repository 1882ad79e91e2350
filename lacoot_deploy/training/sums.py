"""Residual sums written in a module's own forward: found by their values, watched as the calls that they are."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

ADDITIONS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})

TOLERANCE = 1e-3
"""Largest difference of two values that are taken for the same, relative to the largest entry."""


@dataclass(frozen=True)
class Call:
    """A call of a torch function in a forward pass: the n-th of its name, counted from 0."""

    name: str
    number: int


@dataclass(frozen=True)
class SumPlace:
    """Where a forward pass has a block's two ends.

    Attributes:
        merge: The addition of branch and skip path.
        operand: Which argument of it is the block's input.
        end: The call whose result is the block's output: the addition, or the activation behind it.
        copy_end: That result is changed in place later on and must be copied when captured.
    """

    merge: Call
    operand: int
    end: Call
    copy_end: bool = False


class SumWatch(TorchFunctionMode):
    """Context of a forward pass in which the ends of such blocks are kept as they are computed.

    Attributes:
        values: Block name to (input, output).
    """

    def __init__(self, places: dict[str, SumPlace]) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.inputs: dict[str, torch.Tensor] = {}
        self.values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.merges: dict[Call, list[str]] = {}
        self.ends: dict[Call, list[str]] = {}
        self.places = places
        for name, place in places.items():
            self.merges.setdefault(place.merge, []).append(name)
            self.ends.setdefault(place.end, []).append(name)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the call, and keep what goes into and comes out of it where it is one of those."""
        call = _counted(self.counts, func, args)
        for name in self.merges.get(call, ()):
            value = args[self.places[name].operand]
            # An addition in place overwrites its operand, which the penalty needs as it was.
            self.inputs[name] = value.clone() if call.name in ("add_", "__iadd__") else value
        output = func(*args, **(kwargs or {}))
        for name in self.ends.get(call, ()):
            if name in self.inputs:
                end = output.clone() if self.places[name].copy_end else output
                self.values[name] = (self.inputs.pop(name), end)
        return output


@dataclass(frozen=True)
class _Seen:
    """A call that gave a tensor, its arguments and result as they were then, and the result as it was in the end."""

    call: Call
    reads: tuple[torch.Tensor | None, ...]
    made: torch.Tensor
    kept: torch.Tensor


class CallRecord(TorchFunctionMode):
    """Context of a forward pass that records every call which gives a tensor of one of some shapes."""

    def __init__(self, shapes: Iterable[tuple[int, ...]]) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.shapes, self.seen = frozenset(shapes), list[_Seen]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the call and note it."""
        call = _counted(self.counts, func, args)
        reads = tuple(self._copy(value) for value in args) if call.name in ADDITIONS else ()
        output = func(*args, **(kwargs or {}))
        made = self._copy(output)
        if made is not None:
            self.seen.append(_Seen(call, reads, made, output))
        return output

    def _copy(self, value: Any) -> torch.Tensor | None:
        if isinstance(value, torch.Tensor) and tuple(value.shape) in self.shapes:
            return value.detach().clone()
        return None


def find_sum(seen: Sequence[_Seen], start: NDArray[np.float32], end: NDArray[np.float32]) -> SumPlace | None:
    """The sum whose operand and result have these values; None where no call has them.

    Args:
        seen: The calls of a forward pass.
        start: The block's input for the same samples.
        end: Its output.
    """
    for index, result in enumerate(seen):
        if not same(result.made.numpy(), end):
            continue
        for merge in reversed(seen[: index + 1]):
            for operand, value in enumerate(merge.reads):
                if value is not None and same(value.numpy(), start):
                    changed = not torch.equal(result.made, result.kept)
                    return SumPlace(merge.call, operand, result.call, changed)
    return None


def calls_in_training(model: nn.Module, example: torch.Tensor) -> Counter[str]:
    """How often a pass in training mode calls each function; on a copy, since running statistics move."""
    with torch.no_grad(), CallRecord(()) as trained:
        copy.deepcopy(model).train()(example)
    counts: Counter[str] = trained.counts
    return counts


def same(value: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether two values are equal up to rounding."""
    if value.shape != expected.shape:
        return False
    scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
    return bool(np.abs(value - expected).max(initial=0) <= TOLERANCE * scale)


def _counted(counts: Counter[str], func: Any, args: tuple[Any, ...]) -> Call:
    """The call as its place in the pass names it; one on no features, such as the counter of a norm, has none."""
    if not any(isinstance(value, torch.Tensor) and value.dim() > 1 for value in args):
        return Call("", -1)
    name = getattr(func, "__name__", "")
    counts[name] += 1
    return Call(name, counts[name] - 1)
