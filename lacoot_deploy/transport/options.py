"""How a sliced distance is estimated, as one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Estimator = Literal["sampled", "ascent"]


@dataclass(frozen=True)
class SlicedOptions:
    """How the max-sliced Wasserstein distance is estimated.

    Attributes:
        p: Order of the distance, at least 1.
        estimator: `sampled`: the maximum over random directions, a lower bound that grows with their number;
            `ascent`: the direction is maximised from random and mean-difference starts.
        projections: Number of random directions.
        steps: Steps of the ascent.
        stride: n > 1 looks only at every n-th row and column of activations: a quarter of the work at 2.
    """

    p: float = 2.0
    estimator: Estimator = "sampled"
    projections: int = 50
    steps: int = 30
    stride: int = 1
