"""Blocks that are refused as a whole: a skip over other blocks, the state of a loop."""

from __future__ import annotations

from collections.abc import Mapping

from lacoot_deploy.graph.discovery.fitting import Group
from lacoot_deploy.graph.discovery.paths import LAYOUT
from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.graph.model.index import GraphIndex


def spans_blocks(group: Group, merges: Mapping[int, Group]) -> Reason | None:
    """Why a block goes that other blocks lie inside of, unless a module is exactly that block.

    The skip over a whole super-resolution body is a long skip; a residual block made of residual blocks, one
    module holding the others, is a block.

    Args:
        group: The block.
        merges: All blocks by the position of their last merge.
    """
    if len(group.units) > 1 or group.exact:
        return None
    region = sorted(node.index for node in group.units[0].own)
    inner = [merges[index] for index in region if index in merges and merges[index] is not group]
    if not inner:
        return None
    text = (
        f"The skip spans {len(inner)} other block{'s' if len(inner) > 1 else ''} and no module holds just that: a long "
        f"skip connection, not a block."
    )
    return Reason("long_skip", text, tuple(other.output for other in inner[:8]))


def updates_state(graph: GraphIndex, group: Group) -> Reason | None:
    """Why a block goes that computes the next state of a loop from the last: it is the recurrence itself."""
    for before, after in _states(graph):
        if _source(graph, group.input) == before and _source(graph, after) in (
            group.output,
            _source(graph, group.output),
        ):
            text = f"The sum computes the next state of a {graph.owner.op if graph.owner else 'loop'} from {before}."
            return Reason("recurrent_state", text, (before, after))
    return None


def _states(graph: GraphIndex) -> list[tuple[str, str]]:
    """The states of a loop body: each one's name on entry and on exit."""
    if graph.owner is None or graph.owner.domain:
        return []
    inputs = [value.name for value in graph.graph.input]
    outputs = list(graph.outputs)
    if graph.owner.op == "Loop":
        return list(zip(inputs[2:], outputs[1:], strict=False))
    if graph.owner.op == "Scan":
        scanned = graph.owner.attribute("num_scan_inputs", 0)
        return list(zip(inputs[: len(inputs) - scanned], outputs, strict=False))
    return []


def _source(graph: GraphIndex, name: str) -> str:
    """The value that a value is a mere rearrangement of."""
    while (node := graph.producer.get(name)) is not None and node.op in LAYOUT and node.data:
        name = node.data[0]
    return name
