"""Batches to learn from: the samples in a new order every pass, or a stream that never ends; images may be varied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples, join
from lacoot_deploy.errors import InputError

SHIFT = 8
"""A crop moves an image by up to one part in that many of its size."""


@dataclass(frozen=True)
class Drawn:
    """A batch.

    Attributes:
        samples: It.
        where: Which of the samples it is made of, as they are; None where they were varied or are new.
    """

    samples: Samples
    where: NDArray[np.int64] | None


class Supply:
    """Batches of the same samples, in a new order every pass; a short rest is filled from the next pass."""

    def __init__(
        self, samples: Samples, *, batch: int, seed: int, augment: Sequence[str] = (), rank: int = 0
    ) -> None:
        """Keep the samples.

        Args:
            samples: The samples.
            batch: Samples of a batch.
            seed: Of the order and of the augmentation.
            augment: `flip` and `crop`.
            rank: Number of this process among several, each of which draws its own batches.

        Raises:
            InputError: The samples are to be varied as images, and none of the inputs is one.
        """
        self.samples, self.batch, self.augment = samples, batch, tuple(augment)
        self._random = np.random.default_rng([seed, rank])
        self._images = image_inputs(samples) if augment else ()
        if augment and not self._images:
            raise InputError("--augment is for images, and no input has the shape of some.")
        self._left = np.zeros(0, np.int64)

    def draw(self) -> Drawn:
        """The next batch."""
        while len(self._left) < self.batch:
            self._left = np.concatenate([self._left, self._random.permutation(len(self.samples))])
        where, self._left = self._left[: self.batch], self._left[self.batch :]
        chosen = self.samples.take(where)
        if not self.augment:
            return Drawn(chosen, where)
        feeds = dict(chosen.feeds)
        for name in self._images:
            feeds[name] = vary(feeds[name], self.augment, self._random)
        return Drawn(replace(chosen, feeds=feeds), None)


class Stream:
    """Batches from a source that gives new samples for ever, in pieces of any size."""

    def __init__(self, source: Iterator[Samples], batch: int) -> None:
        """Keep the source.

        Args:
            source: Gives samples, piece by piece.
            batch: Samples of a batch.
        """
        self._source, self.batch = source, batch
        self._rest: Samples | None = None

    def draw(self) -> Drawn:
        """The next batch.

        Raises:
            InputError: The source has ended after all.
        """
        found, self._rest = take_first(self._source, self.batch, self._rest)
        return Drawn(found, None)


def take_first(
    source: Iterator[Samples], count: int, rest: Samples | None = None
) -> tuple[Samples, Samples | None]:
    """The next samples of a source, and what is left of its last piece.

    Args:
        source: Gives samples, piece by piece.
        count: How many are wanted.
        rest: What was left of the piece before.

    Raises:
        InputError: The source ends before.
    """
    found = rest
    while found is None or len(found) < count:
        piece = next(source, None)
        if piece is None:
            have = 0 if found is None else len(found)
            raise InputError(f"The data source ended after {have} more samples, and {count} were wanted.")
        check_finite(piece.own_feeds, piece.description or "The data source")
        found = piece if found is None else join(found, piece)
    return found.take(slice(0, count)), found.take(slice(count, None)) if len(found) > count else None


def image_inputs(samples: Samples) -> tuple[str, ...]:
    """Inputs that have the shape of images: four axes, one of them of 1 to 4 channels."""
    return tuple(
        name
        for name, values in samples.own_feeds.items()
        if values.ndim == 4 and values.dtype.kind == "f" and (values.shape[1] <= 4 or values.shape[3] <= 4)
    )


def vary(images: NDArray[Any], kinds: Sequence[str], random: np.random.Generator) -> NDArray[Any]:
    """Images turned left to right or moved a little, each by itself; what comes in at a border is a reflection.

    Args:
        images: [N, C, H, W] or [N, H, W, C].
        kinds: `flip` and `crop`.
        random: Where chance comes from.
    """
    first = images.shape[1] <= 4
    height, width = (2, 3) if first else (1, 2)
    result = images.copy()
    if "flip" in kinds:
        turned = random.random(len(images)) < 0.5
        result[turned] = np.flip(result[turned], axis=width)
    if "crop" in kinds:
        room = (images.shape[height] // SHIFT, images.shape[width] // SHIFT)
        pads = [(0, 0)] * 4
        pads[height], pads[width] = (room[0], room[0]), (room[1], room[1])
        wide = np.pad(result, pads, mode="reflect")
        offsets = [random.integers(0, 2 * size + 1, len(images)) for size in room]
        for i, (top, left) in enumerate(zip(*offsets, strict=True)):
            part: list[slice] = [slice(None)] * 3
            part[height - 1] = slice(top, top + images.shape[height])
            part[width - 1] = slice(left, left + images.shape[width])
            result[i] = wide[i][tuple(part)]
    return result


def split_held_back(samples: Samples, share: float, seed: int, least: int = 16) -> tuple[Samples, Samples]:
    """The samples that train and those that judge, drawn at random.

    Raises:
        InputError: There are too few to do both.
    """
    total = len(samples)
    held = min(max(round(total * share), least), 1000)
    if total < 2 * least:
        raise InputError(
            f"Healing needs at least {2 * least} samples, some to learn from and some to judge by; there are {total}."
        )
    order = np.random.default_rng([seed, 7]).permutation(total)
    return samples.take(np.sort(order[held:])), samples.take(np.sort(order[:held]))


def check_finite(feeds: Mapping[str, NDArray[Any]], what: str) -> None:
    """Refuse samples that hold NaN or infinity.

    Raises:
        InputError: Naming the input and the first such sample.
    """
    for name, values in feeds.items():
        if values.dtype.kind != "f":
            continue
        good = (
            np.isfinite(values.reshape(len(values), -1)).all(axis=1) if values.ndim else np.isfinite(values)
        )
        if not np.all(good):
            first = int(np.flatnonzero(~np.atleast_1d(good))[0])
            raise InputError(f"{what}: sample {first} of input {name} holds NaN or infinity; leave it out.")
