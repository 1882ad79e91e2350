"""One network with some of its activations made linear: its maps fitted, its outputs judged, its scores taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.data.types import Samples, join
from lacoot_deploy.graph.linear import Activation, Linearisation, linearise
from lacoot_deploy.graph.linear.parameters import ActivationParameters
from lacoot_deploy.graph.walk import defined_values
from lacoot_deploy.runtime.activation_statistics import ActivationMoments, Watched, activation_moments
from lacoot_deploy.runtime.evaluate import predict
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection import activation_criteria as criteria
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.limits import Evidence

Items = tuple[Linearisation, ...]
Outputs = dict[str, NDArray[Any]]

FITS = ("identity", "affine", "pieces")


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

    def outputs(self, model: onnx.ModelProto, samples: Samples) -> Outputs:
        """The outputs of a model for all samples."""
        session = open_session(
            model,
            provider=self.provider,
            threads=self.threads,
            source=self.source,
            label="The plan's model",
        )
        return predict(session, samples)


class LinearNetwork:
    """A model, its activations, and samples to make some of them linear by.

    Args:
        model: The model, blocks already gone.
        activations: Its activations.
        evidence: The samples with their roles.
        fit: What is put in place: `identity`, `affine` or `pieces`.
        runtime: Where trial runs happen.
        reference: The model that outputs are compared with; None for the model itself.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        activations: Sequence[Activation],
        evidence: Evidence,
        *,
        fit: str,
        runtime: Runtime,
        reference: onnx.ModelProto | None = None,
    ) -> None:
        self.model, self.fit, self.runtime = model, fit, runtime
        self.place = {activation.name: number for number, activation in enumerate(activations)}
        fits = fit != "identity"
        self.fit_samples = evidence.fit if fits else None
        self.choose_samples = evidence.choose if fits else join(evidence.fit, evidence.choose)
        self.all_samples = join(evidence.fit, evidence.choose)
        self._parameters = ActivationParameters(model, runtime.folder)
        compared = model if reference is None else reference
        self._judge = Judge(runtime.outputs(compared, self.choose_samples), self.choose_samples.labels)
        self.dense = self._judge.judge(self._judge.dense)

    def network(self, items: Items) -> onnx.ModelProto:
        """The model with these activations linear; nothing is merged."""
        return linearise(self.model, items, folder=self.runtime.folder)

    def quality(self, items: Items) -> Quality:
        """What the network's outputs are worth on the choosing samples."""
        return self._judge.judge(self.runtime.outputs(self.network(items), self.choose_samples))

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
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Scores of the activations that are left, by name; the lowest goes first.

        Those whose values cannot be read in this network are left out.
        """
        if criterion == "output":
            maps = self.maps(items, left)
            found = {}
            for number, activation in enumerate(left):
                if progress is not None:
                    progress(number, len(left))
                if activation.name not in maps:
                    continue
                quality = self.quality((*items, maps[activation.name]))
                found[activation.name] = quality.drift if quality.divergence is None else quality.divergence
            return found
        moments = self._moments(items, left, self.all_samples, target=None)
        return {
            activation.name: self._score(criterion, activation, moments[activation.name])
            for activation in left
            if activation.name in moments
        }

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
            provider=self.runtime.provider,
            source=self.runtime.source,
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
