"""What a method of rounds leaves, merged: linear neighbours become one, and PyTorch says that it is still the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lacoot_deploy.manifest import CollapseRecord, Manifest, write_manifest
from lacoot_deploy.version import PRODUCER

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.graph.linear import MergeResult
    from lacoot_deploy.training.recipe import Recipe
    from lacoot_deploy.training.run import Trained

UNMERGED_NAME = "unmerged.onnx"


class Size(BaseModel):
    """What a model takes: nodes, parameters, and multiply-adds for one sample."""

    nodes: int
    parameters: int
    macs: int | None


class MergeSummary(BaseModel):
    """What became of the linear operators of a trained network.

    Attributes:
        linear: Activations that the training made linear.
        unmerged: The exported file before anything was merged.
        merged: Pairs of operators that became one, as `first + second`.
        refused: How many pairs stayed two, by reason.
        before: Size of the exported file.
        after: Size of the merged one.
        drift: Largest difference of the merged file from PyTorch, relative to the largest output.
    """

    linear: list[str]
    unmerged: str
    merged: list[str]
    refused: dict[str, int]
    before: Size
    after: Size
    drift: float


def merge_run(
    result: Trained, recipe: Recipe, *, note: Callable[[str], None] = lambda text: None
) -> MergeSummary:
    """Merge the exported model of a run in place, keep what it was as `unmerged.onnx`, and note it in the manifest.

    Raises:
        VerificationError: The merged model differs from PyTorch; `model.onnx` is then the unmerged one.
    """
    from lacoot_deploy.graph.linear import merge_linear
    from lacoot_deploy.graph.model.io import fingerprint, load_model, save_model
    from lacoot_deploy.manifest import read_manifest
    from lacoot_deploy.training.checkpoint import read_checkpoint
    from lacoot_deploy.training.export import check_against
    from lacoot_deploy.training.finish import restore_run
    from lacoot_deploy.training.methods.base import RoundsSettings

    model = load_model(result.model)
    unmerged = result.folder / UNMERGED_NAME
    save_model(model, unmerged)
    assert isinstance(recipe.settings, RoundsSettings)
    merging = merge_linear(model, recipe.settings.merge)
    manifest = read_manifest(model, path=result.model) or Manifest()
    record = _record(result, merging, fingerprint(model))
    manifest.history = [*manifest.history, record]
    network, example = restore_run(read_checkpoint(result.checkpoint))
    drift = check_against(network, merging.model, example)
    write_manifest(merging.model, manifest)
    save_model(merging.model, result.model)
    note(
        f"Merged {len(record.merged)} pairs of linear operators; {result.model} differs from PyTorch by at most "
        f"{drift.relative:.1g} of the largest output."
    )
    return MergeSummary(
        linear=record.linearised,
        unmerged=str(unmerged),
        merged=record.merged,
        refused=dict(Counter(refusal.reason.code for refusal in merging.refused)),
        before=_size(model),
        after=_size(merging.model),
        drift=drift.relative,
    )


def _record(result: Trained, merging: MergeResult, fingerprint: str) -> CollapseRecord:
    state = result.rounds
    return CollapseRecord(
        model_sha256_before=fingerprint,
        linearised=[] if state is None else state.removed,
        merged=[f"{merge.first} + {merge.second}" for merge in merging.merges if merge.second],
        accuracy_before=None if state is None else state.dense_accuracy,
        accuracy_after=None if state is None else state.good_accuracy,
        producer=PRODUCER,
    )


def _size(model: onnx.ModelProto) -> Size:
    from lacoot_deploy.graph.discovery.costs import model_costs

    costs = model_costs(model)
    return Size(nodes=costs.nodes, parameters=costs.parameters, macs=costs.macs)
