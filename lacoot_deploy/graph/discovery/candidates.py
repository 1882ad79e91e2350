"""A merge and what was found out about it, before it becomes a unit of a block or a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field

from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.graph.model.index import HIDDEN, Node
from lacoot_deploy.graph.model.naming import Scope


@dataclass(eq=False)
class Candidate:
    """A merge with what was found out about it.

    Attributes:
        merge: The node that adds.
        input: The value x at which skip path and branch part.
        skip: The operand that comes along the skip path.
        branches: The other operands that depend on x.
        region: The nodes of the branch in topological order.
        path: The nodes of the skip path, from the merge backwards.
        sums: Further `Add` nodes of the merge, where several branches are added one after another.
        reason: Why it is refused; None for a unit.
        scope: Innermost module that holds branch and merge; None where unknown.
        tail: Nodes after the merge that belong to the unit, in order (set by `own_tails`).
        output: The value that leaves the unit.
        private: Results of the model that come out of the branch and belong to it alone.
        borrowed: The tail is inside the merge's node, yet belongs to what follows: it has to stay.
    """

    merge: Node
    input: str
    skip: str
    branches: tuple[str, ...]
    region: list[Node]
    path: tuple[Node, ...]
    sums: tuple[Node, ...] = ()
    reason: Reason | None = None
    scope: Scope | None = None
    tail: list[Node] = field(default_factory=list)
    output: str = ""
    private: tuple[str, ...] = ()
    borrowed: bool = False

    def __post_init__(self) -> None:
        self.output = self.output or self.merge.output

    def nodes(self) -> dict[int, Node]:
        """Every node of branch, skip path, merge and tail, by position."""
        return {n.index: n for n in (*self.region, *self.path, *self.sums, self.merge, *self.tail)}

    @property
    def own(self) -> list[Node]:
        """Branch nodes that the skip path does not need."""
        shared = {node.index for node in self.path}
        return [node for node in self.region if node.index not in shared]


def real_value(name: str) -> bool:
    """Whether a value exists in the file, and not only between the parts of a fused node."""
    return HIDDEN not in name
