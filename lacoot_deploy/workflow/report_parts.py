"""From what was given and measured to what a report says, section by section."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lacoot_deploy.data.options import portable
from lacoot_deploy.manifest import CollapseRecord, Plan, PlanEvidence
from lacoot_deploy.numerals import counted
from lacoot_deploy.reports.records import (
    BlockLine,
    Cost,
    Drift,
    Gain,
    Histogram,
    Latency,
    Network,
    Removed,
    Scratch,
    Shipped,
)
from lacoot_deploy.workflow.report_inputs import Cast, GivenModel, ResultsTable

if TYPE_CHECKING:
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.runtime.compare import CompareResult
    from lacoot_deploy.shipping.account import ShipResult

BINS = 72
DISTANCES = ("mswd", "paired", "mswd-ascent", "cosine")
"""Those that a page draws, the first one that was measured."""


def removed_blocks(records: Sequence[CollapseRecord], plan: Plan | None) -> list[Removed]:
    """The blocks that went: from the histories of the file, else what the plan would take."""
    if records:
        exact = {step.block for step in plan.steps if step.evidence.lossless} if plan else set()
        return [
            Removed(
                block=name,
                form=record.forms.get(name, "bypass"),
                repair=record.repairs.get(name),
                lossless=name in exact,
            )
            for record in records
            for name in record.blocks
        ]
    return [
        Removed(
            block=step.block,
            form=step.form,
            repair=None if step.repair is None else step.repair.kind,
            lossless=bool(step.evidence.lossless),
        )
        for step in (plan.steps if plan is not None else [])
    ]


def refitted_blocks(records: Sequence[CollapseRecord], plan: Plan | None) -> list[str]:
    """Blocks that stay with refitted weights."""
    if records:
        return list(dict.fromkeys(name for record in records for name in record.refits))
    return [refit.block for refit in plan.refits] if plan is not None else []


def cost_of(
    comparison: CompareResult | None,
    judged_on: str,
    plan: Plan | None,
    records: Sequence[CollapseRecord],
) -> Cost | None:
    """What the removal cost: from a comparison, else from what confirmed the plan, else from the history."""
    healed = records[-1].accuracy_healed if records else None
    if comparison is not None:
        score = comparison.accuracy
        if score is None and comparison.agreement is None:
            score = comparison.fidelity
        if score is not None:
            name = f"{score.metric} accuracy" if score.metric.startswith("top-") else score.metric
            return Cost(
                metric=name if comparison.accuracy is not None else f"{name} against the dense network",
                unit="%" if score.unit == "points" else "",
                before=score.a,
                after=score.b,
                drop=score.drop_points,
                ci95=score.ci95,
                samples=comparison.samples,
                judged_on=judged_on,
                healed=healed is not None,
            )
        if comparison.agreement is not None:
            return Cost(
                metric="agreement with the dense network",
                before=None,
                after=comparison.agreement,
                drop=100 - comparison.agreement,
                samples=comparison.samples,
                judged_on=judged_on,
                healed=healed is not None,
            )
    if healed is not None and records[-1].accuracy_before is not None:
        return Cost(
            metric="top-1 accuracy",
            before=records[-1].accuracy_before,
            after=healed,
            drop=records[-1].accuracy_before - healed,
            judged_on="validation samples of the healing",
            healed=True,
        )
    confirmed = None if plan is None else _confirmed_cost(plan.evidence)
    if confirmed is not None:
        return confirmed
    if records and records[-1].accuracy_after is not None:
        before, after = records[0].accuracy_before, records[-1].accuracy_after
        return Cost(
            metric="top-1 accuracy",
            before=before,
            after=after,
            drop=None if before is None else before - after,
            judged_on="samples that confirmed the plan",
        )
    return None


def _confirmed_cost(evidence: PlanEvidence) -> Cost | None:
    """What the samples that confirmed the plan say."""
    found = evidence.confirming
    if found is None or found.drop_points is None or found.collapsed is None or found.dense is None:
        return None
    measure = evidence.judged_by or "agreement"
    after = found.collapsed.named(measure)
    if after is None:
        return None
    names = {"accuracy": "top-1 accuracy", "agreement": "agreement with the dense network"}
    return Cost(
        metric=names.get(measure, measure),
        unit="%" if found.unit in (None, "points") else "",
        before=None if measure == "agreement" else found.dense.named(measure),
        after=after,
        drop=found.drop_points,
        ci95=found.ci95,
        samples=found.collapsed.samples,
        judged_on=f"samples that confirmed the plan ({portable(evidence.data or 'its own data')})",
    )


def gain_of(bench: BenchResult | None) -> Gain | None:
    """What the removal gained, from a paired measurement."""
    if bench is None or bench.b is None or bench.speedup is None or bench.ci95 is None:
        return None
    environment = bench.environment
    threads = "" if environment.threads is None else f", {counted(environment.threads, 'thread')}"
    return Gain(
        speedup=bench.speedup,
        ci95=bench.ci95,
        verdict=bench.verdict or "",
        before_ms=bench.a.p50_ms,
        after_ms=bench.b.p50_ms,
        device=environment.gpu or f"{environment.cpu}, {environment.affinity} processors",
        setting=f"{environment.provider}, batch {environment.batch}{threads}",
    )


def scratch_of(
    model: GivenModel | None,
    comparison: CompareResult | None,
    bench: BenchResult | None,
    tables: Sequence[ResultsTable],
    cost: Cost | None,
    judged_on: str,
    removed: Sequence[Removed],
) -> Scratch | None:
    """The control: measured beside the collapsed network, else the first one of the results tables."""
    if model is not None:
        score = None if comparison is None or comparison.accuracy is None else comparison.accuracy.b
        same = cost is not None and comparison is not None and cost.judged_on == judged_on
        left_out = model.recipe.get("without") or []
        return Scratch(
            blocks=len(model.opened.blocks),
            same=bool(removed) and sorted(left_out) == sorted(one.block for one in removed),
            name=model.path.parent.name if model.run is not None else model.path.name,
            score=score,
            ahead=score - cost.after if score is not None and cost is not None and same else None,
            speedup=None if bench is None else bench.speedup,
            judged_on=judged_on if score is not None else "",
        )
    for table in tables:
        for row in table.scratch:
            return Scratch(
                name=f"{table.name}, {row.name}",
                same=bool(removed) and sorted(row.without) == sorted(one.block for one in removed),
                score=row.test_accuracy,
                speedup=None if row.latency is None else row.latency.speedup,
                judged_on="test images of the results table",
            )
    return None


def block_lines(
    dense: GivenModel,
    removed: Sequence[Removed],
    refits: Sequence[str],
    bench: BenchResult | None,
) -> list[BlockLine]:
    """The blocks of the dense network with what was measured of each and what became of it."""
    from lacoot_deploy.selection.matching import match_records

    went = {one.block: one for one in removed}
    manifest = dense.opened.manifest
    match = match_records(manifest.blocks, dense.opened.blocks) if manifest is not None else None
    records = (
        {match.blocks[record.name].name: record for record in manifest.blocks if record.name in match.blocks}
        if manifest is not None and match is not None
        else {}
    )
    timed = {} if bench is None or bench.per_block is None else {b.name: b for b in bench.per_block.blocks}
    lines = []
    for block in dense.opened.blocks:
        record, one, time = records.get(block.name), went.get(block.name), timed.get(block.name)
        found = record.distances if record is not None else {}
        latency = record.latency if record is not None else None
        dims = ["?" if dim is None else str(dim) for dim in block.shape or ()]
        shape = " \N{MULTIPLICATION SIGN} ".join(dims) or "?"
        lines.append(
            BlockLine(
                name=block.name,
                shape=shape,
                macs=block.macs,
                parameters=block.parameters,
                distances={name: distance.value for name, distance in found.items()},
                floors={
                    name: distance.floor for name, distance in found.items() if distance.floor is not None
                },
                samples=next((distance.samples for distance in found.values()), None),
                share=time.share if time is not None else latency.share if latency is not None else None,
                ms=time.ms if time is not None else latency.ms if latency is not None else None,
                form=None if one is None else one.form,
                repair=None if one is None else one.repair,
                refitted=block.name in refits,
                reason=None if block.reason is None else block.reason.text,
            )
        )
    return lines


def drawn_distance(lines: Sequence[BlockLine]) -> str | None:
    """The distance that a page draws."""
    return next((name for name in DISTANCES if any(name in line.distances for line in lines)), None)


def latency_of(bench: BenchResult | None, names: Sequence[str]) -> Latency | None:
    """Distributions of the raw samples on common bins of equal ratio."""
    if bench is None:
        return None
    raw = [np.concatenate([np.asarray(one, float) for one in bench.samples.a if one] or [np.zeros(0)])]
    if bench.samples.b is not None:
        raw.append(np.concatenate([np.asarray(one, float) for one in bench.samples.b if one]))
    raw = [values[values > 0] for values in raw]
    if not all(len(values) for values in raw):
        return None
    low = min(float(values.min()) for values in raw) * 0.97
    high = max(float(np.percentile(values, 99.5)) for values in raw) * 1.03
    edges = np.exp(np.linspace(math.log(low), math.log(max(high, low * 1.1)), BINS + 1))
    return Latency(
        edges=[float(f"{edge:.5g}") for edge in edges],
        histograms=[
            Histogram(
                name=name,
                counts=[int(count) for count in np.histogram(values, edges)[0]],
                samples=len(values),
                median=float(np.median(values)),
                p90=float(np.percentile(values, 90)),
            )
            for name, values in zip(names, raw, strict=False)
        ],
        noise_floor=bench.noise_floor,
        warnings=bench.warnings,
    )


def drift_of(comparison: CompareResult | None) -> list[Drift]:
    """Drift by output."""
    return [
        Drift(output=name, max_abs=one.max_abs, rel_rms=one.rel_rms, cosine=one.cosine, unequal=one.unequal)
        for name, one in (comparison.outputs.items() if comparison is not None else ())
    ]


def networks_of(parts: Cast, *, written: bool) -> list[Network]:
    """What a report says of every network.

    Args:
        parts: The networks.
        written: Whether the collapsed one is a file that stays.
    """
    networks = []
    if parts.dense is not None:
        networks.append(parts.dense.network("dense"))
    if parts.short is not None:
        network = parts.short.network("collapsed")
        networks.append(
            network
            if written
            else network.model_copy(update={"name": "with the recommended plan", "sha256": None})
        )
    networks += [other.network("other") for other in parts.others]
    if parts.scratch is not None:
        networks.append(parts.scratch.network("scratch"))
    return networks


def title_of(parts: Cast) -> str:
    """The heading of a page: architecture and data where they are recorded, else the file's name."""
    model = parts.dense or parts.short
    assert model is not None
    source = model.opened.manifest.source if model.opened.manifest is not None else None
    if source is not None and source.model:
        on = f" on {source.dataset.partition(':')[0]}" if source.dataset else ""
        return f"{source.model}{on}"
    return model.path.name


def shipped_of(accounts: Sequence[ShipResult]) -> list[Shipped]:
    """The files of the accounts that `ship` wrote."""
    return [
        Shipped(
            name=line.name,
            verdict=line.verdict,
            reason=line.reason,
            score=None if (score := line.score) is None else score.value,
            drop=None if score is None else (score.drop, score.drop_low, score.drop_high),
            speedup=None if (timed := line.latency) is None else (timed.speedup, timed.low, timed.high),
            file_bytes=line.bytes,
        )
        for account in accounts
        for line in account.files
    ]
