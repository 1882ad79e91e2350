"""Searches: the order in which blocks go, with the quality of the network after each removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.progress import Progress
from lacoot_deploy.selection.criteria import Criterion
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.judge import Quality
from lacoot_deploy.selection.options import DEFAULTS, SearchOptions
from lacoot_deploy.selection.variant import EXACT, Variant

AUTO_REPAIRS = ("none", "affine", "linear")
"""Cheapest first: what `auto` chooses from."""

REAL_GAIN = 0.05
"""A dearer repair must win back this share of what the cheaper one leaves lost, on samples it was not fitted on."""

Z_REAL = 1.0
"""And its mean gain must be this many standard errors above zero. Maps are regularised towards doing nothing, so that a
gain is likelier than not before anything is measured: asking for two errors kept out maps that help (a post-norm
transformer with eight of sixteen units gone: 92.2 % with two errors, 94.2 % with one, judged on 143 samples)."""

Z_FREE = 0.0
"""A refit adds nothing to run: its gain need only be likelier than not."""


@dataclass(frozen=True)
class Step:
    """One removal along a path.

    Attributes:
        block: The block that went.
        score: The criterion's score that chose it.
        repair: The kind of repair that its removal got.
        quality: The network after this step, on the judging samples.
        cuts: What makes this network out of the model, in graph order.
        refits: Maps folded into the blocks that stay, likewise.
    """

    block: str
    score: float
    repair: str
    quality: Quality
    cuts: tuple[Cut, ...]
    refits: tuple[Refit, ...] = ()


Stop = Callable[[Step], bool]


def lossless(engine: Engine, exact: Sequence[Cut], stop: Stop) -> tuple[list[Step], Variant, bool]:
    """Remove the blocks that go for nothing, before any search.

    Args:
        engine: The network and its samples.
        exact: Cuts that change no output.
        stop: As for the searches.

    Returns:
        The steps, the network after them, and whether to stop there.
    """
    path: list[Step] = []
    current = engine.dense
    for cut in exact:
        if cut.block.name in engine.gone(current):
            continue
        current = engine.remove_exactly(current, cut)
        path.append(_step(engine, current, cut.block.name, 0.0, EXACT))
        if stop(path[-1]):
            return path, current, True
    return path, current, False


def ranked(
    engine: Engine,
    scores: Mapping[str, float],
    options: SearchOptions = DEFAULTS,
    *,
    exact: Sequence[Cut] = (),
    stop: Stop,
    progress: Progress | None = None,
) -> list[Step]:
    """Remove blocks in ascending order of a fixed score (LaCoOT's way), until `stop` says so.

    Args:
        engine: The network and its samples.
        scores: Score by block name; these blocks may go.
        options: The repair, the form, and whether blocks that stay are refitted after each removal.
        exact: Cuts that change no output; they go first.
        stop: Whether to end after a step; that step is part of the path.
        progress: Called with (done, total, what).

    Returns:
        The steps in order; empty where no block may go.
    """
    path, current, done = lossless(engine, exact, stop)
    if done:
        return path
    gone = {step.block for step in path}
    for name in sorted(scores.keys() - gone, key=lambda n: (scores[n], engine.place[n])):
        if name in engine.gone(current):
            continue
        if progress is not None:
            progress(len(path), len(scores), "removing in ranked order")
        kind, current = _try(engine, current, name, options)
        path.append(_step(engine, current, name, scores[name], kind))
        if stop(path[-1]):
            break
    return path


def greedy(
    engine: Engine,
    names: Sequence[str],
    criterion: Criterion,
    options: SearchOptions = DEFAULTS,
    *,
    exact: Sequence[Cut] = (),
    stop: Stop,
    latencies: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> list[Step]:
    """Try every block that is left after each removal, repairs refitted, and let the cheapest go.

    Args:
        engine: The network and its samples.
        names: The blocks that may go.
        criterion: A trial criterion: its score chooses.
        options: The repair, the form, and whether blocks that stay are refitted after each removal.
        exact: Cuts that change no output; they go first.
        stop: Whether to end after a step; that step is part of the path.
        latencies: Milliseconds that each block takes, for a criterion that weighs them.
        progress: Called with (done, total, what).

    Returns:
        The steps in order; empty where no block may go.
    """
    path, current, done = lossless(engine, exact, stop)
    if done:
        return path
    left = [name for name in names if name not in engine.gone(current)]
    trials, total = 0, len(left) * (len(left) + 1) // 2
    # Candidates are compared with one map each; which map the chosen one really gets is decided for it alone.
    repair = options.repair
    if repair == "auto":
        repair = AUTO_REPAIRS[-1] if engine.judge.task.costs_tell else AUTO_REPAIRS[0]
    before, last = engine.quality(current), dict[str, float]()
    while left:
        trial = _Trial(engine, current, before, criterion, options, repair, latencies or {})
        best: tuple[float, int, str] | None = None
        # The likely best goes first, so that the others can be given up early; before anything is known, that which
        # has the least behind it.
        for name in sorted(left, key=lambda n: (last.get(n, np.inf), -engine.place[n])):
            if progress is not None:
                progress(trials, total, "searching greedily")
            trials += 1
            score = trial.score(name, None if best is None else best[0])
            if np.isfinite(score):
                last[name] = score
            entry = (score, engine.place[name], name)
            best = entry if best is None else min(best, entry)
        assert best is not None
        name = best[2]
        kind, current = _try(engine, current, name, options)
        path.append(_step(engine, current, name, best[0], kind))
        before = path[-1].quality
        gone = engine.gone(current)
        left = [other for other in left if other not in gone]
        if options.repair == "auto" and (kind != "none" or not engine.shares_map(current, name)):
            repair = kind
        if stop(path[-1]):
            break
    return path


@dataclass(frozen=True)
class _Trial:
    """Removals on trial from one network: what each would score."""

    engine: Engine
    current: Variant
    before: Quality
    criterion: Criterion
    options: SearchOptions
    repair: str
    latencies: Mapping[str, float]

    def _repair(self, name: str) -> str:
        return affordable(self.engine, name, self.repair) if self.options.repair == "auto" else self.repair

    def score(self, name: str, bound: float | None) -> float:
        """The criterion's score without the block; infinite as soon as it is sure to be above the bound."""
        if self.criterion.costs is not None:
            costs = self.engine.trial(
                self.current,
                [name],
                form=self.options.wanted,
                repair=self._repair(name),
                labels=self.criterion.costs == "loss",
                bound=bound,
            )
            return np.inf if costs is None else float(costs.mean())
        variant = self.engine.remove(
            self.current, [name], form=self.options.wanted, repair=self._repair(name)
        )
        return self.criterion.score(self.before, self.engine.quality(variant), self.latencies.get(name))


def _step(engine: Engine, variant: Variant, name: str, score: float, kind: str) -> Step:
    cuts, refits = tuple(engine.cuts(variant)), tuple(engine.refits(variant))
    return Step(name, score, kind, engine.quality(variant), cuts, refits)


@dataclass(frozen=True)
class _Candidate:
    """One way to remove a block, with what the network then gives and what each sample costs."""

    kind: str
    variant: Variant
    outputs: Mapping[str, NDArray[Any]]
    costs: NDArray[np.float64]

    @classmethod
    def of(cls, engine: Engine, kind: str, variant: Variant) -> _Candidate:
        """The candidate of a variant."""
        outputs = engine.gather(variant)
        return cls(kind, variant, outputs, engine.judge.costs(outputs))


def _try(engine: Engine, current: Variant, name: str, options: SearchOptions) -> tuple[str, Variant]:
    """Remove one block with the repair asked for, or with the cheapest that no dearer one really improves on."""
    kinds = [options.repair]
    if options.repair == "auto":
        kinds = [kind for kind in AUTO_REPAIRS if kind == affordable(engine, name, kind)]
    dense = engine.judge.costs(engine.judge.dense)

    def removed(kind: str) -> _Candidate:
        variant = engine.remove(current, [name], form=options.wanted, repair=kind)
        return _Candidate.of(engine, kind, variant)

    best = removed(kinds[0])
    for dearer in kinds[1:]:
        other = removed(dearer)
        if _improves(engine, best, other, dense):
            best = other
    if options.refits:
        other = _Candidate.of(engine, best.kind, engine.refit(best.variant))
        told = engine.judge.task.costs_tell or bool(options.refit)
        if _improves(engine, best, other, dense, errors=Z_FREE, share=0, told=told):
            best = other
    return best.kind, best.variant


def affordable(engine: Engine, name: str, repair: str) -> str:
    """The repair that `auto` fits where this one is the next to try: no map across channels from too few values."""
    return "affine" if repair == "linear" and not engine.suffices(name) else repair


def _improves(
    engine: Engine,
    cheap: _Candidate,
    dear: _Candidate,
    dense: NDArray[np.float64],
    *,
    errors: float = Z_REAL,
    share: float = REAL_GAIN,
    told: bool | None = None,
) -> bool:
    """Whether the dearer candidate is better: by the costs, unless the score that limits speak of surely says no.

    Costs are finer than a score, but a repair can lower them and make the score worse. Where the score differs by more
    than chance (its paired 95 % interval leaves out zero) it decides.

    Args:
        engine: The search.
        cheap: The candidate so far.
        dear: The other one.
        dense: Costs of the dense network.
        errors: As for `is_real_gain`.
        share: As for `is_real_gain`.
        told: Whether lower costs are worth something as such; None for what the task says.
    """
    told = engine.judge.task.costs_tell if told is None else told
    if not np.isfinite(dear.costs).all():
        return False
    if not np.isfinite(cheap.costs).all():
        return True
    score = engine.judge.worse_by(cheap.outputs, dear.outputs)
    if score.low > 0:
        return False
    if score.high < 0:
        return True
    return told and is_real_gain(cheap.costs, dear.costs, dense, errors=errors, share=share)


def is_real_gain(
    cheap: NDArray[np.float64],
    dear: NDArray[np.float64],
    dense: NDArray[np.float64],
    *,
    errors: float = Z_REAL,
    share: float = REAL_GAIN,
) -> bool:
    """Whether the dearer repair's costs on unseen samples are lower by more than chance and by enough to matter.

    Args:
        cheap: Cost per sample with the cheaper repair, [N].
        dear: The same with the dearer one.
        dense: The same of the dense network.
        errors: How many standard errors the mean gain must be above zero.
        share: How much of what the cheaper one leaves lost it must win back.
    """
    if not np.isfinite(dear).all():
        return False
    if not np.isfinite(cheap).all():
        return True
    gain = cheap - dear
    error = float(gain.std()) / max(len(gain) - 1, 1) ** 0.5
    harm = max(float((cheap - dense).mean()), 0.0)
    return bool(gain.mean() > max(errors * error, share * harm, 0.0))
