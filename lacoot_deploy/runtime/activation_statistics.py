"""What goes into activations and what should come out of them, per channel, over data and positions.

Two networks run side by side in one pass: the one that is being changed gives what goes into each activation, the
unchanged one what came out of it there. Sums are taken sample by sample, so the batch size changes nothing but what
ONNX Runtime's kernels themselves round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.batching import find_batching
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.options import AUTO, Runtime

if TYPE_CHECKING:
    import onnx

Float64 = NDArray[np.float64]

MAX_BATCH = 64


@dataclass(frozen=True)
class Watched:
    """One activation to be watched.

    Attributes:
        name: What the result calls it.
        input: The value before it in the network that is being changed.
        target: The value behind it in the unchanged network.
        axis: Channel axis of both; None to take all entries of a sample as one channel.
    """

    name: str
    input: str
    target: str
    axis: int | None


@dataclass(frozen=True)
class ActivationMoments:
    """Counts and moments of one activation per channel, [C] each.

    Attributes:
        entries: Entries per channel, all samples and positions.
        on: How many of the inputs are above zero.
        off: How many are below; zeros count for neither.
        mean: Mean of the inputs.
        variance: Variance of the inputs.
        target_mean: Mean of what should come out.
        target_variance: Variance of what should come out.
        covariance: Of inputs and what should come out.
        identity_error: Mean square of the difference between the two.
    """

    entries: int
    on: NDArray[np.int64]
    off: NDArray[np.int64]
    mean: Float64
    variance: Float64
    target_mean: Float64
    target_variance: Float64
    covariance: Float64
    identity_error: Float64

    def affine(self) -> tuple[Float64, Float64]:
        """Slope and intercept of the least-squares fit per channel; a constant input gives slope 0."""
        varies = self.variance > 0
        slope = np.where(varies, self.covariance / np.where(varies, self.variance, 1.0), 0.0)
        return slope, self.target_mean - slope * self.mean

    def residual(self) -> float:
        """Share of the outputs' variance, all channels together, that the best affine fit leaves; its root."""
        slope, _ = self.affine()
        left = np.maximum(self.target_variance - slope * self.covariance, 0.0)
        total = float(self.target_variance.sum())
        return float(np.sqrt(left.sum() / total)) if total > 0 else 0.0


class _Stream:
    """Running sums of one activation, around the means of the first sample to keep digits."""

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._entries = 0
        self._on: NDArray[np.int64] = np.zeros(0, np.int64)
        self._off = self._on
        self._shifts: tuple[Float64, Float64] | None = None
        self._sums: Float64 = np.zeros(0)

    def add(self, name: str, x: NDArray[Any], y: NDArray[Any]) -> None:
        if x.shape != y.shape or x.dtype.kind != "f":
            raise InputError(
                f"The activation {name!r} gets {list(x.shape)} and gave {list(y.shape)}; it cannot be fitted."
            )
        rows = [self._channels(values) for values in (x, y)]
        if not all(np.isfinite(values).all() for values in rows):
            raise InputError(f"The activation {name!r} is not finite on some samples.")
        x_rows, y_rows = rows
        if self._shifts is None:
            self._shifts = (x_rows[0].mean(axis=1), y_rows[0].mean(axis=1))
            self._on = self._off = np.zeros(x_rows.shape[1], np.int64)
            self._sums = np.zeros((6, x_rows.shape[1]))
        self._entries += x_rows.shape[0] * x_rows.shape[2]
        self._on = self._on + (x_rows > 0).sum(axis=(0, 2))
        self._off = self._off + (x_rows < 0).sum(axis=(0, 2))
        for sample_x, sample_y in zip(x_rows, y_rows, strict=True):
            a, b = sample_x - self._shifts[0][:, None], sample_y - self._shifts[1][:, None]
            change = sample_y - sample_x
            self._sums = self._sums + np.stack(
                [
                    a.sum(axis=1),
                    b.sum(axis=1),
                    np.einsum("cp,cp->c", a, a),
                    np.einsum("cp,cp->c", b, b),
                    np.einsum("cp,cp->c", a, b),
                    np.einsum("cp,cp->c", change, change),
                ]
            )

    def _channels(self, values: NDArray[Any]) -> Float64:
        """Values [samples, ...] as float64 [samples, channels, positions]."""
        if self._axis is None or values.ndim < 2:
            return np.asarray(values, np.float64).reshape(len(values), 1, -1)
        moved = np.moveaxis(values, self._axis, 1)
        return np.ascontiguousarray(moved, np.float64).reshape(len(values), moved.shape[1], -1)

    def moments(self) -> ActivationMoments:
        assert self._shifts is not None, "at least one sample was taken in"
        n = self._entries
        a, b, aa, bb, ab, change = self._sums / n
        return ActivationMoments(
            entries=n,
            on=self._on,
            off=self._off,
            mean=self._shifts[0] + a,
            variance=np.maximum(aa - a * a, 0.0),
            target_mean=self._shifts[1] + b,
            target_variance=np.maximum(bb - b * b, 0.0),
            covariance=ab - a * b,
            identity_error=change,
        )


