"""Optimal-transport mathematics: distances between a block's input and output, and the maps that stand in for it.

Knows tensors and arrays; knows nothing of ONNX, of runtimes or of training loops.
"""

from __future__ import annotations

from lacoot_deploy.transport.directions import Directions, random_directions
from lacoot_deploy.transport.distance import max_sliced_wasserstein, max_sliced_wasserstein_each
from lacoot_deploy.transport.floor import floor
from lacoot_deploy.transport.maps import affine_least_squares, affine_map, linear_least_squares, linear_map
from lacoot_deploy.transport.moments import ChannelMoments, JointMoments
from lacoot_deploy.transport.paired import cosine_distance, paired_distance

__all__ = [
    "ChannelMoments",
    "Directions",
    "JointMoments",
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
