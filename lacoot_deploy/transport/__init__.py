"""Optimal-transport mathematics: distances between a block's input and output, and the maps that stand in for it.

Knows tensors and arrays; knows nothing of ONNX, of runtimes or of training loops. The maps need numpy alone, so torch
is imported with the first distance and not with the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lacoot_deploy.transport.maps import affine_least_squares, affine_map, linear_least_squares, linear_map
from lacoot_deploy.transport.moments import ChannelMoments, JointMoments
from lacoot_deploy.transport.options import SlicedOptions

if TYPE_CHECKING:
    from lacoot_deploy.transport.directions import Directions, random_directions
    from lacoot_deploy.transport.distance import max_sliced_wasserstein, max_sliced_wasserstein_each
    from lacoot_deploy.transport.noise_floor import floor
    from lacoot_deploy.transport.paired import cosine_distance, paired_distance

_NEED_TORCH = {
    "Directions": "directions",
    "cosine_distance": "paired",
    "floor": "noise_floor",
    "max_sliced_wasserstein": "distance",
    "max_sliced_wasserstein_each": "distance",
    "paired_distance": "paired",
    "random_directions": "directions",
}

__all__ = [
    "ChannelMoments",
    "Directions",
    "JointMoments",
    "SlicedOptions",
    "affine_least_squares",
    "affine_map",
    "cosine_distance",
    "floor",
    "linear_least_squares",
    "linear_map",
    "max_sliced_wasserstein",
    "max_sliced_wasserstein_each",
    "paired_distance",
    "random_directions",
]


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
    globals()[name] = value
    return value
