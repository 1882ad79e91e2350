"""The LaCoOT penalty: the mean over blocks of the distance between a block's input and output.

With several processes the distance is that of the global batch. Only the projections are gathered, a few thousand
numbers per block where the activations are millions: sorting needs no more, and each process then pulls its own
samples along the direction that won.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.transport import max_sliced_wasserstein, random_directions
from lacoot_deploy.transport.layout import accumulation_dtype, as_rows, check_pair
from lacoot_deploy.transport.sliced import best_matching


def block_penalty(
    values: Mapping[str, tuple[Tensor, Tensor]],
    recipe: Recipe,
    generator: torch.Generator | None = None,
    *,
    counts: Sequence[int] = (),
) -> Tensor:
    """mean_k MSW_p(input_k, output_k), a scalar that carries gradient to both ends of every block.

    Args:
        values: Input and output of each block, [n, ...] each; any floating-point type.
        recipe: Gives the estimator, p and the number of projections.
        generator: Source of the directions; fresh ones are drawn for every block. Processes that share a batch must
            have generators in the same state.
        counts: Samples of each process where several share a batch. The value is then that of the whole batch in
            every process, and the gradient that of this process's samples alone: the sum over processes counts.

    Raises:
        UsageError: The estimator `ascent` with several processes.
    """
    if len(counts) > 1 and recipe.estimator != "sampled":
        raise UsageError("With several processes the distance can only be sampled; use estimator=sampled.")
    distances = [
        _shared_distance(before, after, recipe, generator, counts)
        if len(counts) > 1
        else max_sliced_wasserstein(
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


def _shared_distance(
    x: Tensor, y: Tensor, recipe: Recipe, generator: torch.Generator | None, counts: Sequence[int]
) -> Tensor:
    """The sampled distance of the batch that all processes hold together."""
    check_pair(x, y)
    rows_x, rows_y = as_rows(x, y)
    with torch.no_grad():
        directions = random_directions(
            rows_x.shape[1],
            recipe.projections,
            generator=generator,
            device=x.device,
            dtype=accumulation_dtype(x, y),
        )
        local = torch.stack([directions.project(rows.detach()) for rows in (rows_x, rows_y)])
        projected = _gather(local, counts)
        matching, index = best_matching(projected[0], projected[1], recipe.p)
        rank = torch.distributed.get_rank()
        start = sum(counts[:rank])
        own = slice(start, start + counts[rank])
        theta = directions.select(index)
    value: Tensor = _Pulled.apply(
        rows_x, rows_y, matching.value, matching.pull_x[own], matching.pull_y[own], theta
    )
    return value


def _gather(local: Tensor, counts: Sequence[int]) -> Tensor:
    """Concatenate [2, K, n] of all processes along the last axis; the processes may hold unequally many."""
    padded = local.new_zeros((*local.shape[:2], max(counts)))
    padded[:, :, : local.shape[2]] = local
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:, :, :count] for part, count in zip(parts, counts, strict=True)], dim=2)


class _Pulled(torch.autograd.Function):
    """A distance whose matching is known: its gradient moves each sample along the direction by its pull."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, value: Tensor, pull_x: Tensor, pull_y: Tensor, theta: Tensor
    ) -> Tensor:
        ctx.save_for_backward(pull_x, pull_y, theta)
        ctx.dtypes = x.dtype, y.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pull_x, pull_y, theta = ctx.saved_tensors
        grads = [
            torch.outer(pull * grad, theta).to(dtype) if needed else None
            for pull, dtype, needed in zip((pull_x, pull_y), ctx.dtypes, ctx.needs_input_grad, strict=False)
        ]
        return (*grads, None, None, None, None)
