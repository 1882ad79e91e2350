"""The part of `collapse` that makes activations linear and merges what became linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lacoot_deploy.manifest import Plan, StepEvidence
from lacoot_deploy.progress import Progress
from lacoot_deploy.selection.options import LineariseOptions
from lacoot_deploy.workflow.inspecting import ReasonEntry

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.bench.merging import MergeMeasurer
    from lacoot_deploy.graph.linear import Activation, MergeRecord, MergeResult, Refusal
    from lacoot_deploy.selection.limits import Evidence
    from lacoot_deploy.selection.linear_network import LinearNetwork
    from lacoot_deploy.selection.trials import Trials


class MergeEntry(BaseModel):
    """One merge of `collapse --json`; see `graph.linear.MergeRecord`."""

    first: str
    second: str
    kept: str
    value: str
    kinds: tuple[str, str]
    macs: tuple[int, int] | None
    parameters: tuple[int, int] | None
    error: float
    reason: ReasonEntry | None


class RefusalEntry(BaseModel):
    """Two linear operators that stay two; see `graph.linear.Refusal`."""

    first: str
    second: str
    value: str
    reason: ReasonEntry


@dataclass(frozen=True)
class Applied:
    """A model after activations became linear and operators were merged.

    Attributes:
        model: The model.
        merges: What was merged.
        refused: What stays two.
    """

    model: onnx.ModelProto
    merges: list[MergeRecord] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def entries(self) -> tuple[list[MergeEntry], list[RefusalEntry]]:
        """As plain data."""
        refused = [RefusalEntry.model_validate(one, from_attributes=True) for one in self.refused]
        return [merge_entry(record) for record in self.merges], refused


def merge_entry(record: MergeRecord) -> MergeEntry:
    """A merge as plain data."""
    before, after = record.before, record.after
    works = None if before is None or after is None else (before, after)
    given = vars(record) | {
        "macs": works and tuple(work.macs for work in works),
        "parameters": works and tuple(work.parameters for work in works),
    }
    return MergeEntry.model_validate(given, from_attributes=True)


def plan_activations(
    plan: Plan,
    options: LineariseOptions,
    base: onnx.ModelProto,
    original: onnx.ModelProto,
    *,
    evidence: Evidence | None,
    trials: Trials,
    progress: Progress | None = None,
) -> Plan:
    """Add to a plan which activations become linear, and the evidence.

    Args:
        plan: A plan for blocks, which may remove none; it is not changed.
        options: What is asked for.
        base: The model with the plan's blocks gone.
        original: The model as it was, which the result is compared with.
        evidence: Samples to score, fit and confirm on; None where activations are only named.
        trials: Where trial runs happen, and what times them.
        progress: Called with (done, total, what).

    Raises:
        UsageError: The options do not make sense together, or a name does not exist.
        NothingToCollapseError: No activation can become linear under the limit.
    """
    from lacoot_deploy.selection.linear_network import LinearNetwork

    if evidence is None:
        options.need_data()
    plan = plan.model_copy(deep=True)
    plan.merge, plan.inexact = options.merge or "cheaper", options.inexact
    finish = Merging(plan, trials)
    if options.what is None:
        finish(base)
    else:
        activations = activations_after(base, original, trials.folder)
        plan.fit = options.fit or ("identity" if evidence is None else "affine")
        if evidence is None:
            assert isinstance(options.what, tuple), "else there are samples"
            _name(plan, options.what, activations)
            finish(_linear(base, plan, activations, trials.folder))
        else:
            network = LinearNetwork(
                base, activations, evidence, fit=plan.fit, trials=trials, reference=original
            )
            _choose(plan, options, network, finish, evidence, progress)
    plan.faster = finish.faster
    return plan


def _name(plan: Plan, names: tuple[str, ...], activations: Sequence[Activation]) -> None:
    """Note the named activations, without data, in a plan."""
    from lacoot_deploy.graph.linear import Linearisation
    from lacoot_deploy.selection.linear_search import named, record_of

    user = StepEvidence(chosen_by="user")
    plan.linearised = [record_of(Linearisation(a), user.model_copy()) for a in named(names, activations)]
    plan.evidence.measured = False


def _choose(
    plan: Plan,
    options: LineariseOptions,
    network: LinearNetwork,
    finish: Merging,
    evidence: Evidence,
    progress: Progress | None,
) -> None:
    """Fit the named activations, or search for some, and note them with the evidence in a plan."""
    from lacoot_deploy.selection import linear_search as search
    from lacoot_deploy.selection.limits import LimitRule

    rule = LimitRule(options.limit, network.dense, thing="activation")
    if isinstance(options.what, tuple):
        path = search.chosen_by_user(network, search.named(options.what, network.activations))
    else:
        assert options.limit is not None, "the options see to that"
        plan.criterion = options.criterion or "output"
        plan.search = options.search or "greedy"
        plan.limit = {**plan.limit, **options.limit.given()}
        measure = network.trials.speedup
        every, merge = options.what == "all", plan.merge or "cheaper"
        path = search.search(
            network,
            search.candidates(network.activations, every=every, merge=merge, inexact=plan.inexact),
            rule,
            criterion=plan.criterion,
            greedy=plan.search == "greedy",
            speedup=None if measure is None else lambda network: measure(finish(network)),
            progress=progress,
        )
    path, found = search.confirm(network, path, rule, evidence, finish=finish)
    plan.linearised = search.linearise_records(path)
    plan.task, found.belief = network.task.record(), network.belief.record()
    if plan.evidence.model_fields_set:
        found.blocks = plan.evidence
    plan.evidence = found


def activations_after(
    base: onnx.ModelProto, original: onnx.ModelProto, folder: Path | None
) -> tuple[Activation, ...]:
    """The activations of a model that blocks went from, under the names that they had before."""
    from dataclasses import replace

    from lacoot_deploy.graph.linear import list_activations

    found = list_activations(base, folder=folder)
    if base is original:
        return found
    names = {activation.output: activation.name for activation in list_activations(original, folder=folder)}
    return tuple(replace(a, name=names[a.output]) if a.output in names else a for a in found)


class Merging:
    """Merges networks as a plan says.

    Args:
        plan: The plan; with `measured` and nothing recorded yet, pairs are measured.
        trials: Where they are measured.
        replay: Whether to merge what the plan recorded as faster instead of measuring.
    """

    def __init__(self, plan: Plan, trials: Trials, *, replay: bool = False) -> None:
        self._plan, self._folder, self._replay = plan, trials.folder, replay
        self._measurer: MergeMeasurer | None = None
        if plan.merge == "measured" and not replay:
            from lacoot_deploy.bench.merging import MergeMeasurer

            self._measurer = MergeMeasurer(trials.runtime)

    @property
    def faster(self) -> list[str]:
        """The values between operators that were measured to be faster as one."""
        return [] if self._measurer is None else list(self._measurer.faster)

    def __call__(self, network: onnx.ModelProto) -> onnx.ModelProto:
        """The merged network."""
        return self.merge(network).model

    def merge(self, network: onnx.ModelProto) -> MergeResult:
        """The merged network, with what was merged and what not."""
        from lacoot_deploy.graph.linear import merge_linear

        mode, pays = self._plan.merge or "never", None
        if mode == "measured":
            known = set(self._plan.faster)
            pays = (lambda record, pair: record.value in known) if self._replay else self._measurer
            mode = "cheaper"
        return merge_linear(network, mode, allow_inexact=self._plan.inexact, pays=pays, folder=self._folder)


def _linear(
    base: onnx.ModelProto, plan: Plan, activations: tuple[Activation, ...], folder: Path | None
) -> onnx.ModelProto:
    from lacoot_deploy.graph.linear import linearise
    from lacoot_deploy.selection.linear_search import resolve_linearised

    return linearise(base, resolve_linearised(plan.linearised, activations), folder=folder)


def apply_activations(
    base: onnx.ModelProto, plan: Plan, original: onnx.ModelProto, *, trials: Trials
) -> Applied:
    """Make a plan's activations linear and merge what it says; the models given are not touched.

    Args:
        base: The model with the plan's blocks gone.
        plan: The plan.
        original: The model as it was before any went.
        trials: Where external weights lie.

    Raises:
        InputError: The plan does not fit the model.
        UsageError: An activation of the plan is not in the model.
    """
    if not plan.linearised and plan.merge in (None, "never"):
        return Applied(base)
    network = base
    if plan.linearised:
        network = _linear(base, plan, activations_after(base, original, trials.folder), trials.folder)
    result = Merging(plan, trials, replay=True).merge(network)
    return Applied(result.model, result.merges, result.refused)
