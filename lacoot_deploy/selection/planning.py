"""Turns a limit, a criterion and a search into a plan with the evidence for every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from lacoot_deploy.data.types import join
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.io import fingerprint
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.constant_branches import constant_cuts
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.manifest import Plan
from lacoot_deploy.runtime.evaluate import predict
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.criteria import Criterion, Distances, get_criterion, recorded_scores
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.judge import Judge
from lacoot_deploy.selection.limits import Evidence as Evidence
from lacoot_deploy.selection.limits import Limit as Limit
from lacoot_deploy.selection.limits import stop_rule
from lacoot_deploy.selection.matching import choose_form, find_block, plan_steps, refit_records
from lacoot_deploy.selection.search import Step, greedy, ranked
from lacoot_deploy.selection.variant import EXACT

Progress = Callable[[int, int, str], None]


def make_plan(
    model: onnx.ModelProto,
    blocks: Sequence[Block],
    limit: Limit,
    *,
    criterion: str | None = None,
    search: str | None = None,
    repair: str = "auto",
    refit: bool | None = None,
    form: str = "auto",
    evidence: Evidence | None = None,
    distances: Distances | None = None,
    source: Path | None = None,
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    speedup: Callable[[onnx.ModelProto], float] | None = None,
    latencies: Callable[[], Mapping[str, float]] | None = None,
) -> Plan:
    """Choose which blocks go, in which form, with which repair.

    Args:
        model: The model.
        blocks: Its blocks, from discovery.
        limit: How far to go.
        criterion: Name of a criterion; by default `loss` with labels, `output` with data but no labels, else the
            best recorded distance.
        search: `ranked` or `greedy`; by default `greedy` where the criterion tries removals, else `ranked`.
        repair: `none`, `affine`, `linear` or `auto`. Without data nothing can be fitted: `auto` is then `none`.
        refit: Whether the blocks that stay are refitted where that is a real gain; None for yes with `auto`.
        form: `auto`, `bypass` or `shortcut`.
        evidence: Samples to fit, choose and confirm by; None where none were given.
        distances: Recorded distances by block name.
        source: The model's file.
        provider: Execution provider of the trials.
        threads: CPU threads.
        seed: Seed of the random control.
        progress: Called with (done, total, what).
        speedup: Measures how many times as fast a shortened model is; needed for `min_speedup`.
        latencies: Measures the milliseconds that each block takes; needed for a criterion that weighs them.

    Raises:
        UsageError: Options that contradict each other or need data that was not given.
        NothingToCollapseError: No block can go under the limit.
    """
    if evidence is None and (repair not in ("none", "auto") or refit):
        asked = "--refit" if refit else f"--repair {repair}"
        raise UsageError(f"{asked} is fitted on data: give --data.")
    refit = repair == "auto" if refit is None else refit
    if evidence is None and (limit.max_drop or limit.max_drift or limit.min_speedup) is not None:
        raise UsageError(f"--{next(iter(limit.given())).replace('_', '-')} is measured on data: give --data.")
    candidates = _candidates(blocks, limit, form)
    folder = None if source is None else source.parent
    # With `auto` what goes for nothing goes first; a fixed repair is the user's word.
    exact = constant_cuts(model, candidates, folder) if repair == "auto" and form == "auto" else []
    if limit.lossless:
        return _plan_lossless(model, exact)
    rule = _criterion(criterion, evidence, distances, candidates, limit)
    search = search or ("greedy" if rule.trial is not None else "ranked")
    if search == "greedy" and rule.trial is None:
        raise UsageError(
            f"--search greedy scores trial removals; {rule.name!r} does not: use output or loss."
        )
    plan = Plan(
        model_sha256=fingerprint(model), criterion=rule.name, search=search, limit=limit.given(), steps=[]
    )
    if limit.blocks is not None:
        plan.criterion = plan.search = None
    if evidence is None:
        return _plan_without_data(plan, candidates, exact, limit, rule, distances or {}, form, seed)
    # Where nothing is fitted, all samples that do not confirm can choose.
    fits = repair != "none" or refit
    fit, choose = (evidence.fit, evidence.choose) if fits else (None, join(evidence.fit, evidence.choose))
    engine = Engine(model, candidates, fit, choose, source=source, provider=provider, threads=threads)
    wanted = None if form == "auto" else Form(form)
    stop = _stop(engine, limit, model, speedup)
    names = [block.name for block in candidates]
    path: list[Step]
    times: Mapping[str, float] = {}
    if rule.per_latency:
        if latencies is None:
            raise UsageError(f"The criterion {rule.name!r} needs the latency of every block to be measured.")
        times = latencies()
    if limit.blocks is not None or rule.trial is None or search == "ranked":
        if limit.blocks is not None:
            scores = {name: float(engine.place[name]) for name in names}
        elif rule.trial is not None:
            scores = {
                n: rule.trial(
                    engine.quality(engine.remove(engine.dense, [n], form=wanted, repair=_plain(repair)))
                )
                for n in names
            }
        else:
            scores = recorded_scores(rule, names, distances or {}, seed=seed)
        if limit.max_distance is not None:
            scores = {n: s for n, s in scores.items() if s <= limit.max_distance}
            if not scores:
                raise _nothing(f"no block has a distance of at most {limit.max_distance}")
        path = ranked(
            engine,
            scores,
            exact=exact,
            repair=repair,
            refit=refit,
            form=wanted,
            stop=stop,
            progress=progress,
        )
    else:
        path = greedy(
            engine,
            names,
            rule,
            exact=exact,
            repair=repair,
            refit=refit,
            form=wanted,
            stop=stop,
            latencies=times,
            progress=progress,
        )
    return _confirmed(plan, engine, path, limit, evidence, model, source, provider, threads)


def _plain(repair: str) -> str:
    return "affine" if repair == "auto" else repair


def _candidates(blocks: Sequence[Block], limit: Limit, form: str) -> list[Block]:
    if limit.blocks is not None:
        chosen = [find_block(name, blocks) for name in dict.fromkeys(limit.blocks)]
        for block in chosen:
            choose_form(block, form)
        if not chosen:
            raise UsageError("--blocks names no block.")
        return chosen
    able = [b for b in blocks if b.collapsible and not b.scope and (form == "auto" or Form(form) in b.forms)]
    if not able:
        raise _nothing("the model has no block that can go" + ("" if form == "auto" else f" as {form}"))
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
        rule = get_criterion("loss" if evidence.choose.labels is not None else "output")
    else:
        known = [distances.get(block.name, {}) for block in blocks] if distances else []
        rule = get_criterion("paired" if any("paired" in d for d in known) else "mswd")
    if limit.max_distance is not None and rule.distance is None:
        raise UsageError(f"--max-distance needs a criterion that is a distance, not {rule.name!r}.")
    if rule.labels and (evidence is None or evidence.choose.labels is None):
        raise UsageError(f"The criterion {rule.name!r} needs labelled data.")
    return rule


def _plan_lossless(model: onnx.ModelProto, exact: Sequence[Cut]) -> Plan:
    if not exact:
        raise _nothing("no block's branch is the same for every input")
    steps = plan_steps(exact, [{"lossless": True} for _ in exact])
    evidence = {"measured": False, "lossless": True}
    return Plan(model_sha256=fingerprint(model), limit={"lossless": True}, steps=steps, evidence=evidence)


def _plan_without_data(
    plan: Plan,
    candidates: list[Block],
    exact: Sequence[Cut],
    limit: Limit,
    rule: Criterion,
    distances: Distances,
    form: str,
    seed: int,
) -> Plan:
    evidence: list[dict[str, Any]]
    if limit.blocks is not None:
        chosen, evidence = candidates, [{"chosen_by": "user"} for _ in candidates]
    else:
        scores = recorded_scores(rule, [block.name for block in candidates], distances, seed=seed)
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
        evidence = [{"criterion": rule.name, "score": scores[block.name]} for block in chosen]
    known = {cut.block.name: cut for cut in exact}
    cuts = [known.get(block.name, Cut(block, choose_form(block, form))) for block in chosen]
    for cut, note in zip(cuts, evidence, strict=True):
        if cut.block.name in known:
            note["lossless"] = True
    plan.steps = plan_steps(cuts, evidence)
    plan.evidence = {"measured": False}
    return plan


def _stop(
    engine: Engine,
    limit: Limit,
    model: onnx.ModelProto,
    speedup: Callable[[onnx.ModelProto], float] | None,
) -> Callable[[Step], bool]:
    rule = stop_rule(limit, engine.quality(engine.dense))

    def stop(step: Step) -> bool:
        measure = None if speedup is None else lambda: speedup(collapse_blocks(model, step.cuts))
        return rule(step.quality, measure)

    return stop


def _confirmed(
    plan: Plan,
    engine: Engine,
    path: list[Step],
    limit: Limit,
    evidence: Evidence,
    model: onnx.ModelProto,
    source: Path | None,
    provider: str,
    threads: int | None,
) -> Plan:
    """Take the deepest step that keeps the limit on the choosing samples and again on the confirming ones."""

    def outputs(cuts: Sequence[Cut], refits: Sequence[Refit] = ()) -> dict[str, NDArray[Any]]:
        folder = None if source is None else source.parent
        network = collapse_blocks(model, cuts, refits, folder=folder) if cuts else model
        session = open_session(
            network, provider=provider, threads=threads, source=source, label="The plan's model"
        )
        return predict(session, evidence.confirm)

    judge = Judge.of(outputs([]), evidence.confirm)
    dense_choose, dense_confirm = engine.quality(engine.dense), judge.judge(judge.dense)
    depth = len(path)
    if limit.min_speedup is not None and not path:
        raise _nothing("there is no block to remove")
    while depth:
        step = path[depth - 1]
        keeps = limit.keeps(dense_choose, step.quality)
        if keeps:
            after = outputs(step.cuts, step.refits)
            confirmed = judge.judge(after)
            if limit.keeps(dense_confirm, confirmed):
                break
        depth -= 1
    if not depth:
        raise _nothing("removing even one block exceeds the limit on the confirming samples")
    chosen = path[:depth]
    order = {step.block: i for i, step in enumerate(chosen)}
    cuts = sorted(chosen[-1].cuts, key=lambda cut: order[cut.block.name])
    plan.steps = plan_steps(
        cuts,
        [
            {
                "score": step.score,
                "repair": step.repair,
                **({"lossless": True} if step.repair == EXACT else {}),
                "after_this_step": step.quality.record(),
            }
            for step in chosen
        ],
    )
    plan.refits = refit_records(chosen[-1].refits)
    plan.evidence = {
        "measured": True,
        "data": evidence.choose.description,
        "fit_samples": len(engine.fit_samples),
        "choose_samples": len(engine.judge_samples),
        "judged_by": confirmed.score_name if confirmed.score is not None else "drift",
        "choosing": {"dense": dense_choose.record(), "collapsed": chosen[-1].quality.record()},
        "confirming": {
            "dense": dense_confirm.record(),
            "collapsed": confirmed.record(),
            **judge.drop(after),
        },
    }
    return plan


def _nothing(why: str) -> NothingToCollapseError:
    return NothingToCollapseError(f"Nothing can be collapsed: {why}.")
