"""Where a block begins and ends within its module, and whether the module does nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.discovery.paths import LAYOUT, read_beyond
from lacoot_deploy.graph.discovery.trailing import POINTWISE
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.naming import Scope, Scopes

_BEFORE = ops.NORMS | ops.ACTIVATIONS | LAYOUT | POINTWISE


@dataclass(eq=False)
class Group:
    """Units that make one block.

    Attributes:
        units: In graph order; each one's output is the next one's input.
        home: The module that runs them all; None where no module smaller than the model does.
        input: The block's input value.
        exact: Whether the module does nothing but this block.
        output: The block's output value.
        between: Layout nodes between one unit and the next, and after the last.
    """

    units: list[Candidate]
    home: Scope | None
    input: str
    exact: bool = False
    output: str = ""
    between: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = self.output or self.units[-1].output

    def nodes(self) -> dict[int, Node]:
        """Every node of branch, skip path, merge and tail, by position."""
        found = {node.index: node for node in self.between}
        for unit in self.units:
            found.update(unit.nodes())
        return found


class Fitter:
    """Fits the blocks of one graph to their modules."""

    def __init__(self, graph: GraphIndex, scopes: Scopes, live: frozenset[str]) -> None:
        self.graph = graph
        self.live = live
        self._held = scopes.held

    def fit(self, group: Group, *, ignoring: Collection[int] = ()) -> None:
        """Find out whether the module is the block, and let the block start and end where the module does.

        A norm or activation before the branch, which a projected skip shares, becomes part of the block, and so does a
        mere change of layout at either end.

        Args:
            group: The block.
            ignoring: Nodes of further calls of the same module.
        """
        if not group.home:
            return
        own = group.nodes()
        # A fused sum and norm bears one name for two: it may be the next module's.
        held = [node for node in self._held.get(group.home, []) if node.fused not in ops.SKIP_NORMS]
        others = [node for node in held if node.index not in own and node.index not in ignoring]
        before = self._upstream(group.input, others)
        head = self._head(before, own)
        if head:
            group.input, before = head, []
        group.exact = not before and not self._goes_on(group, others)

    def _head(self, before: list[Node], own: Collection[int]) -> str:
        """The one value that a norm or activation before the block reads; "" where there is more to it than that."""
        if not before or any(
            node.op not in _BEFORE or node.domain not in ops.KNOWN_DOMAINS for node in before
        ):
            return ""
        makes = {name for node in before for name in node.outputs if name}
        reads = {name for node in before for name in node.data if name in self.graph.dynamic} - makes
        members = {*own, *(node.index for node in before)}
        if len(reads) != 1 or any(self._read_beyond(name, members) for name in makes):
            return ""
        return reads.pop()

    def is_read_inside(self, group: Group) -> bool:
        """Whether something outside reads a value between two units."""
        own = group.nodes()
        inner = [unit.output for unit in group.units[:-1]]
        inner += [name for node in group.between for name in node.outputs if name]
        return any(name in self.graph.output_set or self._read_beyond(name, own) for name in inner)

    def _read_beyond(self, name: str, own: Collection[int]) -> bool:
        """Whether the data of a value, and not only its shape, is used outside of some nodes."""
        return read_beyond(self.graph, name, own, self.live)

    def _upstream(self, value: str, others: Iterable[Node]) -> list[Node]:
        """The nodes of the module that the block's input comes from, the last first."""
        by_index = {node.index: node for node in others}
        found: dict[int, Node] = {}
        stack, seen = [value], {value}
        while stack:
            node = self.graph.producer.get(stack.pop())
            if node is None or node.index not in by_index:
                continue
            found[node.index] = node
            for name in node.data:
                if name in self.graph.dynamic and name not in seen:
                    seen.add(name)
                    stack.append(name)
        return [found[index] for index in sorted(found, reverse=True)]

    def _goes_on(self, group: Group, others: Iterable[Node]) -> bool:
        """Whether the module goes on after the block; mere layout changes at its end become part of the block."""
        left = {node.index for node in others}
        while group.output not in self.graph.output_set:
            readers = [node for node in self.graph.readers(group.output) if group.output in node.data]
            mine = [node for node in readers if node.index in left]
            if not mine:
                return False
            inside = {*left, *group.nodes()}
            if len(readers) > 1 or mine[0].op not in LAYOUT or self._read_beyond(group.output, inside):
                return True
            group.between.append(mine[0])
            group.output = mine[0].output
        return False
