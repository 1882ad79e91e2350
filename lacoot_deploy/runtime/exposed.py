"""Sessions that give inner values beside, or instead of, a model's own outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo
from lacoot_deploy.graph.model.expose import expose_values
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.runtime.sessions import Session, open_session

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.runtime.weights import SharedWeights


class ExposedSession:
    """A session that runs a model up to named values, inner ones, inputs or outputs alike.

    Attributes:
        session: The session of the model with the inner values as further outputs.
        values: The names that `run` gives.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Sequence[str],
        *,
        runtime: Runtime = AUTO,
        source: Path | None = None,
        weights: SharedWeights | None = None,
    ) -> None:
        """Open the session.

        Args:
            model: The model.
            values: Names of values of the main graph.
            runtime: Where it runs.
            source: Where a model with external data was read from.
            weights: Arrays that the model's external data is shared with.

        Raises:
            InputError: A value does not exist, or the model does not load.
            ProviderError: As for `open_session`.
        """
        self.values = tuple(dict.fromkeys(values))
        inputs = {value.name for value in model.graph.input}
        outputs = {value.name for value in model.graph.output}
        inner = [name for name in self.values if name not in inputs | outputs]
        self._fed = [name for name in self.values if name in inputs]
        self._computed = [name for name in self.values if name not in inputs]
        exposed = expose_values(model, inner) if inner else model
        self.session: Session = open_session(
            exposed,
            runtime,
            source=source,
            configure=None if weights is None else partial(weights.configure, exposed),
        )

    @property
    def inputs(self) -> tuple[InputInfo, ...]:
        """The inputs that must be fed."""
        return self.session.inputs

    @property
    def label(self) -> str:
        """What messages call the model."""
        return self.session.label

    def run(
        self, feeds: Mapping[str, NDArray[Any]], values: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The named values (all of them by default) for the given feeds."""
        wanted = self.values if values is None else tuple(values)
        computed = [name for name in self._computed if name in wanted]
        found = self.session.run(feeds, computed) if computed else {}
        return found | {name: feeds[name] for name in self._fed if name in wanted}
