"""The floor: the distance that two independent samples of one distribution show at this sample size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport.distance import DEFAULTS, max_sliced_wasserstein
from lacoot_deploy.transport.options import SlicedOptions


def floor(
    x: Tensor,
    options: SlicedOptions = DEFAULTS,
    *,
    draws: int = 9,
    generator: torch.Generator | None = None,
) -> float:
    """The max-sliced distance that two independent samples of x's distribution, each of x's size, show.

    A distance at or below it is zero for all that so many samples can tell. Estimated by random halves: one half of
    the samples is compared with the other by the estimator in question, the result is scaled by
    sqrt(size of a half / size of x), the rate at which the sampling error of means and quantiles falls, and the
    median over several draws is taken.

    Halves and not the bootstrap: two resamples share samples, and `ascent` finds directions that tell them apart by how
    often each was drawn. Against fresh samples of Gaussians (128 in 2000 features) the halves read 0.98 of the truth
    for `sampled` and 1.00 for `ascent`, the bootstrap 1.02 and 1.37.

    Args:
        x: [N, ...], samples such as a block's input; at least two.
        options: As for the distance that it is compared with.
        draws: Number of draws.
        generator: Source of the randomness.

    Returns:
        The floor in the units of x.

    Raises:
        UsageError: Fewer than two samples, or draws not positive.
    """
    n = x.shape[0] if x.dim() else 0
    if n < 2 or draws < 1:
        raise UsageError(
            f"The floor needs two samples and one draw at least, but got {n} samples and {draws} draws."
        )
    half = n // 2
    values = []
    with torch.no_grad():
        for _ in range(draws):
            device = generator.device if generator is not None else x.device
            order = torch.randperm(n, generator=generator, device=device).to(x.device)
            a, b = x.detach()[order[:half]], x.detach()[order[half : 2 * half]]
            values.append(max_sliced_wasserstein(a, b, options, generator=generator))
    median = float(torch.stack(values).median())
    return median * math.sqrt(half / n)
