"""Candidates that lie across one another: sums of skips beside residual units, and long skips over long skips."""

from __future__ import annotations

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Reason


def drop_sums_of_skips(found: dict[int, Candidate]) -> None:
    """Take out what begins inside the branch of a unit and runs on through that unit's merge.

    WaveNet adds up what every layer gives aside. Such a sum looks like a unit that starts in the middle of the first
    layer, and to remove it would remove most of the network.

    Args:
        found: Candidates by the position of their merge, changed in place.
    """
    owners: dict[int, list[Candidate]] = {}
    for unit in found.values():
        if unit.reason is None or unit.reason.code == "interior_read":
            for node in unit.own:
                owners.setdefault(node.index, []).append(unit)
    made = {name: node.index for unit in found.values() for node in unit.own for name in node.outputs if name}
    for index, unit in list(found.items()):
        start = made.get(unit.input)
        if unit.reason is not None or start is None:
            continue
        region = {node.index for node in unit.region}
        if any(other.merge.index in region for other in owners.get(start, ()) if other is not unit):
            del found[index]


def refuse_nested_resolutions(found: dict[int, Candidate]) -> None:
    """Refuse a branch that goes down and up again around another such merge: the levels of a U-Net."""
    merges = {index: unit for index, unit in found.items() if _comes_back(unit)}
    for unit in merges.values():
        inner = next((merges[node.index] for node in unit.own if node.index in merges), None)
        if inner is not None and unit.reason is None:
            text = f"The branch changes resolution around another long skip ({inner.merge.label}), as a U-Net does."
            unit.reason = Reason("long_skip", text, (inner.merge.output,))


def _comes_back(unit: Candidate) -> bool:
    if unit.reason is not None:
        return unit.reason.code == "long_skip"
    path = any(node.op in ops.UPSAMPLING for node in unit.path)
    return not path and any(node.op in ops.UPSAMPLING for node in unit.own)
