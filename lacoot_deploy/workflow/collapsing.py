"""`collapse`: makes or takes a plan, applies it, and records what was done in the new file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.files import atomic_write_text, check_target
from lacoot_deploy.manifest import LinearRecord, Plan, PlanOptions, RuntimeRecord, SearchRecord, to_json
from lacoot_deploy.manifest.evidence import said
from lacoot_deploy.numerals import counted
from lacoot_deploy.progress import Progress
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.selection.options import DEFAULTS as SEARCH
from lacoot_deploy.selection.options import LineariseOptions, PrivateIO, SearchOptions
from lacoot_deploy.workflow.commands import data_record
from lacoot_deploy.workflow.decoder_configs import write_configs
from lacoot_deploy.workflow.history import record_history
from lacoot_deploy.workflow.inspecting import ModelEntry, Opened, model_entry, open_model
from lacoot_deploy.workflow.linearising import (
    Applied,
    MergeEntry,
    RefusalEntry,
    apply_activations,
    plan_activations,
)
from lacoot_deploy.workflow.plans import evidence_for, plan_for, read_plan, recommended_plan, trials_of

if TYPE_CHECKING:
    from lacoot_deploy.selection.limits import Limit


class CollapseResult(BaseModel):
    """What `collapse --json` prints.

    Attributes:
        plan: The plan that was applied (or would be, on a dry run).
        before: The model as it was.
        after: The model that was written.
        output: Its path; None on a dry run.
        merges: Linear operators that became one.
        refused: Those that stay two although one reads the other, and why.
        notes: What a reader should know, such as blocks found again by structure.
    """

    schema_version: int = 1
    plan: Plan
    before: ModelEntry
    after: ModelEntry
    output: str | None
    merges: list[MergeEntry] = Field(default_factory=list)
    refused: list[RefusalEntry] = Field(default_factory=list)
    notes: list[str]


@dataclass(frozen=True)
class CollapseRequest:
    """Everything that `collapse` is asked for.

    With neither `limit` nor `plan_file` nor `linearise` the plan recommended in the model's manifest is applied.

    Attributes:
        path: An ONNX file; it is not changed.
        output: The file to write; None for the input's name with `.collapsed.onnx`.
        limit: How far to go.
        plan_file: A plan written by an earlier run, to be replayed.
        data: Calibration data to fit repairs on, to choose and to confirm by.
        search: What ranks the blocks, and what is put in their place.
        linearise: Which activations become linear, if any.
        runtime: Where trial runs happen.
        dims: Sizes of free dimensions to time networks at; the others are those of the data.
        probe: Whether shapes may be settled by a run in ONNX Runtime.
        dry_run: Plan only; write no model.
        plan_out: Where to write the plan as JSON.

    Raises:
        UsageError: Parts of it contradict each other.
    """

    path: Path
    output: Path | None = None
    limit: Limit | None = None
    plan_file: Path | None = None
    data: DataOptions | None = None
    search: SearchOptions = SEARCH
    linearise: LineariseOptions | None = None
    runtime: Runtime = AUTO
    dims: Mapping[str, int] = field(default_factory=dict, hash=False)
    probe: bool = True
    dry_run: bool = False
    plan_out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done before anything is read."""
        if self.plan_file is not None and (self.limit is not None or self.linearise is not None):
            raise UsageError("Give either --plan or what to remove, not both.")
        if self.linearise is not None and self.data is None:
            self.linearise.need_data()

    @cached_property
    def private_io(self) -> PrivateIO:
        """What becomes of inputs and outputs that belong to one block alone; a plan's own word counts."""
        if self.plan_file is None:
            return self.search.private_io
        made = read_plan(self.plan_file).options
        return (made and made.search and made.search.private_io) or "keep"

    @property
    def target(self) -> Path:
        """The file to write: `model.onnx` becomes `model.collapsed.onnx` beside it where none is given."""
        if self.output is not None:
            return self.output
        name = self.path.stem if self.path.suffix == ".onnx" else self.path.name
        return self.path.with_name(f"{name}.collapsed.onnx")

    @property
    def made_here(self) -> bool:
        """Whether the plan is made now, not given or recommended."""
        return self.limit is not None or self.linearise is not None

    def check_targets(self) -> None:
        """Refuse to write over what is read.

        Raises:
            InputError: A file to be written is one of those that are read, or cannot be written.
        """
        sources = [
            self.path,
            *(self.data.files if self.data is not None else ()),
            *([] if self.plan_file is None else [self.plan_file]),
        ]
        if not self.dry_run:
            check_target(self.target, inputs=sources)
        if self.plan_out is not None:
            check_target(self.plan_out, inputs=sources if self.dry_run else [*sources, self.target])

    def options(self) -> PlanOptions:
        """What is asked for, as a plan records it; only what is not so anyway."""
        search, runtime, linear = self.search, self.runtime, self.linearise
        names = tuple(Path(library).name for library in runtime.custom_ops)
        made = PlanOptions(
            search=SearchRecord(**said(vars(search), vars(SEARCH))),
            runtime=RuntimeRecord(**said(vars(runtime) | {"custom_ops": names}, vars(AUTO))),
            probe=self.probe,
        )
        if self.limit is not None:
            made.limit = self.limit.given()
        if self.data is not None:
            made.data = data_record(self.data)
        if linear is not None:
            limit = None if linear.limit is None else linear.limit.given()
            made.linearise = LinearRecord(**said(vars(linear) | {"limit": limit}))
        return made


