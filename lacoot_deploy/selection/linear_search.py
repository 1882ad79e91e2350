"""Chooses activations to make linear: one after the other, each fitted anew, confirmed on data that did not choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from lacoot_deploy.errors import InputError, NothingToCollapseError, UsageError
from lacoot_deploy.graph.linear import Activation, Code, Linearisation
from lacoot_deploy.manifest import ArrayRecord, LineariseRecord, PlanEvidence, StepEvidence
from lacoot_deploy.progress import Progress
from lacoot_deploy.selection.findings import Found, quality_record
from lacoot_deploy.selection.judge import Judge, Quality
from lacoot_deploy.selection.limits import Evidence, LimitRule, Verdict
from lacoot_deploy.selection.linear_network import Items, LinearNetwork

Finish = Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclass(frozen=True)
class LinearStep:
    """One activation that became linear along a path.

    Attributes:
        name: The activation.
        score: The criterion's score that chose it; None where the user did.
        quality: The network after this step, on the choosing samples.
        items: What makes this network out of the model, in the order chosen.
    """

    name: str
    score: float | None
    quality: Quality
    items: Items


def candidates(
    activations: Sequence[Activation], *, every: bool, merge: str, inexact: bool
) -> list[Activation]:
    """The activations that a search may choose from.

    Args:
        activations: All of a model's.
        every: Whether to take all of them, whether or not anything merges.
        merge: Which merges are wanted; with `cheaper` only those count that are counted to be.
        inexact: Whether merges that change the border count.

    Raises:
        NothingToCollapseError: There is none; the message says why.
    """
    if every:
        found = list(activations)
    else:
        found = [
            a for a in activations if _merges(a, inexact) and (merge != "cheaper" or a.pays is not False)
        ]
    if found:
        return found
    if not activations:
        raise NothingToCollapseError("Nothing can be made linear: the model has no activation.")
    able = sum(_merges(activation, inexact) for activation in activations)
    what = (
        f"of {len(activations)} activations {able} would merge exactly, and none into fewer multiply-adds"
        if able
        else f"none of {len(activations)} activations stands between operators that merge exactly"
    )
    raise NothingToCollapseError(
        f"Nothing can be made linear for a gain: {what}. See `inspect --activations`, or give --linearise all."
    )


_BORDER = (Code.BORDER_BIAS.value, Code.BORDER_WINDOW.value)


def _merges(activation: Activation, inexact: bool) -> bool:
    border = activation.reason is not None and activation.reason.code in _BORDER
    return activation.merges or (inexact and border)


def search(
    network: LinearNetwork,
    able: Sequence[Activation],
    rule: LimitRule,
    *,
    criterion: str,
    greedy: bool,
    speedup: Callable[[onnx.ModelProto], float] | None = None,
    progress: Progress | None = None,
) -> list[LinearStep]:
    """Make activations linear one by one until the limit is reached; the step that exceeds it is the last.

    Args:
        network: The network and its samples.
        able: The activations to choose from.
        rule: How far to go.
        criterion: What scores them.
        greedy: Whether to score again after every step; else the first order holds.
        speedup: Measures how many times as fast a network is; needed for `min_speedup`.
        progress: Called with (done, total, what).

    Raises:
        NothingToCollapseError: Fewer activations than asked for can be made linear.
    """
    limit = rule.limit
    if limit is not None and limit.count is not None and limit.count > len(able):
        raise NothingToCollapseError(
            f"--count {limit.count} is not possible: {len(able)} activations can be made linear for a gain; "
            f"--linearise all takes the others too."
        )
    path: list[LinearStep] = []
    items: Items = ()
    left = list(able)
    scores: dict[str, float] = {}
    last: dict[str, float] = {}
    while left:
        if greedy or not path:
            scores = network.scores(
                criterion,
                items,
                left,
                # Where they are scored again anyway, those that are sure not to be next need no whole score.
                last=last if greedy else None,
                progress=_part(progress, len(path), len(able), "scoring activations"),
            )
        if progress is not None:
            progress(len(path), len(able), "making activations linear")
        left = [activation for activation in left if activation.name in scores]
        if not left:
            break
        best = min(left, key=lambda activation: (scores[activation.name], network.place[activation.name]))
        # A score that was given up says less than the one before.
        last |= {name: score for name, score in scores.items() if np.isfinite(score)}
        left.remove(best)
        items = extended(network, items, best)
        path.append(LinearStep(best.name, scores[best.name], network.quality(items), items))
        if rule.step(
            path[-1].quality, None if speedup is None else partial(speedup, network.network(items))
        ).ends:
            break
    return path


def _part(progress: Progress | None, step: int, total: int, what: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, count: progress(step * count + done, total * count, what)


def extended(network: LinearNetwork, items: Items, activation: Activation) -> Items:
    """The items with one more, its map fitted, and the maps behind it fitted to what they are fed now."""
    made = network.maps(items, [activation]).get(activation.name, Linearisation(activation))
    items = (*items, made)
    behind = [
        item.activation
        for item in items
        if item.slope is not None and network.place[item.activation.name] > network.place[activation.name]
    ]
    if not behind:
        return items
    fitted = network.maps(items, behind)
    return tuple(fitted.get(item.activation.name, item) for item in items)


def chosen_by_user(network: LinearNetwork, wanted: Sequence[Activation]) -> list[LinearStep]:
    """The named activations, made linear in graph order."""
    path: list[LinearStep] = []
    items: Items = ()
    for activation in sorted(wanted, key=lambda entry: network.place[entry.name]):
        items = extended(network, items, activation)
        path.append(LinearStep(activation.name, None, network.quality(items), items))
    return path


def confirm(
    network: LinearNetwork,
    path: Sequence[LinearStep],
    rule: LimitRule | None,
    evidence: Evidence,
    *,
    finish: Finish,
) -> tuple[list[LinearStep], PlanEvidence]:
    """Take the deepest step that keeps the limit on the choosing samples and, merged, again on the confirming ones.

    Args:
        network: The network and its samples.
        path: The steps of a search.
        rule: How far to go, as the search was ended by it; None where the user chose, so that nothing is taken back.
        evidence: The samples with their roles.
        finish: Merges a network into what will be written.

    Returns:
        The steps that stay, and what was measured, as a plan's evidence.

    Raises:
        NothingToCollapseError: Even the first step exceeds the limit.
    """
    rule = rule or LimitRule(None, network.dense, thing="activation")
    rule.require()
    trials = network.trials
    judge = Judge.of(trials.outputs(network.reference, evidence.confirm), evidence.confirm, network.task)
    dense = judge.judge(judge.dense)
    for depth in range(len(path), 0, -1):
        step = path[depth - 1]
        if rule.ceiling(step.quality) is not Verdict.WITHIN:
            continue
        outputs = trials.outputs(finish(network.network(step.items)), evidence.confirm)
        if rule.ceiling(judge.judge(outputs), dense) is Verdict.WITHIN:
            fitted = 0 if network.fit_samples is None else len(network.fit_samples)
            chose = len(network.choose_samples)
            choosing = (network.dense, step.quality)
            return list(path[:depth]), Found(evidence, fitted, chose, choosing, judge, outputs).evidence()
    raise rule.nothing()


def linearise_records(path: Sequence[LinearStep]) -> list[LineariseRecord]:
    """The records of the last step's network for a plan, with the evidence of every step."""
    if not path:
        return []
    items = {item.activation.name: item for item in path[-1].items}
    return [
        record_of(
            items[step.name],
            StepEvidence(
                **({"chosen_by": "user"} if step.score is None else {"score": step.score}),
                after_this_step=quality_record(step.quality),
            ),
        )
        for step in path
    ]


