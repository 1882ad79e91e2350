"""The max-sliced Wasserstein distance: how far a block's output distribution is from its input's.

MSW_p(mu, nu) is the maximum over unit directions theta of the one-dimensional Wasserstein distance W_p between the
projections of both samples; in one dimension W_p sorts both and compares order statistics (LaCoOT, ICCV 2025,
arXiv 2406.08933).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import buffers
from lacoot_deploy.transport.ascent import ascend
from lacoot_deploy.transport.directions import Directions, random_directions
from lacoot_deploy.transport.layout import accumulation_dtype, as_rows, check_pair, thin_out
from lacoot_deploy.transport.sliced import Matching, best_matching

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Estimator = Literal["sampled", "ascent"]


def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2.0,
    estimator: Estimator = "sampled",
    projections: int = 50,
    generator: torch.Generator | None = None,
    directions: Directions | Tensor | None = None,
    steps: int = 30,
    stride: int = 1,
    group: ProcessGroup | None = None,
) -> Tensor:
    """The max-sliced p-Wasserstein distance between two samples, a scalar in the units of the activations.

    Differentiable once in both arguments. Only the direction that wins carries gradient: it is found without
    autograd, and autograd keeps one vector of the size of a sample for it. The gradient is zero where the
    distance is. The features are read in the order of x's memory, so channels_last tensors are not copied; the
    same generator draws other directions for another memory format.

    Args:
        x: [N, ...], floating point; flattened per sample.
        y: Same shape as x.
        p: Order of the distance, at least 1.
        estimator: `sampled` takes the maximum over random directions, as the paper does. `ascent` looks for the
            actual maximum: projected gradient ascent on the direction from several starts, among them the
            mean difference and the best random directions. It is never below what `sampled` finds with the
            same directions.
        projections: Number of random directions.
        generator: Source of the random directions.
        directions: The directions to use instead of random ones: `Directions` or a tensor [features, K] with
            columns of unit length, features in the order of x's memory.
        steps: Ascent steps; only for `ascent`.
        stride: Look only at every stride-th position along each axis from the third on (height and width of
            images). The values are those of the smaller maps; nothing is rescaled. They come out the same on
            average, and the time on the CPU hardly changes, since the gradient is as large as before.
        group: Measure the samples of all processes of the group as one. Every process gets the same value, and the
            gradients of its own samples times the number of processes, so that the average that
            DistributedDataParallel takes is the gradient of the value. Directions come from the first process.

    Returns:
        A scalar of type float32 (float64 if an argument is float64).

    Raises:
        UsageError: Shapes differ, or an option is out of range.
    """
    return max_sliced_wasserstein_each(
        [(x, y)],
        p=p,
        estimator=estimator,
        projections=projections,
        generator=generator,
        directions=None if directions is None else [directions],
        steps=steps,
        stride=stride,
        group=group,
    )[0]


def max_sliced_wasserstein_each(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    p: float = 2.0,
    estimator: Estimator = "sampled",
    projections: int = 50,
    generator: torch.Generator | None = None,
    directions: Sequence[Directions | Tensor] | None = None,
    steps: int = 30,
    stride: int = 1,
    group: ProcessGroup | None = None,
) -> list[Tensor]:
    """`max_sliced_wasserstein` of several pairs, such as the blocks of a network.

    The same values as one call per pair in that order, with one sort and one exchange between processes for all.

    Args:
        pairs: x and y of each pair; all with the same number of samples.
        p: As for one pair, like all that follow.
        estimator: See there.
        projections: See there.
        generator: See there.
        directions: One for each pair.
        steps: See there.
        stride: See there.
        group: See there.

    Raises:
        UsageError: As for one pair, or the pairs have different numbers of samples.
    """
    _check_options(p, estimator, stride, group)
    if not pairs:
        return []
    for x, y in pairs:
        check_pair(x, y)
        if x.shape[0] != pairs[0][0].shape[0]:
            raise UsageError(
                f"All pairs need as many samples, but got {x.shape[0]} and {pairs[0][0].shape[0]}."
            )
    rows = [as_rows(thin_out(x, stride), thin_out(y, stride)) for x, y in pairs]
    with torch.no_grad():
        found = _search(
            [(x.detach(), y.detach()) for x, y in rows],
            p=p,
            estimator=estimator,
            projections=projections,
            generator=generator,
            directions=directions or [None] * len(rows),
            steps=steps,
            group=group,
        )
    return [
        _AlongDirection.apply(x, y, matching, theta)  # type: ignore[no-untyped-call]
        for (x, y), (matching, theta) in zip(rows, found, strict=True)
    ]


def _search(
    rows: Sequence[tuple[Tensor, Tensor]],
    *,
    p: float,
    estimator: Estimator,
    projections: int,
    generator: torch.Generator | None,
    directions: Sequence[Directions | Tensor | None],
    steps: int,
    group: ProcessGroup | None,
) -> list[tuple[Matching, Tensor]]:
    """The best direction of each pair [N, D], and the matching of the pair's samples along it."""
    chosen, projected = [], []
    for (x, y), given in zip(rows, directions, strict=True):
        directed = _directions(given, x, accumulation_dtype(x, y), projections, generator)
        if group is not None:
            from lacoot_deploy.transport.gather import share_directions

            directed = share_directions(directed, group)
        chosen.append(directed)
        projected.append(torch.stack((directed.project(x), directed.project(y))))
    found = []
    for matching, index, directed in zip(*_match_all(projected, p, group), chosen, strict=True):
        found.append((matching, directed.select(index)))
    if estimator == "ascent":
        for k, ((x, y), projections_xy) in enumerate(zip(rows, projected, strict=True)):
            found[k] = ascend(x, y, *projections_xy, p=p, steps=steps).at_least(*found[k])
    return found


