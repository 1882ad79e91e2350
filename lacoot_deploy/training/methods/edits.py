"""Edits replayed on a freshly built network, so that a checkpoint's weights fit it again."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lacoot_deploy.errors import InputError
from lacoot_deploy.training.methods.layers import ChannelGate, Slope
from lacoot_deploy.training.methods.state import Edit


def apply_edits(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Make the changes in order, in place.

    Raises:
        InputError: The model has no module of that path, whose code may have changed since.
    """
    for edit in edits:
        try:
            module = model.get_submodule(edit.path)
        except AttributeError:
            raise InputError(
                f"The checkpoint changed the module {edit.path!r}, which the model no longer has; its code has changed."
            ) from None
        if edit.kind == "padding":
            module.padding = edit.padding  # type: ignore[assignment]
        elif edit.kind == "slope":
            replace_module(model, edit.path, Slope(module))
        elif edit.kind == "gate":
            gate = ChannelGate(edit.channels, axis=edit.axis, shifted=edit.shifted)
            replace_module(model, edit.path, gate)
        else:
            replace_module(model, edit.path, nn.Identity())


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put a module at a path; gives back the one that was there."""
    parent_path, _, child = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    before = parent.get_submodule(child)
    setattr(parent, child, module)
    return before
