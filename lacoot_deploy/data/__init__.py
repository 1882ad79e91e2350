"""Data sources behind `--data`: decoded once into numpy arrays, split the same way everywhere."""

from lacoot_deploy.data.images import load_images, normalise, preprocessing_of
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.data.samples import load_samples
from lacoot_deploy.data.splits import SPLITS, holdout
from lacoot_deploy.data.types import ImageSet, InputInfo, Samples

__all__ = [
    "SPLITS",
    "DataOptions",
    "ImageSet",
    "InputInfo",
    "Samples",
    "holdout",
    "load_images",
    "load_samples",
    "normalise",
    "preprocessing_of",
]