def _match_all(
    projected: Sequence[Tensor], p: float, group: ProcessGroup | None
) -> tuple[list[Matching], list[Tensor]]:
    """The best matching of each pair's projections [2, K, N], and its direction; over all processes at once."""
    if len({(part.shape, part.dtype, part.device) for part in projected}) > 1:
        singles = [_match_all([part], p, group) for part in projected]
        return [matchings[0] for matchings, _ in singles], [indices[0] for _, indices in singles]
    together = torch.stack(list(projected), dim=1)
    own, processes = slice(None), 1
    if group is not None:
        from lacoot_deploy.transport.gather import gather_samples

        together, own = gather_samples(together, group)
        processes = group.size()
    best, indices = best_matching(together[0], together[1], p)
    matchings = [
        Matching(best.value[k], best.pull_x[k, own] * processes, best.pull_y[k, own] * processes)
        for k in range(len(projected))
    ]
    return matchings, list(indices)


def _directions(
    given: Directions | Tensor | None,
    x: Tensor,
    dtype: torch.dtype,
    projections: int,
    generator: torch.Generator | None,
) -> Directions:
    if given is None:
        return random_directions(x.shape[1], projections, generator=generator, device=x.device, dtype=dtype)
    if isinstance(given, Tensor):
        given = Directions(given.to(device=x.device, dtype=dtype))
    if given.features != x.shape[1]:
        raise UsageError(f"The directions have {given.features} features, the samples {x.shape[1]}.")
    return given


def _check_options(p: float, estimator: str, stride: int, group: ProcessGroup | None) -> None:
    if not (p >= 1 and math.isfinite(p)):
        raise UsageError(f"The order p of the distance must be a finite number of at least 1, not {p}.")
    if estimator not in ("sampled", "ascent"):
        raise UsageError(f"The estimator must be 'sampled' or 'ascent', not {estimator!r}.")
    if stride < 1:
        raise UsageError(f"The stride must be at least 1, not {stride}.")
    if estimator == "ascent" and group is not None:
        raise UsageError("The 'ascent' estimator works within one process; over several use 'sampled'.")


class _AlongDirection(torch.autograd.Function):
    """The distance along a direction that was found already; its gradient is an outer product.

    Sample i of x moves the distance by pull_x[i] * theta: what autograd keeps is one vector of the size of a sample.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, matching: Matching, theta: Tensor) -> Tensor:
        ctx.save_for_backward(matching.pull_x, matching.pull_y, theta)
        ctx.dtypes = x.dtype, y.dtype
        return matching.value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pull_x, pull_y, theta = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        grad_x = _outer(pull_x * grad, theta, ctx.dtypes[0]) if need_x else None
        grad_y = _outer(pull_y * grad, theta, ctx.dtypes[1]) if need_y else None
        return grad_x, grad_y, None, None


def _outer(pull: Tensor, theta: Tensor, dtype: torch.dtype) -> Tensor:
    """The outer product [N, D], computed in the type of theta and rounded once."""
    out = buffers.empty((pull.shape[0], theta.shape[0]), dtype, theta.device)
    return torch.mul(pull[:, None], theta, out=out)