def activation_moments(
    model: onnx.ModelProto,
    watched: Sequence[Watched],
    samples: Samples,
    *,
    target: onnx.ModelProto | None = None,
    runtime: Runtime = AUTO,
    source: Path | None = None,
    batch_size: int | None = None,
    memory_bytes: int = 1 << 29,
) -> dict[str, ActivationMoments]:
    """Counts and moments of activations over calibration data, in bounded memory.

    Args:
        model: The network that is being changed.
        watched: Its activations; those that do not fit into memory together are watched in several passes.
        samples: Calibration data.
        target: The unchanged network; None where it is the same.
        runtime: Where both run.
        source: Where a model with external data was read from.
        batch_size: Samples per run; None for as many as fit `memory_bytes`, at most 64.
        memory_bytes: What activations may take at a time.

    Raises:
        InputError: An activation's values are not finite or of other shapes than they were.
        ProviderError: As for `open_session`.
    """
    if not watched:
        return {}
    inputs = [entry.input for entry in watched]
    targets = [entry.target for entry in watched]
    if target is None:
        session = ExposedSession(model, [*inputs, *targets], runtime=runtime, source=source)
        sessions = [(session, [*inputs, *targets])]
    else:
        sessions = [
            (ExposedSession(network, names, runtime=runtime, source=source), names)
            for network, names in ((model, inputs), (target, targets))
        ]

    single, probe = find_batching(lambda feeds: _run(sessions, feeds), sessions[0][0].inputs, samples, 1)
    sizes = {entry.name: 2 * probe[entry.input].nbytes // single.size for entry in watched}
    groups = list(_groups(watched, sizes, memory_bytes // single.size))
    streams = {entry.name: _Stream(entry.axis) for entry in watched}
    for group in groups:
        size = batch_size or max(1, min(MAX_BATCH, memory_bytes // max(sum(sizes[e.name] for e in group), 1)))
        wanted = {name for entry in group for name in (entry.input, entry.target)}
        batching, first = find_batching(
            lambda feeds, wanted=wanted: _run(sessions, feeds, wanted),  # type: ignore[misc]
            sessions[0][0].inputs,
            samples,
            single.size if single.exact else size,
        )
        for batch in batching.batches(samples):
            values = _run(sessions, batch.feeds, wanted) if batch.start else first
            for entry in group:
                before, after = values[entry.input], values["\0" + entry.target]
                streams[entry.name].add(entry.name, before[: batch.real], after[: batch.real])
    return {name: stream.moments() for name, stream in streams.items()}


def _run(
    sessions: Sequence[tuple[ExposedSession, Sequence[str]]],
    feeds: Mapping[str, NDArray[Any]],
    wanted: set[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """Values of the changed network by name, and those of the unchanged one by name behind a zero byte."""
    found: dict[str, NDArray[Any]] = {}
    for number, (session, names) in enumerate(sessions):
        values = session.run(feeds, [name for name in names if wanted is None or name in wanted])
        if number == 0:
            found.update(values)
        if number == len(sessions) - 1:
            found.update({"\0" + name: value for name, value in values.items()})
    return found


def _groups(watched: Sequence[Watched], sizes: Mapping[str, int], memory_bytes: int) -> list[list[Watched]]:
    """Activations in groups of which one sample's values fit into memory."""
    groups: list[list[Watched]] = [[]]
    held = 0
    for entry in watched:
        if groups[-1] and held + sizes[entry.name] > memory_bytes:
            groups.append([])
            held = 0
        groups[-1].append(entry)
        held += sizes[entry.name]
    return groups