def record_of(item: Linearisation, evidence: StepEvidence) -> LineariseRecord:
    """The record of one activation that becomes linear."""
    return LineariseRecord(
        activation=item.activation.name,
        input=item.activation.input,
        output=item.activation.output,
        slope=None if item.slope is None else ArrayRecord.pack(item.slope),
        intercept=None if item.intercept is None else ArrayRecord.pack(item.intercept),
        evidence=evidence,
    )


def resolve_linearised(
    records: Sequence[LineariseRecord], activations: Sequence[Activation]
) -> list[Linearisation]:
    """The activations of a model that records stand for: by the value behind them, else by name.

    Raises:
        InputError: One is not in the model, or is named twice.
    """
    by_output = {activation.output: activation for activation in activations}
    by_name = {activation.name: activation for activation in activations}
    found: list[Linearisation] = []
    for record in records:
        activation = by_output.get(record.output) or by_name.get(record.activation)
        if activation is None:
            raise InputError(
                f"The plan makes {record.activation!r} linear, which this model does not have (linear already?)."
            )
        slope = None if record.slope is None else record.slope.unpack()
        intercept = None if record.intercept is None else record.intercept.unpack()
        if (slope is None) != (intercept is None):
            raise InputError(
                f"The map of {record.activation!r} in the plan has a slope or an intercept only."
            )
        found.append(Linearisation(activation, slope, intercept))
    return found


def named(names: Sequence[str], activations: Sequence[Activation]) -> list[Activation]:
    """The activations of those names, in graph order.

    Raises:
        UsageError: There is no such activation; the message suggests the nearest names.
    """
    known = {activation.name: activation for activation in activations}
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
            hint = f"Did you mean {', '.join(near)}?" if near else "It has none."
            raise UsageError(f"The model has no activation {name!r}. {hint}")
    return [activation for activation in activations if activation.name in set(names)]
