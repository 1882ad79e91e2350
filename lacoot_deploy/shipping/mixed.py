"""Mixed precision: the layers that int8 costs most stay float32, as few as a limit needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lacoot_deploy.shipping.conversion import CannotConvertError

if TYPE_CHECKING:
    from lacoot_deploy.shipping.trials import Trials


class Quantiser(Protocol):
    """Makes a model int8, all but some layers, or one layer alone."""

    def without(self, kept: Collection[str]) -> Path:
        """A file with everything in int8 but these layers."""

    def alone(self, layer: str) -> float:
        """How far answers move where this layer alone is int8."""


@dataclass(frozen=True)
class Mixed:
    """What the search for layers found.

    Attributes:
        path: The file.
        kept: The layers that stay float32, the costliest first.
        drop: The score's drop on the choosing samples.
        drop_before: The drop with every layer in int8.
    """

    path: Path
    kept: tuple[str, ...]
    drop: float
    drop_before: float


def hold_drop(trials: Trials, layers: Sequence[str], quantiser: Quantiser, max_drop: float) -> Mixed:
    """The file that keeps fewest layers in float32 and holds the limit on the choosing samples.

    Layers are ranked once, each by what it costs as the only one in int8; then the number of those that stay float32
    is doubled until the limit holds, and halved back to the fewest.

    Args:
        trials: Runs files on the choosing samples.
        layers: Names of the layers that can stay.
        quantiser: Makes the files.
        max_drop: Most that the score may drop against the dense float32 file.

    Raises:
        CannotConvertError: The limit does not hold even with every layer in float32.
    """

    def drop_with(count: int) -> float:
        path = quantiser.without(ranked[:count])
        return trials.drop(trials.outputs(path))

    ranked: list[str] = []
    before = drop_with(0)
    if before <= max_drop:
        return Mixed(quantiser.without(()), (), before, before)
    cost = {layer: quantiser.alone(layer) for layer in layers}
    ranked = sorted(layers, key=lambda layer: -cost[layer])
    failed, count, drop = 0, 1, drop_with(1)
    while drop > max_drop and count < len(ranked):
        failed, count = count, min(2 * count, len(ranked))
        drop = drop_with(count)
    if drop > max_drop:
        raise CannotConvertError(
            f"the score drops by {drop:.2f} on the choosing samples even with all {len(ranked)} layers in float32, "
            f"above the limit of {max_drop:g}"
        )
    while count - failed > 1:
        middle = (count + failed) // 2
        found = drop_with(middle)
        if found <= max_drop:
            count, drop = middle, found
        else:
            failed = middle
    return Mixed(quantiser.without(ranked[:count]), tuple(ranked[:count]), drop, before)
