"""Where the trial runs of a search for activations happen; light, so that a replayed plan loads no search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from lacoot_deploy.data.types import Samples
    from lacoot_deploy.runtime.sessions import Session


@dataclass(frozen=True)
class Runtime:
    """Where trial runs happen.

    Attributes:
        source: The file that external weights lie beside.
        provider: Execution provider.
        threads: CPU threads; None for ONNX Runtime's choice.
    """

    source: Path | None = None
    provider: str = "auto"
    threads: int | None = None

    @property
    def folder(self) -> Path | None:
        """Where external weights lie."""
        return None if self.source is None else self.source.parent

    def session(self, model: onnx.ModelProto) -> Session:
        """A session of a model."""
        from lacoot_deploy.runtime.sessions import open_session

        return open_session(
            model,
            provider=self.provider,
            threads=self.threads,
            source=self.source,
            label="The plan's model",
        )

    def outputs(self, model: onnx.ModelProto, samples: Samples) -> dict[str, NDArray[Any]]:
        """The outputs of a model for all samples."""
        from lacoot_deploy.runtime.evaluate import predict

        return predict(self.session(model), samples)
