"""What a model answers on data: predictions in batches, and accuracy in percent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo, Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.sessions import Session

DEFAULT_BATCH = 64


def fixed_batch(inputs: Sequence[InputInfo]) -> int | None:
    """The batch size that the model's inputs are fixed to; None where it is free."""
    return next((info.shape[0] for info in inputs if info.shape and isinstance(info.shape[0], int)), None)


def padded_batches(
    samples: Samples, batch_size: int, fixed: int | None
) -> Iterator[tuple[int, int, dict[str, NDArray[Any]]]]:
    """Batches as (start, number of real samples, feeds).

    With a fixed batch size a short last batch is filled up with its last sample; what comes out for the filling
    is to be dropped.

    Raises:
        InputError: The batch size is below 1.
    """
    size = fixed or batch_size
    if size < 1:
        raise InputError(f"The batch size must be at least 1, not {size}.")
    start = 0
    for feeds in samples.batches(size):
        real = len(next(iter(feeds.values())))
        if fixed and real < fixed:
            feeds = {
                name: np.concatenate([a, np.repeat(a[-1:], fixed - real, axis=0)])
                for name, a in feeds.items()
            }
        yield start, real, feeds
        start += real


def predict(
    session: Session,
    samples: Samples,
    outputs: Sequence[str] | None = None,
    batch_size: int = DEFAULT_BATCH,
) -> dict[str, NDArray[Any]]:
    """The model's outputs for all samples, in order, each [N, ...].

    Args:
        session: The model.
        samples: What to run it on.
        outputs: Names of the outputs wanted; None for all.
        batch_size: Samples per run; a model with a fixed batch size is run with that.

    Raises:
        InputError: The samples do not fit the model, or an output has no sample axis.
    """
    collected: dict[str, NDArray[Any]] = {}
    total = len(samples)
    for start, real, feeds in padded_batches(samples, batch_size, fixed_batch(session.inputs)):
        size = len(next(iter(feeds.values())))
        for name, values in session.run(feeds, outputs).items():
            if not isinstance(values, np.ndarray) or values.ndim == 0 or len(values) != size:
                raise InputError(
                    f"Output {name!r} of {session.label} has no sample axis: {_describe(values)} for {size} samples."
                )
            if name not in collected:
                collected[name] = np.empty((total, *values.shape[1:]), dtype=values.dtype)
            if values.shape[1:] != collected[name].shape[1:]:
                raise InputError(f"Output {name!r} of {session.label} changes its shape from batch to batch.")
            collected[name][start : start + real] = values[:real]
    return collected


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


def top_k_metric(k: int) -> Callable[[Mapping[str, NDArray[Any]], NDArray[Any] | None], NDArray[np.bool_]]:
    """Top-k accuracy as a metric of all outputs and the labels.

    Raises:
        InputError: When called without labels, or where no output holds class scores.
    """

    def metric(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any] | None) -> NDArray[np.bool_]:
        name = class_scores(outputs)
        if labels is None or name is None:
            raise InputError(
                f"top-{k} needs {'labels' if labels is None else 'an output with class scores'}."
            )
        return top_k_hits(outputs[name], labels, k)

    metric.__name__ = f"top-{k}"
    return metric


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
