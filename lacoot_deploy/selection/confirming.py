"""Judges shortened networks as the files that they become, on samples that the search has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.model.walk import defined_values
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.runtime.batching import check_finite
from lacoot_deploy.runtime.evaluate import predict
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.judge import Judge
from lacoot_deploy.selection.trials import Trials


class Confirming:
    """Samples to confirm by, with what the dense network gives for them.

    Args:
        engine: The search: its network, what that is judged by, and its task.
        samples: The samples.
        trials: Where networks run.

    Attributes:
        judge: The judge of these samples.

    Raises:
        InputError: The model gives for a sample what is no number.
    """

    def __init__(self, engine: Engine, samples: Samples, trials: Trials) -> None:
        self._model, self._samples, self._judged = engine.model, samples, tuple(engine.judged)
        self._trials, self._network = trials, engine.network
        dense = self.outputs(())
        for name, value in dense.items():
            check_finite(name, value, samples)
        self.judge = Judge.of(dense, samples, engine.judge.task)

    def outputs(self, cuts: Sequence[Cut], refits: Sequence[Refit] = ()) -> dict[str, NDArray[Any]]:
        """What the network without some blocks gives, from the model that surgery makes of it."""
        trials = self._trials
        network = collapse_blocks(self._model, cuts, refits, folder=trials.folder) if cuts else self._model
        public = {output.name for output in network.graph.output}
        known = defined_values(network.graph)
        names = {name: name if name in public else _stand_in(name, cuts, known) for name in self._judged}
        session = ExposedSession(
            network,
            list(names.values()),
            runtime=replace(trials.runtime, threads=self._network.pace.threads),
            source=trials.source,
            weights=self._network.weights,
        )
        found = predict(session, self._samples, list(names.values()))
        return {name: found[stand_in] for name, stand_in in names.items()}


def _stand_in(name: str, cuts: Sequence[Cut], known: set[str]) -> str:
    """The value that the readers of a removed block's output read now."""
    ends = {cut.block.output: cut for cut in cuts} | {cut.block.units[-1].merge: cut for cut in cuts}
    while name not in known and name in ends:
        cut = ends[name]
        name = cut.block.input if cut.form is Form.BYPASS else cut.block.units[-1].skip
    return name
