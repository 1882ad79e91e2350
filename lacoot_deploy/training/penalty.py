"""The LaCoOT penalty: the mean over blocks of the distance between a block's input and output."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.transport import max_sliced_wasserstein


def block_penalty(
    values: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    recipe: Recipe,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """mean_k MSW_p(input_k, output_k), a scalar that carries gradient to both ends of every block.

    Args:
        values: Input and output of each block, [n, ...] each; any floating-point type.
        recipe: Gives the estimator, p and the number of projections.
        generator: Source of the directions; fresh ones are drawn for every block.
    """
    distances = [
        max_sliced_wasserstein(
            before,
            after,
            p=recipe.p,
            estimator=recipe.estimator,
            projections=recipe.projections,
            generator=generator,
        )
        for before, after in values.values()
    ]
    return torch.stack(distances).mean()
