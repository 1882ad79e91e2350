"""The noise in a sample (or the sample in the noise): what generative networks are trained to tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lacoot_deploy.tasks.base import Facts, Measure, Task, Unfit
from lacoot_deploy.tasks.regression import Regression

TARGETS = ("noise", "target", "labels")
"""Names of the labels: what the network is to tell, of the output's shape."""


@dataclass(frozen=True)
class Denoising(Regression):
    """One output of the shape of a noisy input, held against the noise (or whatever was the target) that went in.

    Errors are compared sample by sample with the same noise, so that two networks differ by what they make of it alone.
    """

    name: ClassVar[str] = "denoising"
    summary: ClassVar[str] = "the noise in a noisy input, for generative models: denoising error"
    wants: ClassVar[str] = (
        "an output of the shape of a noisy input, and the noise itself as `labels.noise` (`labels.target` for another "
        "target)"
    )

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """The output of a noisy input's shape; found where its labels are called noise."""
        target = next((name for name in TARGETS if name in facts.labels), None)
        if not facts.named and target != "noise":
            return Unfit("labels are not called noise")
        shapes = {a.shape[1:] for a in facts.inputs.values() if a.dtype.kind == "f" and a.ndim > 1}
        outputs = {n: v for n, v in facts.outputs.items() if v.dtype.kind == "f" and v.shape[1:] in shapes}
        if not outputs:
            return Unfit("no output has the shape of an input")
        name = next(iter(outputs))
        labels = {} if target is None else {name: facts.labels[target]}
        found = super().fit(Facts({name: outputs[name]}, labels, facts.inputs, named=True))
        if isinstance(found, Unfit) or target is None:
            return found
        assert isinstance(found, cls)
        return cls(found.names, (target,), found.sizes, found.entries)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Mean squared error, then what regression knows."""
        r2, squared, absolute = super().measures
        error = Measure(
            "denoising error", "mean squared error", squared.total, squared.per_sample, higher=False
        )
        return (error, r2, absolute)
