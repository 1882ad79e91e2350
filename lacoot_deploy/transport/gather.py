"""One distance over the samples of several processes: directions are shared and projections gathered.

What travels per block is K projections of each sample and one set of directions, never the activations.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from lacoot_deploy.transport.directions import Directions


def share_directions(directions: Directions, group: dist.ProcessGroup) -> Directions:
    """The directions of the group's first process, on all of them."""
    for part in (directions.bank, directions.signs):
        if part is not None:
            dist.broadcast(part, group=group, group_src=0)
    return directions


def gather_samples(local: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, slice]:
    """Concatenate [..., n] of all processes along the last axis, in the order of their ranks.

    Processes may hold different numbers of samples, as in a short last batch.

    Returns:
        The whole, and where the own samples lie in it.
    """
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    own = torch.tensor([local.shape[-1]], device=local.device)
    sizes = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(sizes, own, group=group)
    counts = [int(size) for size in sizes]
    padded = torch.nn.functional.pad(local, (0, max(counts) - local.shape[-1])).contiguous()
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    start = sum(counts[:rank])
    whole = torch.cat([part[..., :count] for part, count in zip(parts, counts, strict=True)], dim=-1)
    return whole, slice(start, start + local.shape[-1])
