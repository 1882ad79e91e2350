"""`collapse --heal`: blocks go, then the network that is left is healed; of several plans the one that heals best."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.healing.options import DEFAULTS, HealOptions
from lacoot_deploy.healing.verdict import preferred
from lacoot_deploy.manifest import CandidateRecord, Plan, to_json
from lacoot_deploy.progress import Progress
from lacoot_deploy.selection.limits import Limit
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.workflow.collapsing import CollapseRequest, CollapseResult, run_collapse
from lacoot_deploy.workflow.healing_files import HealRequest, HealResult, run_heal
from lacoot_deploy.workflow.inspecting import open_model

SHORT = 0.2
"""A candidate is healed for that share of the steps."""


class HealedCollapse(CollapseResult):
    """What `collapse --heal --json` prints: what `collapse` does, and what healing was worth.

    Attributes:
        healing: The healing; its `output` is the file that was written.
    """

    healing: HealResult


@dataclass(frozen=True)
class HealAfter:
    """How a network is healed after its blocks have gone.

    Attributes:
        options: How to heal.
        candidates: How many plans are tried; 1 for the search's alone.

    Raises:
        UsageError: There is fewer than one.
    """

    options: HealOptions = DEFAULTS
    candidates: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.candidates < 1:
            raise UsageError(f"--candidates must be at least 1, not {self.candidates}.")


def run_collapse_heal(
    request: CollapseRequest, after: HealAfter, *, progress: Progress | None = None
) -> HealedCollapse:
    """Delete blocks and heal what is left.

    With more than one candidate the search's plan, every second block, a contiguous run of blocks and the slowest
    blocks, each of as many blocks, are cut and healed for a short time; the one that does best on the samples held back
    goes on. Which of them heals best is not which of them lost least before.

    Args:
        request: What to delete; its data is learnt from too.
        after: How to heal.
        progress: Called with (done, total, what).

    Raises:
        UsageError: There is no data, or a dry run is asked for.
        InputError: As for `run_collapse` and `run_heal`.
        NothingToCollapseError: No block can go under the limit.
        VerificationError: PyTorch does not give what ONNX Runtime gives.
    """
    if request.data is None or request.dry_run:
        raise UsageError("--heal needs --data to learn from, and a file to write: leave --dry-run out.")
    request.check_targets()
    with tempfile.TemporaryDirectory() as folder:
        work = _Work(request, after, Path(folder), progress)
        plan_file = work.choose() if after.candidates > 1 else None
        cut = Path(folder) / "cut.onnx"
        if plan_file is None:
            made = run_collapse(replace(request, output=cut), progress=progress)
        else:
            made = run_collapse(
                replace(request, limit=None, plan_file=plan_file, output=cut), progress=progress
            )
        healing = work.heal(cut, request.target, after.options)
    fields = made.model_dump(exclude={"output", "after"})
    entry = made.after.model_copy(update={"path": str(request.target)})
    healing = healing.model_copy(update={"cut": str(request.path)})
    return HealedCollapse(**fields, output=str(request.target), after=entry, healing=healing)


@dataclass(frozen=True)
class _Work:
    request: CollapseRequest
    after: HealAfter
    folder: Path
    progress: Progress | None

    def heal(self, cut: Path, target: Path, options: HealOptions) -> HealResult:
        assert self.request.data is not None
        wanted = HealRequest(self.request.path, cut, self.request.data, target, options, self.request.runtime)
        return run_heal(wanted, progress=self.progress)

    def choose(self) -> Path:
        """The file of the plan that heals best; its evidence holds the table of them all."""
        if self.request.linearise is not None:
            raise UsageError("--candidates is about blocks; leave --linearise out.")
        searched = run_collapse(
            replace(self.request, dry_run=True, plan_out=None), progress=self.progress
        ).plan
        plans = {"search": searched}
        for name, blocks in self._others(searched):
            try:
                plans[name] = self._plan(blocks)
            except NothingToCollapseError:
                continue
        records = [self._tried(name, plan) for name, plan in plans.items()]
        best = records[0]
        for record in records[1:]:
            if preferred(record.after, best.after, record.samples):
                best = record
        best.chosen = True
        plan = plans[best.name]
        plan.evidence.candidates = records
        path = self.folder / "plan.json"
        atomic_write_text(path, to_json(plan, indent=2) + "\n")
        return path

    def _plan(self, blocks: Sequence[str]) -> Plan:
        """The plan for named blocks, repaired as was asked."""
        limit = Limit(blocks=tuple(blocks))
        search = replace(self.request.search, criterion=None, search=None)
        trial = replace(self.request, limit=limit, plan_file=None, search=search, dry_run=True, plan_out=None)
        return run_collapse(trial, progress=self.progress).plan

    def _tried(self, name: str, plan: Plan) -> CandidateRecord:
        """A plan carried out and healed for a short time."""
        file, cut = self.folder / f"{name}.json", self.folder / f"{name}.onnx"
        atomic_write_text(file, to_json(plan) + "\n")
        run_collapse(
            replace(self.request, limit=None, plan_file=file, output=cut, plan_out=None),
            progress=self.progress,
        )
        options = self.after.options
        minutes = None if options.minutes is None else SHORT * options.minutes
        short = replace(options, steps=max(1, round(SHORT * options.steps)), minutes=minutes)
        record = self.heal(cut, self.folder / f"{name}.healed.onnx", short).record
        return CandidateRecord(
            name=name,
            blocks=[step.block for step in plan.steps],
            before=record.before,
            after=record.after,
            measure=record.measure,
            samples=record.held_back,
            seconds=record.seconds,
        )

    def _others(self, searched: Plan) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Other choices of as many blocks, as many as candidates are wanted."""
        opened = open_model(
            self.request.path, probe=self.request.probe, granularity=self.request.search.granularity
        )
        able = [block.name for block in opened.blocks if block.collapsible and not block.scope]
        taken = {frozenset(step.block for step in searched.steps)}
        count, given = len(searched.steps), 1
        for name, pick in (("every second", _every_second), ("in a row", _in_a_row), ("slowest", None)):
            if given >= self.after.candidates or count == 0:
                return
            blocks = self._slowest(count) if pick is None else pick(able, count)
            if len(blocks) == count and frozenset(blocks) not in taken:
                taken.add(frozenset(blocks))
                given += 1
                yield name, blocks

    def _slowest(self, count: int) -> tuple[str, ...]:
        """The blocks that take most of the time for what they do, as the criterion `latency` has them."""
        search = SearchOptions(criterion="latency", repair="none", seed=self.request.search.seed)
        trial = replace(
            self.request, limit=Limit(count=count), plan_file=None, search=search, dry_run=True, plan_out=None
        )
        try:
            return tuple(step.block for step in run_collapse(trial, progress=self.progress).plan.steps)
        except NothingToCollapseError:
            return ()


def _every_second(able: Sequence[str], count: int) -> tuple[str, ...]:
    """Blocks spread evenly over the network, every second one where half of them go."""
    places = [round((i + 0.5) * len(able) / count - 0.5) for i in range(count)]
    return tuple(dict.fromkeys(able[min(max(place, 0), len(able) - 1)] for place in places))


def _in_a_row(able: Sequence[str], count: int) -> tuple[str, ...]:
    """The middle of the network."""
    start = (len(able) - count) // 2
    return tuple(able[start : start + count])
