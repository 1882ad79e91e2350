"""The data of a run: training and validation images of a recipe, and how bytes become inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lacoot_deploy.data import ImageSet, load_images, preprocessing_of
from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.recipe import Recipe

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
    preprocessing = preprocessing_of(train.images)
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
