"""Turns a limit, a criterion and a search into a plan with the evidence for every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from lacoot_deploy.data.types import join
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.io import fingerprint
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.constant_branches import constant_cuts
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.manifest import Plan, PlanEvidence, StepEvidence
from lacoot_deploy.progress import Progress
from lacoot_deploy.selection.confirming import Confirming
from lacoot_deploy.selection.criteria import Criterion, Distances, get_criterion, recorded_scores
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.findings import Found, quality_record
from lacoot_deploy.selection.limits import Evidence as Evidence
from lacoot_deploy.selection.limits import Limit as Limit
from lacoot_deploy.selection.limits import LimitRule, Verdict
from lacoot_deploy.selection.matching import (
    choose_form,
    named_blocks,
    plan_steps,
    reason_counts,
    refit_records,
)
from lacoot_deploy.selection.options import DEFAULTS, SearchOptions
from lacoot_deploy.selection.search import Step, greedy, ranked
from lacoot_deploy.selection.trials import ANYWHERE, Trials
from lacoot_deploy.selection.variant import EXACT
from lacoot_deploy.tasks.belief import require_belief, try_labels


def make_plan(
    model: onnx.ModelProto,
    blocks: Sequence[Block],
    limit: Limit,
    options: SearchOptions = DEFAULTS,
    *,
    evidence: Evidence | None = None,
    distances: Distances | None = None,
    trials: Trials = ANYWHERE,
    progress: Progress | None = None,
) -> Plan:
    """Choose which blocks go, in which form, with which repair.

    Args:
        model: The model.
        blocks: Its blocks, from discovery.
        limit: How far to go.
        options: What ranks the blocks, and what is put in their place.
        evidence: Samples to fit, choose and confirm by; None where none were given.
        distances: Recorded distances by block name.
        trials: Where trial runs happen, and what times them.
        progress: Called with (done, total, what).

    Raises:
        UsageError: Options that contradict each other or need data that was not given.
        NothingToCollapseError: No block can go under the limit.
    """
    distances = distances or {}
    _check(limit, options, evidence)
    candidates = _candidates(blocks, limit, options)
    # With `auto` what goes for nothing goes first; a fixed repair is the user's word.
    auto = options.repair == "auto" and options.form == "auto"
    exact = constant_cuts(model, candidates, trials.folder) if auto else []
    if limit.lossless:
        return _plan_lossless(model, exact)
    criterion = _criterion(options.criterion, evidence, distances, candidates, limit)
    search = options.search or ("greedy" if criterion.trial is not None else "ranked")
    if search == "greedy" and criterion.trial is None:
        raise UsageError(
            f"--search greedy scores trial removals; {criterion.name!r} does not: use output or loss."
        )
    plan = Plan(
        model_sha256=fingerprint(model),
        criterion=criterion.name,
        search=search,
        limit=limit.given(),
        steps=[],
    )
    if limit.blocks is not None:
        plan.criterion = plan.search = None
    if evidence is None:
        return _plan_without_data(plan, candidates, exact, limit, _Ranking(criterion, distances, options))
    engine, options = _engine(model, candidates, evidence, options, trials)
    public = [name for name in engine.judged if name in engine.network.outputs]
    belief = try_labels(
        engine.judge, engine.judge_samples, run=lambda some: trials.outputs(model, some, public)
    )
    require_belief(belief, trust=evidence.task.trust_labels, source=evidence.choose.description)
    plan.task = engine.judge.task.record()
    confirming = Confirming(engine, evidence.confirm, trials)
    rule = LimitRule(limit, engine.quality(engine.dense))

    def stop(step: Step) -> bool:
        measure = trials.speedup
        timed = None if measure is None else lambda: measure(collapse_blocks(model, step.cuts))
        return rule.step(step.quality, timed).ends

    times = _latencies(criterion, trials)
    if criterion.trial is not None and search == "greedy" and limit.blocks is None:
        names = list(engine.place)
        path = greedy(
            engine, names, criterion, options, exact=exact, stop=stop, latencies=times, progress=progress
        )
    else:
        scores = _scores(engine, limit, _Ranking(criterion, distances, options), times)
        path = ranked(engine, scores, options, exact=exact, stop=stop, progress=progress)
    plan = _confirmed(plan, engine, path, rule, evidence, confirming)
    plan.evidence.belief = belief.record()
    if trials.timed is not None and (criterion.per_latency or limit.min_speedup is not None):
        plan.evidence.timed = dict(trials.timed())
    return plan


def _engine(
    model: onnx.ModelProto,
    candidates: Sequence[Block],
    evidence: Evidence,
    options: SearchOptions,
    trials: Trials,
) -> tuple[Engine, SearchOptions]:
    """The engine, and the options that it is searched with.

    Where nothing is fitted, all samples that do not confirm can choose. So it is with `auto`, too, where no repair can
    show that it helps: the task says that costs do not tell, and there are no labels to score by.
    """
    fits = options.repair != "none" or options.refits
    fit, choose = (evidence.fit, evidence.choose) if fits else (None, join(evidence.fit, evidence.choose))
    engine = Engine(model, candidates, fit, choose, source=trials.source, runtime=trials.runtime)
    engine.task = evidence.task
    shows = engine.judge.task.costs_tell or engine.judge.labels
    if options.repair == "auto" and not options.refit and not shows:
        return _engine(model, candidates, evidence, replace(options, repair="none", refit=False), trials)
    return engine, options


@dataclass(frozen=True)
class _Ranking:
    """What puts blocks in order: a criterion, and the distances that are recorded."""

    rule: Criterion
    distances: Distances
    options: SearchOptions

    def recorded(self, names: list[str]) -> dict[str, float]:
        """Scores of the blocks that have one without any trial."""
        return recorded_scores(self.rule, names, self.distances, seed=self.options.seed)


def _check(limit: Limit, options: SearchOptions, evidence: Evidence | None) -> None:
    """Refuse what needs data where there is none."""
    if evidence is not None:
        return
    if options.repair not in ("none", "auto") or options.refit:
        asked = "--refit" if options.refit else f"--repair {options.repair}"
        raise UsageError(f"{asked} is fitted on data: give --data.")
    if (limit.max_drop or limit.max_drift or limit.min_speedup) is not None:
        raise UsageError(f"--{next(iter(limit.given())).replace('_', '-')} is measured on data: give --data.")


def _latencies(rule: Criterion, trials: Trials) -> Mapping[str, float]:
    """Milliseconds by block, where the criterion weighs them."""
    if not rule.per_latency:
        return {}
    if trials.latencies is None:
        raise UsageError(f"The criterion {rule.name!r} needs the latency of every block to be measured.")
    return trials.latencies()


def _scores(
    engine: Engine, limit: Limit, ranking: _Ranking, latencies: Mapping[str, float]
) -> dict[str, float]:
    """A fixed score for every block that may go."""
    names, rule, options = list(engine.place), ranking.rule, ranking.options
    if limit.blocks is not None:
        return {name: float(engine.place[name]) for name in names}
    if rule.trial is None:
        scores = ranking.recorded(names)
    else:
        repair = "affine" if options.repair == "auto" else options.repair
        dense, scores = engine.quality(engine.dense), {}
        for name in names:
            alone = engine.remove(engine.dense, [name], form=options.wanted, repair=repair)
            scores[name] = rule.score(dense, engine.quality(alone), latencies.get(name))
    if limit.max_distance is not None:
        scores = {name: score for name, score in scores.items() if score <= limit.max_distance}
        if not scores:
            raise _nothing(f"no block has a distance of at most {limit.max_distance}")
    return scores


def _candidates(blocks: Sequence[Block], limit: Limit, options: SearchOptions) -> list[Block]:
    form = options.form
    if limit.blocks is not None:
        chosen = named_blocks(limit.blocks, blocks)
        for block in chosen:
            choose_form(block, form)
        if not chosen:
            raise UsageError("--blocks names no block.")
        return chosen
    able = [b for b in blocks if b.collapsible and not b.scope and (form == "auto" or Form(form) in b.forms)]
    if not able:
        what = "the model has no block that can go" + ("" if form == "auto" else f" as {form}")
        raise _nothing(what + reason_counts(blocks))
    if limit.count is not None and not 1 <= limit.count <= len(able):
        raise NothingToCollapseError(
            f"--count {limit.count} is not possible: {len(able)} blocks of this model can go."
        )
    return able


def _criterion(
    name: str | None,
    evidence: Evidence | None,
    distances: Distances | None,
    blocks: list[Block],
    limit: Limit,
) -> Criterion:
    if name is not None:
        rule = get_criterion(name)
    elif limit.max_distance is not None:
        rule = get_criterion("mswd")
    elif evidence is not None:
        rule = get_criterion("loss" if evidence.labelled else "output")
    else:
        known = [distances.get(block.name, {}) for block in blocks] if distances else []
        rule = get_criterion("paired" if any("paired" in d for d in known) else "mswd")
    if limit.max_distance is not None and rule.distance is None:
        raise UsageError(f"--max-distance needs a criterion that is a distance, not {rule.name!r}.")
    if rule.labels and (evidence is None or not evidence.labelled):
        raise UsageError(f"The criterion {rule.name!r} needs labelled data.")
    return rule


def _plan_lossless(model: onnx.ModelProto, exact: Sequence[Cut]) -> Plan:
    if not exact:
        raise _nothing("no block's branch is the same for every input")
    steps = plan_steps(exact, [StepEvidence(lossless=True) for _ in exact])
    evidence = PlanEvidence(measured=False, lossless=True)
    return Plan(model_sha256=fingerprint(model), limit={"lossless": True}, steps=steps, evidence=evidence)


def _plan_without_data(
    plan: Plan,
    candidates: list[Block],
    exact: Sequence[Cut],
    limit: Limit,
    ranking: _Ranking,
) -> Plan:
    rule, form = ranking.rule, ranking.options.form
    evidence: list[StepEvidence]
    if limit.blocks is not None:
        chosen, evidence = candidates, [StepEvidence(chosen_by="user") for _ in candidates]
    else:
        scores = ranking.recorded([block.name for block in candidates])
        chosen = sorted((b for b in candidates if b.name in scores), key=lambda block: scores[block.name])
        if limit.count is not None:
            if limit.count > len(chosen):
                raise NothingToCollapseError(
                    f"--count {limit.count} is not possible: only {len(chosen)} blocks have a recorded "
                    f"{rule.name!r} distance; give --data to rank the others too."
                )
            chosen = chosen[: limit.count]
        elif limit.max_distance is not None:
            chosen = [block for block in chosen if scores[block.name] <= limit.max_distance]
            if not chosen:
                raise _nothing(f"no block has a distance of at most {limit.max_distance}")
        evidence = [StepEvidence(criterion=rule.name, score=scores[block.name]) for block in chosen]
    known = {cut.block.name: cut for cut in exact}
    cuts = [known.get(block.name, Cut(block, choose_form(block, form))) for block in chosen]
    for cut, note in zip(cuts, evidence, strict=True):
        if cut.block.name in known:
            note.lossless = True
    plan.steps = plan_steps(cuts, evidence)
    plan.evidence = PlanEvidence(measured=False)
    return plan


def _confirmed(
    plan: Plan,
    engine: Engine,
    path: list[Step],
    rule: LimitRule,
    evidence: Evidence,
    confirming: Confirming,
) -> Plan:
    """Take the deepest step that keeps the limit on the choosing samples and again on the confirming ones."""
    rule.require()
    judge = confirming.judge
    dense = judge.judge(judge.dense)
    for depth in range(len(path), 0, -1):
        last = path[depth - 1]
        if rule.ceiling(last.quality) is Verdict.WITHIN:
            outputs = confirming.outputs(last.cuts, last.refits)
            if rule.ceiling(judge.judge(outputs), dense) is Verdict.WITHIN:
                break
    else:
        raise rule.nothing()
    # A block that went with a larger one later is no step of its own.
    standing = {cut.block.name for cut in last.cuts}
    chosen = [step for step in path[:depth] if step.block in standing]
    order = {step.block: i for i, step in enumerate(chosen)}
    cuts = sorted(last.cuts, key=lambda cut: order[cut.block.name])
    plan.steps = plan_steps(cuts, [_evidence(step) for step in chosen])
    plan.refits = refit_records(last.refits)
    plan.evidence = Found(
        evidence,
        len(engine.fit_samples),
        len(engine.judge_samples),
        (rule.dense, last.quality),
        judge,
        outputs,
    ).evidence()
    return plan


def _evidence(step: Step) -> StepEvidence:
    found = StepEvidence(score=step.score, repair=step.repair, after_this_step=quality_record(step.quality))
    if step.repair == EXACT:
        found.lossless = True
    return found


def _nothing(why: str) -> NothingToCollapseError:
    return NothingToCollapseError(f"Nothing can be collapsed: {why}.")
