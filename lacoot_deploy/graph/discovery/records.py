"""A unit in the words of the report: names of values that exist in the file."""

from __future__ import annotations

from lacoot_deploy.graph.discovery.candidates import Candidate, real_value
from lacoot_deploy.graph.model.blocks import ResidualUnit
from lacoot_deploy.graph.model.ops import SKIP_NORMS


def hides_activation(unit: Candidate) -> bool:
    """Whether the merge is inside a node together with the activation after it."""
    return unit.merge.fused not in ("", *SKIP_NORMS) and not real_value(unit.merge.output)


def summed(unit: Candidate) -> str:
    """The merge's result, or the first real value after it where the sum is inside a fused node."""
    if real_value(unit.merge.output):
        return unit.merge.output
    return next((node.output for node in unit.tail), unit.merge.proto.output[0])


def unit_record(candidate: Candidate, name: str) -> ResidualUnit:
    """The unit as it is reported, in names that exist in the file."""
    return ResidualUnit(
        name=name,
        input=candidate.input,
        skip=candidate.skip,
        branch=candidate.branches[0],
        merge=summed(candidate),
        merge_op=candidate.merge.fused or candidate.merge.op,
        trailing=tuple(
            node.output
            for node in candidate.tail
            if real_value(node.output) and node.output != summed(candidate)
        ),
        output=candidate.output if real_value(candidate.output) else summed(candidate),
    )
