"""The data of a run: training and validation images of a recipe, and how bytes become inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lacoot_deploy.data import ImageSet, load_images, preprocessing_of
from lacoot_deploy.data.arrays import read_npz
from lacoot_deploy.data.splits import holdout
from lacoot_deploy.errors import InputError
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.userfunctions import call_function, load_function

EXAMPLES = 8
"""About as many validation images are kept in a checkpoint, so that an export can be checked on real input anywhere."""


@dataclass(frozen=True)
class RunData:
    """Training and validation images, and how bytes become inputs."""

    train: ImageSet
    val: ImageSet
    preprocessing: PreprocessingRecord

    @property
    def sizes(self) -> dict[str, int]:
        """What a network has to be built for: `classes` and `channels`."""
        return {"classes": len(self.train.classes), "channels": self.preprocessing.channels}

    @property
    def examples(self) -> torch.Tensor:
        """A few validation images, uint8 [n, C, H, W]."""
        return torch.from_numpy(self.val.images[:: max(len(self.val) // EXAMPLES, 1)].copy())

    def example(self) -> torch.Tensor:
        """A few real inputs, on the CPU."""
        images = DeviceImages(self.val, self.preprocessing, device=torch.device("cpu"))
        example, _ = images.batch(torch.arange(min(4, len(images))))
        return example


def load_data(recipe: Recipe) -> RunData:
    """The training and validation images of a recipe; test images are not touched."""
    train, val = recipe_images(recipe)
    preprocessing = _as_they_are(train) if train.images.dtype != np.uint8 else preprocessing_of(train.images)
    if recipe.size is not None:
        preprocessing = preprocessing.model_copy(update={"size": (recipe.size, recipe.size)})
    return RunData(train, replace(val, classes=train.classes), preprocessing)


def recipe_images(recipe: Recipe, *, size: tuple[int, int] | None = None) -> tuple[ImageSet, ImageSet]:
    """The training and validation images that a recipe stands for, its `limit` applied to both alike.

    Args:
        recipe: Gives source, share of validation, limit and seed.
        size: Height and width that images are resized to; None keeps their own.

    Raises:
        InputError: The data cannot be used.
    """
    if recipe.data.partition(":")[0] in ("npz", "python"):
        train, val = own_images(recipe.data, recipe.val_fraction)
    else:
        train, val = (
            load_images(recipe.data, part, size=size, val_fraction=recipe.val_fraction)
            for part in ("train", "val")
        )
    if recipe.limit is None or recipe.limit >= len(train):
        return train, val
    share = recipe.limit / len(train)
    return _some(train, recipe.limit, recipe.seed), _some(val, max(round(share * len(val)), 1), recipe.seed)


def _some(images: ImageSet, count: int, seed: int) -> ImageSet:
    return images.take(np.sort(np.random.default_rng(seed).permutation(len(images))[:count]))


def own_images(spec: str, val_fraction: float) -> tuple[ImageSet, ImageSet]:
    """Training and validation images from an npz file or a function: one array, and `labels` of whole numbers.

    Bytes are normalised as those of any image source; floats are taken as they are.

    Args:
        spec: `npz:PATH` or `python:module:function`, whose function gives a mapping of the arrays or (images, labels).
        val_fraction: Share that is held out for validation, of every class alike.

    Raises:
        InputError: There is no such source, or its arrays are no images with classes.
    """
    kind, _, rest = spec.partition(":")
    found = read_npz(Path(rest)) if kind == "npz" else call_function(load_function(rest, "data source"), spec)
    if isinstance(found, tuple) and len(found) == 2:
        found = {"images": found[0], "labels": found[1]}
    if not isinstance(found, Mapping) or "labels" not in found or len(found) != 2:
        held = ", ".join(map(repr, found)) if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise InputError(
            f"{spec} holds {held or 'nothing'}; training takes one array of images and 'labels'."
        )
    labels = np.asarray(found["labels"])
    name = next(name for name in found if name != "labels")
    images = np.asarray(found[name])
    images = images[:, None] if images.ndim == 3 else images
    if (
        images.ndim != 4
        or images.dtype.kind not in "uf"
        or (images.dtype.kind == "u" and images.dtype != np.uint8)
    ):
        raise InputError(
            f"{name!r} in {spec} is {images.dtype} {list(images.shape)}; training takes bytes or floats "
            f"[samples, channels, height, width]."
        )
    if not np.isfinite(images).all():
        raise InputError(f"{name!r} in {spec} holds values that are not finite.")
    if (
        labels.shape != images.shape[:1]
        or not np.array_equal(labels, np.floor(labels))
        or labels.min(initial=0) < 0
    ):
        raise InputError(
            f"'labels' in {spec} are {labels.dtype} {list(labels.shape)}; training takes one whole number from 0 up "
            f"for each of the {len(images)} images."
        )
    numbers = labels.astype(np.int64)
    classes = tuple(str(number) for number in range(int(numbers.max(initial=-1)) + 1))
    values: Any = images if images.dtype == np.uint8 else images.astype(np.float32)
    parts = [ImageSet(values[chosen], numbers[chosen], classes) for chosen in holdout(numbers, val_fraction)]
    return parts[0], parts[1]


def _as_they_are(images: ImageSet) -> PreprocessingRecord:
    """What leaves floats as they are: the scale of bytes times 255."""
    channels, height, width = images.images.shape[1:]
    return PreprocessingRecord(
        mean=[0.0] * channels, std=[1 / 255] * channels, size=(height, width), channels=channels
    )
