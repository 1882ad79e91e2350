"""Random unit directions of a feature space, drawn so that projecting onto them reads the samples once.

A direction uniform on the sphere is a normalised Gaussian vector. A dense bank of K of them for D features costs
D * K random numbers and a product with D * K entries, which is most of the time of a sliced distance. For
many features the directions here are structured instead::

    theta_k[i] = sign[i] * bank[i mod width, k]

with independent random signs and a Gaussian bank of about a thousand rows: the samples are multiplied by the
signs, folded to `width` features (a count sketch), and the folded samples meet the small dense bank.

Each entry of theta_k is still Gaussian before normalisation, the entries are uncorrelated, and given the signs
the projections of any set of vectors are exactly Gaussian, with the Gram matrix of the folded vectors in place of
their own. Folding preserves inner products in expectation, with relative standard deviation of about
sqrt(2 / width) (4.4 % of a squared norm, 2.2 % of a distance at the default width, where the draw of 50 directions
itself scatters the maximum by 10 % or more). So the values have the distribution of those along uniform directions up
to that; `samples/benchmarks/distance_speed.py` shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import buffers

FOLD_WIDTH = 1024
SLICES = 4
MOST_DRAWN_AT_ONCE = 1 << 26
"""Entries of the directions that are drawn together."""


@dataclass(frozen=True)
class Directions:
    """K unit directions of a space of D features.

    Attributes:
        bank: [width, K]; the directions themselves where `signs` is None and width is D.
        signs: [ceil(D / width), width] of plus and minus one, of which the first D count, or None for dense
            directions.
        folded_features: D where there are signs.
    """

    bank: Tensor
    signs: Tensor | None = None
    folded_features: int = 0

    @property
    def features(self) -> int:
        """D, the number of features of the space."""
        return self.bank.shape[0] if self.signs is None else self.folded_features

    def project(self, rows: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Project samples [N, D] onto the directions: [K, N], in the type of the bank.

        Args:
            rows: Any floating-point type.
            out: Where to write the projections; then autocast has to be off.
        """
        if out is not None:
            return self._project(rows, out)
        with torch.autocast(rows.device.type, enabled=False):
            return self._project(rows, None)

    def _project(self, rows: Tensor, out: Tensor | None) -> Tensor:
        if self.signs is not None:
            rows = _fold(rows, self.signs)
        return torch.mm(self.bank.t(), rows.to(self.bank.dtype).t(), out=out)

    def select(self, index: Tensor) -> Tensor:
        """The direction with that index (an integer tensor without axes) as a dense vector [D]."""
        column = self.bank.index_select(1, index.reshape(1)).squeeze(1)
        return column if self.signs is None else (self.signs * column).view(-1)[: self.folded_features]


def random_directions(
    features: int,
    projections: int = 50,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    width: int = FOLD_WIDTH,
) -> Directions:
    """Draw random unit directions.

    Args:
        features: D, the number of features per sample.
        projections: K, the number of directions.
        generator: Source of the randomness; may live on another device than the directions.
        device: Where the directions go; default: the generator's device, else the CPU.
        dtype: float32 or float64.
        width: Features to fold to. Spaces of less than twice as many get dense directions.

    Raises:
        UsageError: A number is not positive.
    """
    if min(features, projections, width) < 1:
        raise UsageError(
            f"Directions need positive numbers, but got {features} features, {projections} projections, "
            f"width {width}."
        )
    source = generator.device if generator is not None else torch.device(device or "cpu")
    target = torch.device(device) if device is not None else source
    if features < 2 * width:
        bank = torch.randn((features, projections), generator=generator, device=source, dtype=dtype).to(
            target
        )
        return Directions(bank / torch.linalg.vector_norm(bank, dim=0).clamp_min(torch.finfo(dtype).tiny))
    bank = torch.randn((width, projections), generator=generator, device=source, dtype=dtype).to(target)
    rounds, rest = divmod(features, width)
    shape = (rounds + (rest > 0), width)
    signs = torch.randint(0, 2, shape, generator=generator, device=source, dtype=dtype).to(target)
    signs.mul_(2).sub_(1)
    # Every row of the bank serves `rounds` features, the first `rest` ones one more.
    squares = bank.square()
    norms = squares.sum(0) * rounds + squares[:rest].sum(0)
    return Directions(bank / norms.sqrt(), signs, features)


def random_directions_at_once(
    features: Sequence[int],
    projections: int,
    *,
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Directions]:
    """Random unit directions of several spaces, dense and drawn in one go.

    For a GPU, where drawing is cheap and every operation costs the host a launch: `random_directions` needs a dozen
    for each space, this needs three. It draws other directions than that from the same generator.

    Args:
        features: D of each space.
        projections: K, the number of directions of each.
        generator: Source of the randomness.
        device: Where the directions go.
        dtype: float32 or float64.
    """
    source = generator.device if generator is not None else device
    bank = torch.randn((projections, sum(features)), generator=generator, device=source, dtype=dtype).to(
        device
    )
    parts = torch.split(bank, list(features), dim=1)
    for part in parts:
        part.div_(torch.linalg.vector_norm(part, dim=1, keepdim=True))
    return [Directions(part.t()) for part in parts]


def _fold(rows: Tensor, signs: Tensor) -> Tensor:
    """Sum signed features that lie `width` apart: [N, D] to [N, width], reading the samples once."""
    features, (rounds, width) = rows.shape[1], signs.shape
    signs = signs.view(-1)
    # Whole slices in place: no signed copy of the samples is made, and the accumulator stays near the processor.
    # Few slices: each costs a start of all threads (or a launch), which on a busy machine is what takes the time.
    wide = min(-(-rounds // SLICES), features // width) * width
    folded = buffers.empty((rows.shape[0], wide), signs.dtype, rows.device)
    torch.mul(rows[:, :wide], signs[:wide], out=folded)
    for start in range(wide, features, wide):
        stop = min(start + wide, features)
        folded[:, : stop - start].addcmul_(rows[:, start:stop], signs[start:stop])
    return folded if wide == width else folded.view(-1, wide // width, width).sum(1)
