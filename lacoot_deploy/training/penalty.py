"""The LaCoOT penalty: the mean over blocks of the distance between a block's input and output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lacoot_deploy.transport import max_sliced_wasserstein_each

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class DistanceOptions:
    """How the distance is estimated.

    Attributes:
        p: Order of the Wasserstein distance.
        estimator: `sampled` (maximum over random directions) or `ascent` (maximised direction).
        projections: Number of random directions.
        stride: n > 1 looks only at every n-th row and column of activations.
    """

    p: float = 2.0
    estimator: Literal["sampled", "ascent"] = "sampled"
    projections: int = 50
    stride: int = 1


def block_penalty(
    values: Mapping[str, tuple[Tensor, Tensor]],
    options: DistanceOptions,
    generator: torch.Generator | None = None,
    *,
    group: ProcessGroup | None = None,
) -> Tensor:
    """mean_k MSW_p(input_k, output_k), a scalar that carries gradient to both ends of every block.

    Args:
        values: Input and output of each block, [n, ...] each; any floating-point type.
        options: How it is estimated.
        generator: Source of the directions; fresh ones are drawn for every block.
        group: Processes that share the batch: the distances are those of the whole batch, of which only
            projections travel, and the average of the processes' gradients is the gradient of the value.

    Raises:
        UsageError: The estimator `ascent` with several processes.
    """
    return max_sliced_wasserstein_each(
        list(values.values()),
        p=options.p,
        estimator=options.estimator,
        projections=options.projections,
        generator=generator,
        stride=options.stride,
        group=group,
    ).mean()
