"""The direction that actually maximises the sliced Wasserstein distance, by projected gradient ascent.

W_p depends on theta only through the projections of the 2N samples, so the best direction lies in the span of
their differences. With more features than samples the search therefore runs on coefficients a, theta = Z^T a, and
needs of the samples only the Gram matrix Z Z^T: two passes over the samples for any number of steps and starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lacoot_deploy.transport.sliced import Matching, best_matching, derivative, power_mean

STARTS = 6
CHUNK = 4096


@dataclass(frozen=True)
class Ascended:
    """The best direction that the ascent found: a unit vector theta [D] and the matching along it."""

    matching: Matching
    theta: Tensor

    def at_least(self, matching: Matching, theta: Tensor) -> tuple[Matching, Tensor]:
        """This or the given matching and direction, whichever has the larger value."""
        better = self.matching.value >= matching.value
        return (
            Matching(
                torch.where(better, self.matching.value, matching.value),
                torch.where(better, self.matching.pulls, matching.pulls),
            ),
            torch.where(better, self.theta, theta),
        )


class _Space:
    """Directions of the span of the samples, by coefficients of the samples or by the features themselves."""

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
        self.x, self.y, self.dtype = x, y, dtype
        self.center = (x.mean(0, dtype=dtype) + y.mean(0, dtype=dtype)) / 2
        self.dual = 2 * x.shape[0] < x.shape[1]
        self.matrix = self._gram() if self.dual else torch.cat((x.to(dtype), y.to(dtype))) - self.center

    def _gram(self) -> Tensor:
        # Centred chunk by chunk: a large common mean would eat the digits of the differences, and a whole
        # centred copy the memory.
        count = 2 * self.x.shape[0]
        gram = torch.zeros((count, count), dtype=self.dtype, device=self.x.device)
        for start in range(0, self.x.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            z = (
                torch.cat((self.x[:, part].to(self.dtype), self.y[:, part].to(self.dtype)))
                - self.center[part]
            )
            gram.addmm_(z, z.t())
        return gram

    def from_pulls(self, pulls: Tensor) -> Tensor:
        """The directions sum_i pulls[i] z_i [R, S] for pulls [2N, S]."""
        return pulls if self.dual else torch.matmul(self.matrix.t(), pulls)

    def normalised(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Directions of unit length and the projections [2N, S] onto them; a zero direction stays zero."""
        projected = self.matrix @ directions
        squares = (directions * projected if self.dual else directions.square()).sum(0)
        inverse = torch.where(squares > 0, squares.clamp_min(torch.finfo(self.dtype).tiny).rsqrt(), 0)
        return directions * inverse, projected * inverse

    def theta(self, direction: Tensor) -> Tensor:
        """The unit vector [D] of one direction [R, 1]."""
        if self.dual:
            n = self.x.shape[0]
            vector = _combine(direction[:n, 0], self.x, self.dtype) + _combine(
                direction[n:, 0], self.y, self.dtype
            )
            vector = vector - direction.sum() * self.center
        else:
            vector = direction[:, 0]
        length: Tensor = torch.linalg.vector_norm(vector)
        return vector / length.clamp_min(torch.finfo(self.dtype).tiny)


def ascend(x: Tensor, y: Tensor, projected: Tensor, *, p: float, steps: int) -> Ascended:
    """Ascend from the mean difference and from the best of the given random directions.

    Each start keeps its own step length, which grows after a step that gained and shrinks after one that did
    not, so no start ever loses value.

    Args:
        x: Samples [N, D].
        y: Samples [N, D].
        projected: [2, K, N], the projections of x and of y onto K random directions.
        p: Order of the distance.
        steps: Number of ascent steps.
    """
    with torch.autocast(x.device.type, enabled=False):
        space = _Space(x, y, projected.dtype)
        directions, along = space.normalised(space.from_pulls(_starts(projected, p)))
        value, pulls = _values(along, p)
        length = torch.ones_like(value)
        for _ in range(steps):
            gradient, _ = space.normalised(space.from_pulls(pulls))
            candidate, candidate_projected = space.normalised(directions + length * gradient)
            candidate_value, candidate_pulls = _values(candidate_projected, p)
            gained = candidate_value > value
            directions = torch.where(gained, candidate, directions)
            pulls = torch.where(gained, candidate_pulls, pulls)
            value = torch.where(gained, candidate_value, value)
            length = torch.where(gained, length * 2, length / 3)
        theta = space.theta(directions.index_select(1, value.argmax().reshape(1)))
        matching, _ = best_matching(torch.stack((_project(x, theta), _project(y, theta)))[:, None], p)
        return Ascended(matching, theta)


def _starts(projected: Tensor, p: float) -> Tensor:
    """Pulls [2N, S]: the mean difference, and one long gradient step from each of the best random directions."""
    n = projected.shape[-1]
    mean = projected.new_ones(2 * n, 1)
    mean[n:] = -1
    values, pulls = _values(projected.transpose(1, 2).flatten(0, 1), p)
    best = values.topk(min(STARTS, values.shape[0])).indices
    return torch.cat((mean, pulls[:, best]), dim=1)


def _values(projected: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """W_p [S] along each direction and its derivative [2N, S] by the projections [2N, S]."""
    n = projected.shape[0] // 2
    ordered, order = projected.t().reshape(-1, 2, n).sort(dim=-1)
    difference = ordered[:, 0] - ordered[:, 1]
    value = power_mean(difference, p)
    pull = derivative(difference, value, p)
    pulls = torch.empty_like(ordered).scatter_(2, order, torch.stack((pull, -pull), dim=1))
    return value, pulls.flatten(1).t()


def _project(rows: Tensor, theta: Tensor) -> Tensor:
    if rows.dtype == theta.dtype:
        return rows @ theta
    parts = [
        rows[:, i : i + CHUNK].to(theta.dtype) @ theta[i : i + CHUNK] for i in range(0, rows.shape[1], CHUNK)
    ]
    return torch.stack(parts).sum(0)


def _combine(weights: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    if rows.dtype == dtype:
        return weights @ rows
    return torch.cat([weights @ rows[:, i : i + CHUNK].to(dtype) for i in range(0, rows.shape[1], CHUNK)])
