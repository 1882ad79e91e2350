"""One network with some of its activations made linear: its maps fitted, its outputs judged, its scores taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples, join
from lacoot_deploy.graph.linear import Activation, Linearisation, linearise
from lacoot_deploy.graph.linear.parameters import ActivationParameters
from lacoot_deploy.graph.model.walk import defined_values
from lacoot_deploy.runtime.activation_statistics import ActivationMoments, Watched, activation_moments
from lacoot_deploy.runtime.evaluate import DEFAULT_BATCH, fixed_batch, padded_batches
from lacoot_deploy.selection import activation_criteria as criteria
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.limits import Evidence
from lacoot_deploy.selection.trials import Trials
from lacoot_deploy.tasks.belief import require_belief, try_labels

Items = tuple[Linearisation, ...]
Outputs = dict[str, NDArray[Any]]


class LinearNetwork:
    """A model, its activations, and samples to make some of them linear by.

    Args:
        model: The model, blocks already gone.
        activations: Its activations.
        evidence: The samples with their roles.
        fit: What is put in place: `identity`, `affine` or `pieces`.
        trials: Where trial runs happen.
        reference: The model that outputs are compared with; None for the model itself.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        activations: Sequence[Activation],
        evidence: Evidence,
        *,
        fit: str,
        trials: Trials,
        reference: onnx.ModelProto | None = None,
    ) -> None:
        self.model, self.fit, self.trials = model, fit, trials
        self.activations, self.reference = tuple(activations), model if reference is None else reference
        self.place = {activation.name: number for number, activation in enumerate(activations)}
        fits = fit != "identity"
        self.fit_samples = evidence.fit if fits else None
        self.choose_samples = evidence.choose if fits else join(evidence.fit, evidence.choose)
        self.all_samples = join(evidence.fit, evidence.choose)
        self._parameters = ActivationParameters(model, trials.folder)
        dense = trials.outputs(self.reference, self.choose_samples)
        self._judge = Judge.of(dense, self.choose_samples, evidence.task)
        self.task = self._judge.task
        self.belief = try_labels(
            self._judge, self.choose_samples, run=lambda some: trials.outputs(self.reference, some)
        )
        require_belief(self.belief, trust=evidence.task.trust_labels, source=self.choose_samples.description)
        self.dense = self._judge.judge(self._judge.dense)

    def network(self, items: Items) -> onnx.ModelProto:
        """The model with these activations linear; nothing is merged."""
        return linearise(self.model, items, folder=self.trials.folder)

    def quality(self, items: Items) -> Quality:
        """What the network's outputs are worth on the choosing samples."""
        return self._judge.judge(self.trials.outputs(self.network(items), self.choose_samples))

    def maps(self, items: Items, wanted: Sequence[Activation]) -> dict[str, Linearisation]:
        """The maps for activations, fitted to what the network feeds them and to what they gave in the model.

        Args:
            items: What is linear already; those of them that are wanted are fitted anew.
            wanted: The activations.
        """
        if self.fit == "identity" or self.fit_samples is None:
            return {activation.name: Linearisation(activation) for activation in wanted}
        moments = self._moments(items, wanted, self.fit_samples, target=self.model)
        return {
            activation.name: self._map(activation, moments[activation.name])
            for activation in wanted
            if activation.name in moments
        }

    def _map(self, activation: Activation, moments: ActivationMoments) -> Linearisation:
        if self.fit == "pieces":
            normal = criteria.normal_of(activation, moments, self._parameters)
            return Linearisation(activation, *criteria.pieces(activation, *normal))
        slope, intercept = moments.affine()
        return Linearisation(activation, slope.astype(np.float32), intercept.astype(np.float32))

    def scores(
        self,
        criterion: str,
        items: Items,
        left: Sequence[Activation],
        *,
        last: Mapping[str, float] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Scores of the activations that are left, by name; the lowest goes first.

        Those whose values cannot be read in this network are left out.

        Args:
            criterion: `entropy`, `gaussian`, `slope` or `output`.
            items: What is linear already.
            left: The activations to score.
            last: Scores of an earlier network, where only the lowest score is wanted: with `output`, those that looked
                best go first, and whatever is sure to be worse than the best so far is infinite.
            progress: Called with the activations done and all of them.
        """
        if criterion == "output":
            return self._trials(items, left, last, progress)
        moments = self._moments(items, left, self.all_samples, target=None)
        return {
            activation.name: self._score(criterion, activation, moments[activation.name])
            for activation in left
            if activation.name in moments
        }

    def _trials(
        self,
        items: Items,
        left: Sequence[Activation],
        last: Mapping[str, float] | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, float]:
        maps = self.maps(items, left)
        tried = [activation for activation in left if activation.name in maps]
        if last is not None:
            tried.sort(key=lambda activation: last.get(activation.name, np.inf))
        found: dict[str, float] = {}
        for number, activation in enumerate(tried):
            if progress is not None:
                progress(number, len(tried))
            bound = min(found.values(), default=None) if last is not None else None
            found[activation.name] = self._trial((*items, maps[activation.name]), bound)
        return found

    def _trial(self, items: Items, bound: float | None) -> float:
        """Mean divergence of the outputs from the unchanged network's; infinite as soon as it is above the bound.

        What a sample costs is never negative, so the sum over the samples so far can only grow.
        """
        session = self.trials.session(self.network(items))
        count, total = len(self.choose_samples), 0.0
        for start, real, feeds in padded_batches(
            self.choose_samples, DEFAULT_BATCH, fixed_batch(session.inputs)
        ):
            outputs = {name: values[:real] for name, values in session.run(feeds).items()}
            total += float(self._judge.costs(outputs, start=start, labels=False).sum())
            if bound is not None and total > bound * count:
                return float("inf")
        return total / count

    def _score(self, criterion: str, activation: Activation, moments: ActivationMoments) -> float:
        if criterion == "entropy":
            return criteria.entropy(moments)
        if criterion == "gaussian":
            return criteria.gaussian(activation, *criteria.normal_of(activation, moments, self._parameters))
        return criteria.slope(activation, moments, self._parameters)

    def _moments(
        self,
        items: Items,
        wanted: Sequence[Activation],
        samples: Samples,
        *,
        target: onnx.ModelProto | None,
    ) -> Mapping[str, ActivationMoments]:
        network = self.network(items)
        defined = defined_values(network.graph)
        watched = [
            Watched(activation.name, start, activation.output, activation.axis)
            for activation in wanted
            if (start := _input_in(activation, items, defined)) in defined
        ]
        return activation_moments(
            network,
            watched,
            samples,
            target=target,
            runtime=self.trials.runtime,
            source=self.trials.source,
        )


def _input_in(activation: Activation, items: Items, defined: set[str]) -> str:
    """The name that an activation's input has in the network where some activations are linear."""
    direct = {i.activation.output: i.activation.input for i in items if i.slope is None}
    name = activation.input
    while name not in defined and name in direct:
        name = direct[name]
    # The value before a linear activation that gives an output of the model bears the output's name.
    back = {before: after for after, before in direct.items()}
    return back.get(name, name) if name not in defined else name
