"""Where the trial runs of a search happen, and how they are timed; light, so that a replayed plan loads no search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacoot_deploy.runtime.options import AUTO, Runtime

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from lacoot_deploy.data.types import Samples
    from lacoot_deploy.runtime.sessions import Session


@dataclass(frozen=True)
class Trials:
    """Trial runs of networks made from one file.

    Attributes:
        source: The file that external weights lie beside; None where there are none.
        runtime: Where they run.
        speedup: Measures how many times as fast a shortened model is; needed for `min_speedup`.
        latencies: Measures the milliseconds that each block takes; needed for a criterion that weighs them.
        timed: Tells the shape of each input that both are measured at; empty where they are the tool's own choice.
    """

    source: Path | None = None
    runtime: Runtime = AUTO
    speedup: Callable[[onnx.ModelProto], float] | None = None
    latencies: Callable[[], Mapping[str, float]] | None = None
    timed: Callable[[], Mapping[str, list[int]]] | None = None

    @property
    def folder(self) -> Path | None:
        """Where external weights lie."""
        return None if self.source is None else self.source.parent

    def session(self, model: onnx.ModelProto) -> Session:
        """A session of a model."""
        from lacoot_deploy.runtime.sessions import open_session
        from lacoot_deploy.runtime.weights import SharedWeights

        share = partial(SharedWeights(model, self.source).configure, model)
        return open_session(
            model, self.runtime, source=self.source, label="The plan's model", configure=share
        )

    def outputs(
        self, model: onnx.ModelProto, samples: Samples, names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The outputs of a model for all samples; those named, or all."""
        from lacoot_deploy.runtime.evaluate import predict

        return predict(self.session(model), samples, names)


ANYWHERE = Trials()
