"""Samples in the form that ONNX Runtime's quantiser reads them in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnxruntime.quantization import CalibrationDataReader

from lacoot_deploy.runtime.evaluate import fixed_batch, padded_batches

if TYPE_CHECKING:
    from lacoot_deploy.data.types import InputInfo, Samples

BATCH = 16


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives samples batch by batch, from the start again after `rewind`."""

    def __init__(self, samples: Samples, inputs: tuple[InputInfo, ...]) -> None:
        self.samples, self.fixed = samples, fixed_batch(inputs)
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)

    def rewind(self) -> None:
        """Begin again."""
        self._batches: Iterator[dict[str, Any]] = (
            feeds for _, _, feeds in padded_batches(self.samples, BATCH, self.fixed)
        )
