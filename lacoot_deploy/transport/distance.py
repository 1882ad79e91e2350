"""The max-sliced Wasserstein distance: how far a block's output distribution is from its input's.

MSW_p(mu, nu) is the maximum over unit directions theta of the one-dimensional Wasserstein distance W_p between the
projections of both samples; in one dimension W_p sorts both and compares order statistics (LaCoOT, ICCV 2025,
arXiv 2406.08933).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from lacoot_deploy.transport.options import SlicedOptions
from lacoot_deploy.transport.sliced import Matching, best_matching

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DEFAULTS = SlicedOptions()


def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    options: SlicedOptions = DEFAULTS,
    *,
    generator: torch.Generator | None = None,
    directions: Directions | Tensor | None = None,
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
        options: `estimator` "sampled" takes the maximum over `projections` random directions, as the paper does;
            "ascent" looks for the actual maximum by `steps` of projected gradient ascent on the direction from
            several starts, among them the mean difference and the best random directions, and is never below what
            "sampled" finds with the same directions. A `stride` looks only at every stride-th position along each
            axis from the third on (height and width of images): the values are those of the smaller maps, nothing is
            rescaled; they come out the same on average, and the time on the CPU hardly changes, since the gradient
            is as large as before.
        generator: Source of the random directions.
        directions: The directions to use instead of random ones: `Directions` or a tensor [features, K] with
            columns of unit length, features in the order of x's memory.
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
        options,
        generator=generator,
        directions=None if directions is None else [directions],
        group=group,
    )[0]


def max_sliced_wasserstein_each(
    pairs: Sequence[tuple[Tensor, Tensor]],
    options: SlicedOptions = DEFAULTS,
    *,
    generator: torch.Generator | None = None,
    directions: Sequence[Directions | Tensor] | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """`max_sliced_wasserstein` of several pairs, such as the blocks of a network: [P].

    The same values as one call per pair in that order, with one sort and one exchange between processes for all. On
    a GPU the directions of all pairs are drawn at once, so there they are others than those of one call per pair.

    Args:
        pairs: x and y of each pair; all with the same number of samples, of one precision and on one device.
        options: As for one pair, like all that follow.
        generator: See there.
        directions: One for each pair.
        group: See there.

    Raises:
        UsageError: As for one pair, or the pairs have different numbers of samples, precisions or devices.
    """
    _check_options(options, group)
    if not pairs:
        return torch.zeros(0)
    first = pairs[0][0]
    for x, y in pairs:
        check_pair(x, y)
        if x.shape[0] != first.shape[0]:
            raise UsageError(f"All pairs need as many samples, but got {x.shape[0]} and {first.shape[0]}.")
        if x.device != first.device or accumulation_dtype(x, y) != accumulation_dtype(*pairs[0]):
            raise UsageError("All pairs need one device, and float64 for all or for none.")
    call = _Call(options, generator, directions, group)
    ends = [thin_out(end, options.stride) for pair in pairs for end in pair]
    return _AlongDirections.apply(call, *ends)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class _Call:
    """What is not a tensor, as `max_sliced_wasserstein_each` takes it."""

    options: SlicedOptions
    generator: torch.Generator | None
    directions: Sequence[Directions | Tensor] | None
    group: ProcessGroup | None


def _search(rows: Sequence[tuple[Tensor, Tensor]], call: _Call) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The best direction of each of P pairs [N, D], and the matching of the pair's samples along it.

    Returns:
        The distances [P], their derivatives by the projections [2, P, N], and the directions, [D] each.
    """
    directed = _all_directions(rows, call)
    counts = {each.bank.shape[1] for each in directed}
    if len(counts) > 1:
        raise UsageError(f"All pairs need as many directions, but got {sorted(counts)}.")
    shape = (2, len(rows), *counts, rows[0][0].shape[0])
    projected = torch.empty(shape, dtype=directed[0].bank.dtype, device=rows[0][0].device)
    for k, (ends, along) in enumerate(zip(rows, directed, strict=True)):
        for side, end in enumerate(ends):
            along.project(end, out=projected[side, k])
    everyone, own, processes = projected, slice(None), 1
    if call.group is not None:
        from lacoot_deploy.transport.gather import gather_samples

        everyone, own = gather_samples(projected, call.group)
        processes = call.group.size()
    best, index = best_matching(everyone, call.options.p)
    values, pulls = best.value, best.pulls[..., own]
    if processes > 1:
        pulls = pulls * processes
    thetas = [along.select(one) for along, one in zip(directed, index.unbind(), strict=True)]
    if call.options.estimator == "ascent":
        found = [
            ascend(x, y, projected[:, k], p=call.options.p, steps=call.options.steps).at_least(
                Matching(values[k], pulls[:, k]), thetas[k]
            )
            for k, (x, y) in enumerate(rows)
        ]
        values = torch.stack([matching.value for matching, _ in found])
        pulls = torch.stack([matching.pulls for matching, _ in found], dim=1)
        thetas = [theta for _, theta in found]
    return values, pulls, thetas


def _all_directions(rows: Sequence[tuple[Tensor, Tensor]], call: _Call) -> list[Directions]:
    """The directions of each pair: those given, or random ones, the same in all processes."""
    x, y = rows[0]
    dtype, count = accumulation_dtype(x, y), call.options.projections
    features = [x.shape[1] for x, _ in rows]
    given: Sequence[Directions | Tensor | None] = call.directions or [None] * len(rows)
    if len(given) != len(rows):
        raise UsageError(f"Each pair needs its directions, but there are {len(given)} for {len(rows)} pairs.")
    at_once = not call.directions and call.group is None and sliced.launches_count(x.device)
    if at_once and count >= 1 and sum(features) * count <= MOST_DRAWN_AT_ONCE:
        return random_directions_at_once(
            features, count, generator=call.generator, device=x.device, dtype=dtype
        )
    found = [
        _directions(one, x, dtype, count, call.generator) for one, (x, _) in zip(given, rows, strict=True)
    ]
    if call.group is not None:
        from lacoot_deploy.transport.gather import share_directions

        found = [share_directions(one, call.group) for one in found]
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


def _check_options(options: SlicedOptions, group: ProcessGroup | None) -> None:
    if not (options.p >= 1 and math.isfinite(options.p)):
        raise UsageError(
            f"The order p of the distance must be a finite number of at least 1, not {options.p}."
        )
    if options.estimator not in ("sampled", "ascent"):
        raise UsageError(f"The estimator must be 'sampled' or 'ascent', not {options.estimator!r}.")
    if options.stride < 1:
        raise UsageError(f"The stride must be at least 1, not {options.stride}.")
    if options.estimator == "ascent" and group is not None:
        raise UsageError("The 'ascent' estimator works within one process; over several use 'sampled'.")


class _AlongDirections(torch.autograd.Function):
    """The distances of several pairs along their best directions, whose gradients are outer products.

    Sample i of x moves the distance by pulls[0, i] * theta: what autograd keeps is one vector of the size of a sample.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *ends: Tensor) -> Tensor:
        orders = [order for x in ends[::2] for order in [memory_order(x)] * 2]
        rows = [rows_in(end, order) for end, order in zip(ends, orders, strict=True)]
        with torch.autocast(ends[0].device.type, enabled=False):
            values, pulls, thetas = _search(list(zip(rows[::2], rows[1::2], strict=True)), call)
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
