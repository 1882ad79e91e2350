"""Several processes measure one distance over the samples of all, and get the gradient of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import SlicedOptions, max_sliced_wasserstein, max_sliced_wasserstein_each

SPLIT = 5


def samples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 3, 20, 50), (8, 40)]
    return [(torch.randn(s, generator=generator), torch.randn(s, generator=generator) * 1.5) for s in shapes]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    own = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    pairs = [(x[own].clone().requires_grad_(), y[own].clone().requires_grad_()) for x, y in samples()]
    # Only the first process's directions count: the others' generators need not agree.
    generator = torch.Generator().manual_seed(9 + rank)
    values = max_sliced_wasserstein_each(pairs, generator=generator, group=dist.group.WORLD)
    values.sum().backward()
    torch.save((values.detach(), [(x.grad, y.grad) for x, y in pairs]), f"{folder}/{rank}.pt")
    with pytest.raises(UsageError, match="one process"):
        max_sliced_wasserstein(*pairs[0], SlicedOptions(estimator="ascent"), group=dist.group.WORLD)
    dist.destroy_process_group()


def test_two_processes_agree_with_one_that_has_all_samples(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    pairs = [(x.requires_grad_(), y.requires_grad_()) for x, y in samples()]
    values = max_sliced_wasserstein_each(pairs, generator=torch.Generator().manual_seed(9))
    values.sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for seen, _ in parts:
        torch.testing.assert_close(seen, values.detach())
    for k, pair in enumerate(pairs):
        for side in (0, 1):
            # DistributedDataParallel averages over the processes, so each gives twice its share.
            together = torch.cat([gradients[k][side] for _, gradients in parts]) / 2
            torch.testing.assert_close(together, pair[side].grad)
