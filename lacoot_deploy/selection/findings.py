"""What a search found, as the evidence of a plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lacoot_deploy.data.options import portable
from lacoot_deploy.manifest import Confirmation, Pair, PlanEvidence, QualityRecord
from lacoot_deploy.manifest.evidence import said
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.limits import Evidence


def quality_record(quality: Quality) -> QualityRecord:
    """A quality for a plan; what was not measured is left out."""
    found: dict[str, Any] = asdict(quality)
    for name in ("labelled", "higher"):
        del found[name]
    found |= {"accuracy": quality.accuracy, "score": quality.score, "measure": quality.score_name}
    return QualityRecord(**said(found))


@dataclass(frozen=True)
class Found:
    """How a network did: on the samples that chose it, and on those that did not.

    Attributes:
        samples: The samples with their roles.
        fitted: How many of them repairs or maps were fitted on.
        chose: How many chose.
        choosing: The dense network and the shortened one on the samples that chose.
        judge: The judge of the samples that confirm.
        outputs: What the shortened network gives for them.
    """

    samples: Evidence
    fitted: int
    chose: int
    choosing: tuple[Quality, Quality]
    judge: Judge
    outputs: dict[str, Any]

    def evidence(self) -> PlanEvidence:
        """The same as the record that a plan carries."""
        confirmed = self.judge.judge(self.outputs)
        difference = self.judge.difference(self.outputs)
        dense, collapsed = map(quality_record, self.choosing)
        return PlanEvidence(
            measured=True,
            data=portable(self.samples.choose.description),
            fit_samples=self.fitted,
            choose_samples=self.chose,
            judged_by=confirmed.score_name,
            choosing=Pair(dense=dense, collapsed=collapsed),
            confirming=Confirmation(
                dense=quality_record(self.judge.judge(self.judge.dense)),
                collapsed=quality_record(confirmed),
                drop_points=difference.drop,
                ci95=(difference.low, difference.high),
                unit=self.judge.task.measure.unit,
                interval=difference.method,
            ),
        )
