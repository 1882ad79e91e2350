"""The max-sliced Wasserstein distance: how far a block's output distribution is from its input's.

MSW_p(mu, nu) is the maximum over unit directions theta of the one-dimensional Wasserstein distance W_p between the
projections of both samples; in one dimension W_p sorts both and compares order statistics (LaCoOT, ICCV 2025,
arXiv 2406.08933).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import buffers, sliced
from lacoot_deploy.transport.ascent import ascend
from lacoot_deploy.transport.directions import (
    MOST_DRAWN_AT_ONCE,
    Directions,
    random_directions,
    random_directions_at_once,
)
from lacoot_deploy.transport.layout import (
    accumulation_dtype,
    check_pair,
    from_rows,
    memory_order,
    rows_in,
    thin_out,
)
from lacoot_deploy.transport.sliced import Matching, best_matching

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

Estimator = Literal["sampled", "ascent"]


class Estimation(TypedDict, total=False):
    """How a distance is estimated, as keywords.

    Attributes:
        p: Order of the distance, at least 1; 2 by default.
        estimator: `sampled`, the default, takes the maximum over random directions, as the paper does. `ascent` looks
            for the actual maximum: projected gradient ascent on the direction from several starts, among them the
            mean difference and the best random directions. It is never below what `sampled` finds with the
            same directions.
        projections: Number of random directions; 50 by default.
        generator: Source of the random directions.
        steps: Ascent steps, 30 by default; only for `ascent`.
        stride: Look only at every stride-th position along each axis from the third on (height and width of
            images). The values are those of the smaller maps; nothing is rescaled. They come out the same on
            average, and the time on the CPU hardly changes, since the gradient is as large as before.
        group: Measure the samples of all processes of the group as one. Every process gets the same value, and the
            gradients of its own samples times the number of processes, so that the average that
            DistributedDataParallel takes is the gradient of the value. Directions come from the first process.
    """

    p: float
    estimator: Estimator
    projections: int
    generator: torch.Generator | None
    steps: int
    stride: int
    group: ProcessGroup | None


def max_sliced_wasserstein(
    x: Tensor, y: Tensor, *, directions: Directions | Tensor | None = None, **how: Unpack[Estimation]
) -> Tensor:
    """The max-sliced p-Wasserstein distance between two samples, a scalar in the units of the activations.

    Differentiable once in both arguments. Only the direction that wins carries gradient: it is found without
    autograd, and autograd keeps one vector of the size of a sample for it. The gradient is zero where the
    distance is. The features are read in the order of x's memory, so channels_last tensors are not copied; the
    same generator draws other directions for another memory format.

    Args:
        x: [N, ...], floating point; flattened per sample.
        y: Same shape as x.
        directions: The directions to use instead of random ones: `Directions` or a tensor [features, K] with
            columns of unit length, features in the order of x's memory.
        how: How it is estimated; see `Estimation`.

    Returns:
        A scalar of type float32 (float64 if an argument is float64).

    Raises:
        UsageError: Shapes differ, or an option is out of range.
    """
    given = None if directions is None else [directions]
    return max_sliced_wasserstein_each([(x, y)], directions=given, **how)[0]


def max_sliced_wasserstein_each(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    directions: Sequence[Directions | Tensor] | None = None,
    **how: Unpack[Estimation],
) -> Tensor:
    """`max_sliced_wasserstein` of several pairs, such as the blocks of a network: [P].

    The same values as one call per pair in that order, with one sort and one exchange between processes for all. On
    a GPU the directions of all pairs are drawn at once, so there they are others than those of one call per pair.

    Args:
        pairs: x and y of each pair; all with the same number of samples, of one precision and on one device.
        directions: One for each pair.
        how: How they are estimated; see `Estimation`.

    Raises:
        UsageError: As for one pair, or the pairs have different numbers of samples, precisions or devices.
    """
    options = _Options(directions=directions, **how)
    if not pairs:
        return torch.zeros(0)
    first = pairs[0][0]
    for x, y in pairs:
        check_pair(x, y)
        if x.shape[0] != first.shape[0]:
            raise UsageError(f"All pairs need as many samples, but got {x.shape[0]} and {first.shape[0]}.")
        if x.device != first.device or accumulation_dtype(x, y) != accumulation_dtype(*pairs[0]):
            raise UsageError("All pairs need one device, and float64 for all or for none.")
    ends = [thin_out(end, options.stride) for pair in pairs for end in pair]
    return _AlongDirections.apply(options, *ends)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class _Options:
    """What is not a tensor: an `Estimation` with its defaults, checked, and the directions."""

    p: float = 2.0
    estimator: Estimator = "sampled"
    projections: int = 50
    generator: torch.Generator | None = None
    directions: Sequence[Directions | Tensor] | None = None
    steps: int = 30
    stride: int = 1
    group: ProcessGroup | None = None

    def __post_init__(self) -> None:
        if not (self.p >= 1 and math.isfinite(self.p)):
            raise UsageError(
                f"The order p of the distance must be a finite number of at least 1, not {self.p}."
            )
        if self.estimator not in ("sampled", "ascent"):
            raise UsageError(f"The estimator must be 'sampled' or 'ascent', not {self.estimator!r}.")
        if self.stride < 1:
            raise UsageError(f"The stride must be at least 1, not {self.stride}.")
        if self.estimator == "ascent" and self.group is not None:
            raise UsageError("The 'ascent' estimator works within one process; over several use 'sampled'.")


def _search(rows: Sequence[tuple[Tensor, Tensor]], options: _Options) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The best direction of each of P pairs [N, D], and the matching of the pair's samples along it.

    Returns:
        The distances [P], their derivatives by the projections [2, P, N], and the directions, [D] each.
    """
    directed = _all_directions(rows, options)
    counts = {each.bank.shape[1] for each in directed}
    if len(counts) > 1:
        raise UsageError(f"All pairs need as many directions, but got {sorted(counts)}.")
    shape = (2, len(rows), *counts, rows[0][0].shape[0])
    projected = torch.empty(shape, dtype=directed[0].bank.dtype, device=rows[0][0].device)
    for k, (ends, along) in enumerate(zip(rows, directed, strict=True)):
        for side, end in enumerate(ends):
            along.project(end, out=projected[side, k])
    everyone, own, processes = projected, slice(None), 1
    if options.group is not None:
        from lacoot_deploy.transport.gather import gather_samples

        everyone, own = gather_samples(projected, options.group)
        processes = options.group.size()
    best, index = best_matching(everyone, options.p)
    values, pulls = best.value, best.pulls[..., own]
    if processes > 1:
        pulls = pulls * processes
    thetas = [along.select(one) for along, one in zip(directed, index.unbind(), strict=True)]
    if options.estimator == "ascent":
        found = [
            ascend(x, y, projected[:, k], p=options.p, steps=options.steps).at_least(
                Matching(values[k], pulls[:, k]), thetas[k]
            )
            for k, (x, y) in enumerate(rows)
        ]
        values = torch.stack([matching.value for matching, _ in found])
        pulls = torch.stack([matching.pulls for matching, _ in found], dim=1)
        thetas = [theta for _, theta in found]
    return values, pulls, thetas


