"""What a model answers on data: predictions in batches, and accuracy in percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo, Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.batching import Batching, declared_batch, find_batching, rows, sample_axes

DEFAULT_BATCH = 64


def fixed_batch(inputs: Sequence[InputInfo]) -> int | None:
    """The batch size that the model's inputs are fixed to; None where it is free."""
    return declared_batch(inputs)


def padded_batches(
    samples: Samples, batch_size: int, fixed: int | None
) -> Iterator[tuple[int, int, dict[str, NDArray[Any]]]]:
    """Batches as (start, number of real samples, feeds); see `Batching.batches`."""
    batching = Batching(batch_size) if fixed is None else Batching(fixed, exact=True)
    for batch in batching.batches(samples):
        yield batch.start, batch.real, batch.feeds


class Runs(Protocol):
    """Whatever runs a model: a session, or one that gives inner values."""

    @property
    def inputs(self) -> tuple[InputInfo, ...]:
        """The inputs that must be fed."""

    @property
    def label(self) -> str:
        """What messages call the model."""

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None, /
    ) -> dict[str, NDArray[Any]]:
        """The outputs wanted, all by default."""


def predict(
    session: Runs,
    samples: Samples,
    outputs: Sequence[str] | None = None,
    batch_size: int = DEFAULT_BATCH,
) -> dict[str, NDArray[Any]]:
    """The model's outputs for all samples, in order, each [N, ...].

    Args:
        session: The model.
        samples: What to run it on.
        outputs: Names of the outputs wanted; None for all.
        batch_size: Samples per run, where the model runs with that many.

    Raises:
        InputError: The samples do not fit the model, or an output counts no samples.
    """
    batching, values = find_batching(
        lambda feeds: session.run(feeds, outputs), session.inputs, samples, batch_size
    )
    runs: list[tuple[Mapping[str, Any], int]] = []
    batches = list(batching.batches(samples))
    for batch in batches:
        runs.append((session.run(batch.feeds, outputs) if batch.start else values, batch.size))
    axes = sample_axes(runs)
    for name in values:
        if name not in axes:
            raise InputError(_no_samples(name, [(found[name], size) for found, size in runs], session.label))
    return {
        name: np.concatenate(
            [rows(found[name], axis, batch.real) for (found, _), batch in zip(runs, batches, strict=True)]
        )
        for name, axis in axes.items()
    }


def _no_samples(name: str, values: Sequence[tuple[Any, int]], label: str) -> str:
    """Why an output cannot be told apart by samples."""
    for value, size in values:
        if not isinstance(value, np.ndarray) or size not in value.shape:
            return f"Output {name!r} of {label} has no sample axis: {_describe(value)} for {size} samples."
    return f"Output {name!r} of {label} changes its shape from batch to batch."


def top_k_hits(logits: NDArray[Any], labels: NDArray[Any], k: int = 1) -> NDArray[np.bool_]:
    """For each sample whether its label is among the k largest logits; ties count for the smaller class index.

    Args:
        logits: [N, classes].
        labels: [N], integers.
        k: How many classes may be named.

    Raises:
        InputError: The shapes do not fit, or a label is no class of the model.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"Accuracy needs one row of class scores per label, got {list(logits.shape)} and {list(labels.shape)}."
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise InputError(
            f"The labels run from {labels.min()} to {labels.max()}, but the model has {logits.shape[1]} classes."
        )
    own = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    before = np.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = (logits > own).sum(axis=1) + ((logits == own) & before).sum(axis=1)
    return np.asarray((rank < k) & ~np.isnan(own[:, 0]))


def accuracy(logits: NDArray[Any], labels: NDArray[Any], k: int = 1) -> float:
    """Top-k accuracy in percent.

    Args:
        logits: [N, classes].
        labels: [N], integers.
        k: How many classes may be named.

    Raises:
        InputError: As for `top_k_hits`.
    """
    return 100.0 * float(top_k_hits(logits, labels, k).mean())


def class_scores(outputs: Mapping[str, NDArray[Any]]) -> str | None:
    """The name of the output that holds class scores: the first that is a float matrix of two or more columns."""
    for name, values in outputs.items():
        if (
            isinstance(values, np.ndarray)
            and values.ndim == 2
            and values.shape[1] > 1
            and values.dtype.kind == "f"
        ):
            return name
    return None


def _describe(values: Any) -> str:
    return f"shape {list(values.shape)}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
