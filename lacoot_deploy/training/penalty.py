"""The LaCoOT penalty: the mean over blocks of the distance between a block's input and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lacoot_deploy.transport import SlicedOptions, max_sliced_wasserstein_each

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def block_penalty(
    values: Mapping[str, tuple[Tensor, Tensor]],
    options: SlicedOptions,
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
        list(values.values()), options, generator=generator, group=group
    ).mean()
