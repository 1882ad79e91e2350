"""Cuts blocks out of a model: onnx-graphsurgeon rewires, inserts and deletes, `carry` keeps everything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.model.pauses import no_cycle_search
from lacoot_deploy.graph.shapes.notes import drop_false_notes
from lacoot_deploy.graph.surgery.absorbing import absorb_repairs
from lacoot_deploy.graph.surgery.carry import carry_over, wiring, wiring_differences
from lacoot_deploy.graph.surgery.cuts import Cut, Refit
from lacoot_deploy.graph.surgery.cutting import Cutter
from lacoot_deploy.graph.surgery.folding import fold_refits
from lacoot_deploy.graph.surgery.liveness import drop_dead_nodes, live_nodes
from lacoot_deploy.graph.surgery.private_io import drop_private_io


def collapse_blocks(
    model: onnx.ModelProto,
    cuts: Sequence[Cut],
    refits: Sequence[Refit] = (),
    *,
    folder: Path | None = None,
) -> onnx.ModelProto:
    """Delete blocks and give the smaller model; the one given is not touched.

    The public signature never changes: names, order, types, shapes and doc strings of inputs and outputs; but what
    belongs to a block alone goes with a block that was found with its private inputs and outputs. Nodes,
    weights and value notes that only the deleted blocks used are dropped; everything else is carried over field by
    field, in its order. External data is not read: references to it stay as they are.

    Args:
        model: The model; its external data need not be loaded.
        cuts: What goes and how. Their order does not matter. With form `shortcut` every unit of the block loses its
            branch, and a repair is put on the skip path of the last one.
        refits: Maps to fold into the branches of blocks that stay; their weights change, no node does.
        folder: Where the model's external data lies; needed where a refitted weight is among it.

    Returns:
        A new model. With no cuts it equals the one given.

    Raises:
        UsageError: Two cuts overlap, or a block cannot go in the form asked for.
        InputError: A block is not in the model (any more), or onnx-graphsurgeon cannot represent the graph.
    """
    _check_cuts(cuts)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    with no_cycle_search():
        graph = _import_wiring(result)
        cutter = Cutter(graph, model)
        live_before, original = live_nodes(graph), cutter.node_ids()
        for cut, scope in cutter.in_graph_order(cuts):
            cutter.apply(cut, scope)
        cutter.finish()
        drop_dead_nodes(graph, live_before=live_before, original=original)
        if cuts:
            carry_over(result, _export(graph))
            drop_private_io(result, cuts)
            absorb_repairs(result, cuts, folder)
            drop_false_notes(result)
    fold_refits(result, refits, folder=folder)
    return result


def _import_wiring(result: onnx.ModelProto) -> Any:
    """Give the wiring to onnx-graphsurgeon, and refuse the model if it does not come back as it was."""
    import onnx_graphsurgeon as gs

    bare = wiring(result)
    with gs.logger.G_LOGGER.suppress():
        try:
            graph = gs.import_onnx(bare)
        except Exception as error:
            raise InputError(f"onnx-graphsurgeon cannot represent this model: {error}") from error
    difference = next(wiring_differences(bare.graph, _export(graph).graph), None)
    if difference is not None:
        raise InputError(
            f"onnx-graphsurgeon cannot represent this model: its round trip changes {difference}."
        )
    return graph


def _export(graph: Any) -> onnx.ModelProto:
    import onnx_graphsurgeon as gs

    with gs.logger.G_LOGGER.suppress():
        exported: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    return exported


def _check_cuts(cuts: Sequence[Cut]) -> None:
    owners: dict[tuple[tuple[str, ...], str], Cut] = {}
    for cut in cuts:
        block = cut.block
        if not block.collapsible:
            why = f": {block.reason.text}" if block.reason else "."
            raise UsageError(f"Block {block.name} cannot be collapsed{why}")
        if cut.form not in block.forms:
            forms = ", ".join(form.value for form in block.forms)
            raise UsageError(f"Block {block.name} cannot go as {cut.form.value}; it can go as {forms}.")
        for unit in block.units:
            owner = owners.setdefault((block.scope, unit.merge), cut)
            if owner is not cut:
                raise UsageError(
                    f"Blocks {owner.block.name} and {block.name} share the merge {unit.merge}; name only one of them."
                )
