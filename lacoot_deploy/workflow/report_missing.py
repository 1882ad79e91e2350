"""What a report has no data for, and which command gives it: one sentence for each section."""

from __future__ import annotations

import json
import shlex

from lacoot_deploy.reports.records import ReportResult
from lacoot_deploy.workflow.report_inputs import Cast, GivenModel


def missing_sections(document: ReportResult, parts: Cast) -> dict[str, str]:
    """A sentence for each part of the page that there is no data for, by the part's name.

    Args:
        document: The report so far.
        parts: The networks.
    """
    dense, short = _words(parts.dense, "DENSE.onnx"), _words(parts.short, "COLLAPSED.onnx")
    answer, missing = document.answer, {}
    if answer is None:
        missing["answer"] = (
            f"Nothing was cut yet and no plan is recommended. Cut with: lacoot-deploy collapse {dense} --max-drop 1 "
            f"--data DATA -o {short}, then give both files to the report."
        )
    if answer is not None and answer.cost is None:
        missing["cost"] = (
            f"Not measured. Add --data DATA, or: lacoot-deploy compare {dense} {short} --data DATA"
        )
    if answer is not None and answer.gain is None:
        missing["gain"] = f"Not measured. Add --bench, or: lacoot-deploy bench {dense} {short}"
    if answer is not None and answer.scratch is None:
        missing["scratch"] = _scratch(document, parts)
    elif answer is not None and answer.scratch is not None and answer.scratch.score is None:
        missing["scratch"] = "Its score was not measured. Add --data DATA."
    if not any(len(curve.points) > 1 for curve in document.curves) and len(document.curves) < 3:
        missing["depth"] = (
            f"No network of another depth is known. A search leaves its steps in the plan: lacoot-deploy collapse "
            f"{dense} --max-drop 1 --data DATA --plan-out plan.json, then give plan.json to the report."
        )
    if sum(point.latency is not None for curve in document.curves for point in curve.points) < 2:
        missing["latency-curve"] = "No latency of a pair is known. Add --bench."
    if document.distance is None:
        missing["distances"] = (
            f"No distances are recorded. Measure them: lacoot-deploy measure {dense} --data DATA -o MEASURED.onnx, "
            f"and give MEASURED.onnx in place of {dense}."
        )
    if not document.training:
        missing["training"] = (
            "Give the run folder of 'lacoot-deploy train' to see how the network was trained."
        )
    if document.latency is None:
        missing["latency"] = f"Add --bench, or give the result of: lacoot-deploy bench {dense} {short} --json"
    if not document.drift:
        missing["drift"] = (
            f"Add --data DATA, or give the result of: lacoot-deploy compare {dense} {short} --data DATA --json"
        )
    elif not document.worst:
        missing["worst"] = "No sample differs."
    return missing


def _words(model: GivenModel | None, otherwise: str) -> str:
    if model is None:
        return otherwise
    return shlex.quote(model.path.name if model.run is None else f"{model.run.name}/{model.path.name}")


def _scratch(document: ReportResult, parts: Cast) -> str:
    """How to train the control: exactly so where the network came from `train`, else in words."""
    assert document.answer is not None
    gone = [one.block for one in document.answer.removed]
    if parts.dense is not None and parts.dense.recipe:
        without = shlex.quote(f"without={json.dumps(gone)}")
        return (
            f"Not measured. Train it: lacoot-deploy train RECIPE.toml --set penalty=0 --set {without} -o scratch, "
            f"then add --scratch scratch."
        )
    return (
        "Not measured. Train a network with so few blocks by the recipe of the dense one, export it to ONNX, and add "
        "--scratch SHALLOW.onnx."
    )
