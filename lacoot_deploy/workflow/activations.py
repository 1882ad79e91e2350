"""`inspect --activations`: the activations of any ONNX file, and what would merge without each."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from lacoot_deploy.workflow.inspecting import ModelEntry, ReasonEntry, model_entry


class WorkEntry(BaseModel):
    """What operators take: multiply-adds for one sample, and parameters."""

    macs: int
    parameters: int


class ActivationEntry(BaseModel):
    """One activation of `inspect --activations --json`; see `graph.linear.Activation` for the fields."""

    name: str
    kind: str
    input: str
    output: str
    nodes: list[str]
    shape: list[int | str | None] | None
    axis: int | None
    after_residual: bool
    first: str | None
    second: str | None
    before: WorkEntry | None
    after: WorkEntry | None
    merged: str | None
    merges: bool
    pays: bool | None
    reason: ReasonEntry | None


class ActivationsResult(BaseModel):
    """What `inspect --activations --json` prints."""

    schema_version: int = 1
    model: ModelEntry
    activations: list[ActivationEntry]


def inspect_activations(path: str | Path) -> ActivationsResult:
    """The activations of an ONNX file: kind, and which operators would be one without it, at what cost or why not.

    Args:
        path: An ONNX file; its external weights are read where they decide about exactness.

    Raises:
        InputError: The file is missing, malformed or unsupported.
    """
    from lacoot_deploy.graph.discovery.costs import model_costs
    from lacoot_deploy.graph.linear import list_activations
    from lacoot_deploy.graph.model.io import load_model

    path = Path(path)
    model = load_model(path)
    found = list_activations(model, folder=path.parent)
    return ActivationsResult(
        model=model_entry(path, model_costs(model)),
        activations=[ActivationEntry.model_validate(one, from_attributes=True) for one in found],
    )
