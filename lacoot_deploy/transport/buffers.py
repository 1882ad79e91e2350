"""Memory for gradients that is used again instead of being given back to the operating system.

A gradient as large as a batch of activations exists for a moment in every step. On CUDA torch's allocator keeps such
memory; on the CPU a large block goes back to the system when it is freed, and getting it anew means a page fault
every 4 KiB, which costs several times more than filling it. So a bounded number of large CPU buffers is kept here.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST = 1 << 20
KEPT_BYTES = 256 << 20

# Lists change in one step under the interpreter lock, so threads and finalizers need no other.
_free: list[NDArray[np.uint8]] = []


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor, as `torch.empty`, in memory that returns here when nothing refers to it any more."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALLEST:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = _take(size)
    # The tensor's storage holds the view; the view dies with the storage, and then the memory is free again.
    view = memory[:]
    weakref.finalize(view, _put_back, memory).atexit = False
    return torch.from_numpy(view).view(dtype).view(shape)


def _take(size: int) -> NDArray[np.uint8]:
    """Free memory of that size, the last used first; else new memory."""
    others = []
    found = None
    while _free and found is None:
        memory = _free.pop()
        if memory.size == size:
            found = memory
        else:
            others.append(memory)
    _free.extend(reversed(others))
    return found if found is not None else np.empty(size, dtype=np.uint8)


def _put_back(memory: NDArray[np.uint8]) -> None:
    _free.append(memory)
    while sum(kept.size for kept in _free) > KEPT_BYTES:
        del _free[:1]