def run_collapse(request: CollapseRequest, *, progress: Progress | None = None) -> CollapseResult:
    """Delete blocks from a model, make activations linear and merge what became linear, and write the shorter one.

    Blocks go first: activations are then chosen in the network that is left.

    Args:
        request: What to do.
        progress: Called with (done, total, what).

    Raises:
        UsageError: No plan is recommended in the file, or a name does not exist.
        InputError: A file cannot be read or written, or the plan does not fit the model.
        NothingToCollapseError: No block can go, or no activation become linear, under the limit.
    """
    from lacoot_deploy.graph.model.external import data_files
    from lacoot_deploy.graph.model.io import save_model

    path, target = request.path, request.target
    request.check_targets()
    opened = open_model(
        path,
        probe=request.probe,
        granularity=request.search.granularity,
        private_io=request.private_io != "keep",
    )
    if request.plan_out is not None:
        check_target(request.plan_out, inputs=data_files(opened.model, path))
    plan = _plan(request, opened, progress)
    shorter = _shorten(request, opened, plan, progress)
    plan = shorter.plan
    if request.made_here:
        plan.options = request.options()
    merges, refused = shorter.applied.entries()
    if not plan.steps and not plan.linearised and not merges:
        raise NothingToCollapseError(f"No two linear operators of {path} in a row can be merged for a gain.")
    costs = record_history(
        shorter.applied.model,
        opened,
        plan,
        shorter.names,
        request.search.granularity,
        model_sha256=_fingerprint(request, opened, plan),
        merged=[f"{merge.first} + {merge.second}" for merge in merges if merge.second],
        only_cut=shorter.only_cut,
    )
    if request.plan_out is not None:
        atomic_write_text(request.plan_out, to_json(plan, indent=2) + "\n")
    configs: list[str] = []
    if not request.dry_run:
        save_model(shorter.applied.model, target, source=path)
        configs = write_configs(path, target, shorter.layers)
    return CollapseResult(
        plan=plan,
        before=model_entry(path, opened.costs),
        after=model_entry(target, costs),
        output=None if request.dry_run else str(target),
        merges=merges,
        refused=refused,
        notes=[*opened.notes, *shorter.notes, *configs],
    )


def _plan(request: CollapseRequest, opened: Opened, progress: Progress | None) -> Plan:
    """The plan for blocks; it may remove none where activations are to become linear."""
    from lacoot_deploy.graph.model.io import fingerprint

    if request.plan_file is not None:
        plan = read_plan(request.plan_file)
    elif request.limit is not None:
        return plan_for(
            opened,
            request.limit,
            request.search,
            data=request.data,
            runtime=request.runtime,
            dims=request.dims,
            progress=progress,
        )
    elif request.linearise is not None:
        return Plan(model_sha256=fingerprint(opened.model))
    else:
        plan = recommended_plan(opened)
    if not plan.steps and not plan.linearised and not plan.merge:
        raise NothingToCollapseError("The plan removes no block and makes no activation linear.")
    return plan


@dataclass(frozen=True)
class _Shorter:
    """A plan carried out: what was done, to which blocks, and whether nothing but blocks went."""

    plan: Plan
    applied: Applied
    names: list[str]
    only_cut: bool
    notes: list[str]
    layers: tuple[int, ...] = ()


def _shorten(request: CollapseRequest, opened: Opened, plan: Plan, progress: Progress | None) -> _Shorter:
    """Cut the blocks of a plan, complete it with the activations asked for, and apply those."""
    from lacoot_deploy.graph.surgery.collapse import collapse_blocks
    from lacoot_deploy.graph.surgery.private_io import layer_numbers, renumber_io
    from lacoot_deploy.selection.matching import resolve_plan, resolve_refits

    records = opened.manifest.blocks if opened.manifest is not None else []
    cuts, notes = resolve_plan(plan, opened.blocks, records)
    refits = resolve_refits(plan, opened.blocks, records)
    cut = collapse_blocks(opened.model, cuts, refits, folder=opened.path.parent)
    evidence = None
    if request.linearise is not None and request.data is not None and request.linearise.what is not None:
        evidence = evidence_for(opened, request.data, request.search.seed)
    samples = None if evidence is None else evidence.choose
    trials = trials_of(opened, request.runtime, samples, request.dims)
    if request.linearise is not None:
        plan = plan_activations(
            plan,
            request.linearise,
            cut,
            opened.model,
            evidence=evidence,
            trials=trials,
            progress=progress,
        )
    applied = apply_activations(cut, plan, opened.model, trials=trials)
    names, only_cut = [one.block.name for one in cuts], applied.model is cut
    private = [name for one in cuts for name in (*one.block.private_inputs, *one.block.private_outputs)]
    if not private:
        return _Shorter(plan, applied, names, only_cut, notes)
    renamed = renumber_io(applied.model, private) if request.private_io == "renumber" else {}
    notes = [*notes, *_private_notes(private, renamed)]
    layers = layer_numbers(private, opened.model.graph)
    return _Shorter(plan, applied, names, only_cut and not renamed, notes, layers)


def _private_notes(private: list[str], renamed: dict[str, str]) -> list[str]:
    """What became of the model's inputs and outputs."""
    gone = f"{', '.join(private[:4])}{' and more' if len(private) > 4 else ''}"
    notes = [
        f"{counted(len(private), 'input or output', 'inputs and outputs')} went with their blocks: {gone}."
    ]
    if renamed:
        first = next(iter(renamed))
        notes.append(f"{len(renamed)} were numbered anew: {first} is now {renamed[first]}.")
    return notes


def _fingerprint(request: CollapseRequest, opened: Opened, plan: Plan) -> str:
    """Of the model as it was; a plan that was made for it just now knows it."""
    from lacoot_deploy.graph.model.io import fingerprint

    return plan.model_sha256 if request.made_here and plan.model_sha256 else fingerprint(opened.model)
