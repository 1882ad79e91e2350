"""Why a plan is as it is: what was measured on the way, and the options that it was made with.

Only what is known is written, so that a plan of an older release keeps its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from lacoot_deploy.manifest.healing import CandidateRecord
from lacoot_deploy.manifest.records import Record


class Noted(Record):
    """A record that is written without the fields that nothing was said of."""

    @model_serializer(mode="wrap")
    def _only_said(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said = self.model_fields_set
        return {key: value for key, value in serialise(self).items() if key in said}


class QualityRecord(Noted):
    """What a network's outputs are worth on some samples.

    Attributes:
        samples: Number of samples.
        drift: Relative RMS difference of the outputs from the dense network's.
        divergence: Mean of what a sample costs against the dense network's answers.
        agreement: The task's score with the dense network's answers for labels, in percent for classes.
        loss: Mean of what a sample costs against the labels.
        accuracy: Percent right, where the score is an accuracy.
        score: The task's score, against labels where there are any.
        measure: Name of that score.
        unit: Of a difference of two scores.
    """

    samples: int | None = None
    drift: float | None = None
    divergence: float | None = None
    agreement: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None
    measure: str | None = None
    unit: str | None = None

    def named(self, measure: str) -> float | None:
        """A score by the name of its measure: `accuracy`, `agreement`, or that of the task."""
        found = {"accuracy": self.accuracy, "agreement": self.agreement}.get(measure)
        return self.score if found is None and self.measure == measure else found

    @property
    def shown(self) -> float | None:
        """The score that a reader looks for."""
        return next((s for s in (self.accuracy, self.score, self.agreement) if s is not None), None)


class Pair(Noted):
    """The dense network and the shortened one on the same samples."""

    dense: QualityRecord | None = None
    collapsed: QualityRecord | None = None


class Confirmation(Pair):
    """The two on samples that did not choose.

    Attributes:
        drop_points: How much worse the shortened network's score is.
        ci95: 95 % interval of that, from the same samples in pairs.
        unit: Of both.
        interval: How the interval was made.
    """

    drop_points: float | None = None
    ci95: tuple[float, float] | None = None
    unit: str | None = None
    interval: str | None = None


class BeliefRecord(Noted):
    """What trying the labels on the dense network showed; see `tasks.belief.Belief`.

    Attributes:
        task: The task in one line.
        measure: Name of its score.
        unit: Of a difference of two scores.
        score: The dense network's.
        ci95: Its 95 % interval.
        guess: What guessing scores; None where there are no labels.
        believed: Whether the dense network is better than that.
        samples: Samples that it was taken on.
        sentence: All that in one sentence.
    """

    task: str | None = None
    measure: str | None = None
    unit: str | None = None
    score: float | None = None
    ci95: tuple[float, float] | None = None
    guess: float | None = None
    believed: bool | None = None
    samples: int | None = None
    sentence: str | None = None


class StepEvidence(Noted):
    """Why one block, or one activation, went.

    Attributes:
        criterion: What scored it, where it was not the plan's own criterion on data.
        score: Its score.
        repair: The kind of map that it got: `none`, `affine`, `linear` or `exact`.
        lossless: Whether it went for nothing.
        chosen_by: `user` where it was named.
        after_this_step: The network without it and all before it, on the samples that chose.
    """

    criterion: str | None = None
    score: float | None = None
    repair: str | None = None
    lossless: bool | None = None
    chosen_by: str | None = None
    after_this_step: QualityRecord | None = None


class PlanEvidence(Noted):
    """What was measured for a plan as a whole.

    Attributes:
        measured: Whether networks were run for it.
        lossless: Whether only what does nothing goes.
        data: Which samples, in words.
        fit_samples: How many of them repairs were fitted on.
        choose_samples: How many chose.
        judged_by: Name of the score, or `drift`.
        choosing: The networks on the samples that chose.
        confirming: And on those that did not.
        belief: What trying the labels on the dense network showed.
        timed: Shape of each input that times were measured at.
        notes: What a reader should know of the search, such as maps that the samples do not suffice for.
        candidates: Plans that were healed for a short time, of which this one went on.
        blocks: Of a plan that also makes activations linear: the evidence for its blocks.
    """

    measured: bool | None = None
    lossless: bool | None = None
    data: str | None = None
    fit_samples: int | None = None
    choose_samples: int | None = None
    judged_by: str | None = None
    choosing: Pair | None = None
    confirming: Confirmation | None = None
    belief: BeliefRecord | None = None
    timed: dict[str, list[int]] | None = None
    notes: list[str] | None = None
    candidates: list[CandidateRecord] | None = None
    blocks: PlanEvidence | None = None


class SearchRecord(Noted):
    """How blocks were chosen; see `selection.options.SearchOptions` for the fields."""

    criterion: str | None = None
    search: str | None = None
    repair: str | None = None
    refit: bool | None = None
    form: str | None = None
    granularity: str | None = None
    private_io: Literal["keep", "drop", "renumber"] | None = None
    seed: int | None = None


class LinearRecord(Noted):
    """How activations were chosen; see `selection.options.LineariseOptions` for the fields."""

    what: str | list[str] | None = None
    limit: dict[str, Any] | None = None
    criterion: str | None = None
    search: str | None = None
    fit: str | None = None
    merge: str | None = None
    inexact: bool | None = None


class DataRecord(Noted):
    """Which samples; see `data.options.DataOptions` for the fields. Of a path only the name stays."""

    spec: str | None = None
    split: str | None = None
    limit: int | None = None
    seed: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    size: tuple[int, int] | None = None
    task: TaskChoice | None = None
    sample_axis: dict[str, int] | None = None
    shared: list[str] | None = None


class TaskChoice(Noted):
    """What the user said of the task; see `data.options.TaskOptions` for the fields."""

    name: str | None = None
    outputs: list[str] | None = None
    trust_labels: bool | None = None


class RuntimeRecord(Noted):
    """Where networks ran; see `runtime.options.Runtime` for the fields."""

    provider: str | None = None
    threads: int | None = None
    provider_options: dict[str, str] | None = None
    custom_ops: list[str] | None = None


class PlanOptions(Noted):
    """What `collapse` was asked for when the plan was made.

    Attributes:
        limit: How far blocks go.
        search: How they were chosen, and what was put in their place.
        linearise: How activations were chosen, if any.
        data: The samples.
        runtime: Where trial runs happened.
        probe: Whether shapes could be settled by a run.
    """

    limit: dict[str, Any] | None = None
    search: SearchRecord | None = None
    linearise: LinearRecord | None = None
    data: DataRecord | None = None
    runtime: RuntimeRecord | None = None
    probe: bool | None = None


def said(given: Mapping[str, Any], standard: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The entries that say something: neither None nor what holds anyway."""
    standard = standard or {}
    return {key: value for key, value in given.items() if value is not None and value != standard.get(key)}
