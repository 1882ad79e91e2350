"""What `compare` says: drift, agreement and scores of two models, and the limits that they are held to."""

from __future__ import annotations

from pydantic import BaseModel, Field

from lacoot_deploy.errors import VerificationError
from lacoot_deploy.manifest import BeliefRecord
from lacoot_deploy.runtime.drift import OutputDrift


class Limits(BaseModel):
    """What B may differ by; None for no limit.

    Attributes:
        max_abs: Largest absolute difference of any numeric output.
        max_rel_rms: Relative RMS of any numeric output.
        min_agreement: Least agreement of predictions, in percent.
        max_drop: Largest drop of the accuracy or metric, in points.
    """

    max_abs: float | None = None
    max_rel_rms: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None


class ScoreComparison(BaseModel):
    """A labelled score of both models.

    Attributes:
        metric: The measure, such as `top-1` or `mean IoU`, or the name of the user's metric.
        a: Score of A: percent where the unit is points.
        b: Score of B.
        drop_points: How much worse B is: a - b, or b - a where a smaller score is better.
        unit: Of the drop, such as `points`.
        ci95: 95 % interval of the drop, from the same samples in pairs.
        p_value: Exact McNemar test of no difference, for yes-or-no scores.
        method: How the interval was made.
    """

    metric: str
    a: float
    b: float
    drop_points: float
    unit: str = "points"
    ci95: tuple[float, float]
    p_value: float | None = None
    method: str


class CompareResult(BaseModel):
    """What `compare` says.

    Attributes:
        a: What model A is called.
        b: What model B is called.
        a_sha256: Hash of A's file (without external data); None where it was no file.
        b_sha256: And of B's.
        samples: Number of samples.
        outputs: Drift by output name.
        agreement: Percent of predictions (largest class score, or equal value for labels) in which B agrees with A;
            None where no output holds predictions.
        predictions: The output that the agreement is about.
        task: What the models are for, in one line; None where their outputs do not say.
        dense: A's own score with its interval, and what guessing would give; None without labels.
        accuracy: Labelled score by the task's measure; None without labels.
        fidelity: The same measure with A's answers for labels, where there are none.
        top5: Top-5 accuracy, where there are more than five classes.
        limits: The limits given.
        violations: One sentence for each limit exceeded.
        notes: What a reader should know, such as outputs that cannot be held against one another.
    """

    schema_version: int = 1
    a: str
    b: str
    a_sha256: str | None = None
    b_sha256: str | None = None
    samples: int
    outputs: dict[str, OutputDrift]
    agreement: float | None
    predictions: str | None
    task: str | None = None
    dense: BeliefRecord | None = None
    accuracy: ScoreComparison | None
    top5: ScoreComparison | None = None
    fidelity: ScoreComparison | None = None
    limits: Limits = Field(default_factory=Limits)
    violations: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def require(self) -> None:
        """Stand by the limits.

        Raises:
            VerificationError: One is exceeded, or B has NaN or infinity where A has none.
        """
        if self.violations:
            raise VerificationError(" ".join(self.violations))


def violations(comparison: CompareResult) -> list[str]:
    """One sentence for each limit that a comparison exceeds."""
    limits, found = comparison.limits, []
    for name, drift in comparison.outputs.items():
        if drift.new_nonfinite and drift.nonfinite_b is not None:
            found.append(
                f"Output {name!r} of {comparison.b} has {drift.new_nonfinite} NaN or infinite entries where "
                f"{comparison.a} has none, the first in sample {drift.nonfinite_b.first[0]}."
            )
        for label, value, limit in (
            ("maximum absolute difference", drift.max_abs, limits.max_abs),
            ("relative RMS difference", drift.rel_rms, limits.max_rel_rms),
        ):
            numeric = drift.max_abs is not None
            if limit is not None and numeric and (value is None or value > limit):
                shown = "infinite" if value is None else f"{value:.3g}"
                found.append(f"Output {name!r}: the {label} is {shown}, above the limit of {limit:g}.")
    wanted = limits.max_abs is not None or limits.max_rel_rms is not None
    if wanted and all(drift.max_abs is None for drift in comparison.outputs.values()):
        found.append(
            "The difference of outputs has a limit, but no output holds numbers; use --min-agreement."
        )
    if limits.min_agreement is not None:
        if comparison.agreement is None:
            found.append("The agreement has a limit, but no output holds predictions.")
        elif comparison.agreement < limits.min_agreement:
            found.append(
                f"The predictions agree in {comparison.agreement:.2f} %, below the limit of {limits.min_agreement:g} %."
            )
    if limits.max_drop is not None:
        if comparison.accuracy is None:
            found.append(
                "The drop has a limit, but there are no labels or no class scores to measure it with."
            )
        elif comparison.accuracy.drop_points > limits.max_drop:
            found.append(
                f"The {comparison.accuracy.metric} score drops by {comparison.accuracy.drop_points:.2f} "
                f"{comparison.accuracy.unit}, above the limit of {limits.max_drop:g}."
            )
    return found
