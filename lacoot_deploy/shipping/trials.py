"""Runs files on the samples that choose, and says how far their answers are from others'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.runtime.evaluate import DEFAULT_BATCH, predict
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.tasks.judge import Judge, relative_rms

if TYPE_CHECKING:
    from lacoot_deploy.data.types import Samples

Outputs = Mapping[str, NDArray[Any]]

CPU = Runtime("cpu")
"""Where trials run: every provider's arithmetic is simulated there, and the CPU has kernels for all operators."""


class Trials:
    """Runs files on the choosing samples.

    Attributes:
        samples: The samples.
        runtime: Where files run.
        judge: Judges answers against the dense float32 network's.
    """

    def __init__(self, samples: Samples, judge: Judge, runtime: Runtime = CPU) -> None:
        self.samples, self.judge, self.runtime = samples, judge, runtime

    def outputs(self, path: Path) -> dict[str, NDArray[Any]]:
        """What a file answers on the choosing samples, those outputs that are judged.

        Raises:
            InputError: It cannot be loaded or run.
        """
        session = open_session(path, self.runtime)
        return predict(session, self.samples, list(self.judge.dense), DEFAULT_BATCH)

    def drop(self, outputs: Outputs) -> float:
        """How much worse the answers' score is than the dense float32 network's; infinite where they are no numbers."""
        return self.judge.difference(outputs).drop if finite(outputs) else float("inf")


def distance(outputs: Outputs, reference: Outputs) -> float:
    """Relative RMS difference of answers from others, all outputs together; infinite where they are no numbers."""
    if finite(reference) and not finite(outputs):
        return float("inf")
    names = [name for name, values in reference.items() if np.asarray(values).dtype.kind in "fiub"]
    return relative_rms(
        [np.nan_to_num(np.asarray(outputs[name])) for name in names],
        [np.nan_to_num(np.asarray(reference[name])) for name in names],
    )


def finite(outputs: Outputs) -> bool:
    """Whether all numbers among the outputs are."""
    return all(bool(np.isfinite(v).all()) for v in outputs.values() if np.asarray(v).dtype.kind == "f")