def _all_directions(rows: Sequence[tuple[Tensor, Tensor]], options: _Options) -> list[Directions]:
    """The directions of each pair: those given, or random ones, the same in all processes."""
    x, y = rows[0]
    dtype, count = accumulation_dtype(x, y), options.projections
    features = [x.shape[1] for x, _ in rows]
    given: Sequence[Directions | Tensor | None] = options.directions or [None] * len(rows)
    if len(given) != len(rows):
        raise UsageError(f"Each pair needs its directions, but there are {len(given)} for {len(rows)} pairs.")
    at_once = not options.directions and options.group is None and sliced.launches_count(x.device)
    if at_once and count >= 1 and sum(features) * count <= MOST_DRAWN_AT_ONCE:
        return random_directions_at_once(
            features, count, generator=options.generator, device=x.device, dtype=dtype
        )
    found = [
        _directions(one, x, dtype, count, options.generator) for one, (x, _) in zip(given, rows, strict=True)
    ]
    if options.group is not None:
        from lacoot_deploy.transport.gather import share_directions

        found = [share_directions(one, options.group) for one in found]
    return found


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


class _AlongDirections(torch.autograd.Function):
    """The distances of several pairs along their best directions, whose gradients are outer products.

    Sample i of x moves the distance by pulls[0, i] * theta: what autograd keeps is one vector of the size of a sample.
    """

    @staticmethod
    def forward(ctx: Any, options: _Options, *ends: Tensor) -> Tensor:
        orders = [order for x in ends[::2] for order in [memory_order(x)] * 2]
        rows = [rows_in(end, order) for end, order in zip(ends, orders, strict=True)]
        with torch.autocast(ends[0].device.type, enabled=False):
            values, pulls, thetas = _search(list(zip(rows[::2], rows[1::2], strict=True)), options)
        ctx.save_for_backward(pulls, *thetas)
        ctx.ends = [(end.shape, end.dtype, order) for end, order in zip(ends, orders, strict=True)]
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pulls, *thetas = ctx.saved_tensors
        scaled = pulls * grad[:, None]
        gradients: list[Tensor | None] = [None]
        for number, (shape, dtype, order) in enumerate(ctx.ends):
            pair, side = divmod(number, 2)
            if ctx.needs_input_grad[1 + number]:
                rows = _outer(scaled[side, pair], thetas[pair], dtype)
                gradients.append(from_rows(rows, shape, order))
            else:
                gradients.append(None)
        return tuple(gradients)


def _outer(pull: Tensor, theta: Tensor, dtype: torch.dtype) -> Tensor:
    """The outer product [N, D], computed in the type of theta and rounded once."""
    out = buffers.empty((pull.shape[0], theta.shape[0]), dtype, theta.device)
    return torch.mul(pull[:, None], theta, out=out)
