"""Values of a network in ONNX Runtime, sample by sample: computed once and kept, or anew for every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples
from lacoot_deploy.runtime.exposed import ExposedSession

Arrays = dict[str, NDArray[Any]]

KEPT_BYTES = 1 << 30
"""What the kept values of a network may take; beyond that they are computed for every batch."""


@dataclass(frozen=True)
class Spread:
    """What a value looks like over all samples.

    Attributes:
        shape: Of one batch.
        variance: Of its entries.
    """

    shape: tuple[int, ...]
    variance: float


class Answers:
    """Values of a network on some samples.

    Attributes:
        names: The values.
        kept: All of them, [N, ...] each, where they fit into memory and have a sample axis; else None.
        spread: What each looks like.
    """

    def __init__(
        self,
        session: ExposedSession,
        names: Sequence[str],
        samples: Samples,
        *,
        batch: int,
        keep: bool = True,
        memory: int = KEPT_BYTES,
    ) -> None:
        """Run the network over all samples once.

        Args:
            session: It, with the values exposed.
            names: The values wanted.
            samples: The samples.
            batch: Samples of a run; every run has that many, so samples may be seen twice.
            keep: Whether values may be kept.
            memory: Bytes that they may take.

        Raises:
            InputError: The samples do not fit the network.
        """
        self.session, self.names, self.samples = session, tuple(names), samples
        self.kept: Arrays | None = None
        total = len(samples)
        sums: dict[str, list[float]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        kept: Arrays = {}
        for start in range(0, total, batch):
            where = np.arange(start, start + batch) % total
            found = self.run(samples.take(where).feeds)
            real = min(batch, total - start)
            for name, values in found.items():
                shapes[name] = values.shape
                _add(sums.setdefault(name, [0.0, 0.0, 0.0]), values)
            if start == 0:
                size = sum(v.nbytes // max(len(v), 1) for v in found.values() if v.ndim) * total
                keep = keep and size <= memory and all(v.ndim and len(v) == batch for v in found.values())
            if keep:
                for name, values in found.items():
                    if name not in kept:
                        kept[name] = np.empty((total, *values.shape[1:]), values.dtype)
                    keep = keep and kept[name].shape[1:] == values.shape[1:]
                    if keep:
                        kept[name][start : start + real] = values[:real]
        self.kept = kept if keep else None
        self.spread = {name: Spread(shapes[name], _variance(sums[name])) for name in shapes}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The values for some feeds; half precision as float32."""
        found = self.session.run(feeds, self.names)
        return {
            name: v.astype(np.float32) if v.dtype == np.float16 or v.dtype.name == "bfloat16" else v
            for name, v in found.items()
        }

    def of(self, where: NDArray[np.int64] | None, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The values of a batch.

        Args:
            where: Which of the samples it is made of, as they are; None where they were changed.
            feeds: Its feeds.
        """
        if self.kept is None or where is None:
            return self.run(feeds)
        return {name: values[where] for name, values in self.kept.items()}


def _add(sums: list[float], values: NDArray[Any]) -> None:
    if values.dtype.kind == "f" and values.size:
        sums[0] += values.size
        sums[1] += float(values.sum(dtype=np.float64))
        sums[2] += float(np.square(values, dtype=np.float64).sum())


def _variance(sums: Sequence[float]) -> float:
    """The variance; the mean square where entries do not vary, 1 where they are all zero."""
    count, total, squares = sums
    if not count:
        return 1.0
    mean, size = total / count, squares / count
    variance = max(0.0, size - mean * mean)
    return variance if variance > 1e-9 * size else size or 1.0
