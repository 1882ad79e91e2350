"""Units that one module runs one after the other become one block; every block gets its name here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from lacoot_deploy.graph import ops
from lacoot_deploy.graph.discovery.paths import LAYOUT, escapes
from lacoot_deploy.graph.discovery.scoping import holders
from lacoot_deploy.graph.discovery.units import Candidate
from lacoot_deploy.graph.index import GraphIndex, Node
from lacoot_deploy.graph.naming import Scope, Scopes, join


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


class Grouper:
    """Groups the units of one graph."""

    def __init__(self, graph: GraphIndex, scopes: Scopes, live: frozenset[str]) -> None:
        self.graph = graph
        self.live = live
        self.scopes = scopes
        self._by_prefix = holders(graph, scopes)

    def group(self, units: Sequence[Candidate]) -> list[Group]:
        """Blocks in graph order of their last merge."""
        links = self._links(units)
        homes = _homes(units, links)
        groups: list[Group] = []
        member: dict[int, Group] = {}
        for unit in units:
            home = homes[id(unit)]
            previous = links.get(id(unit))
            group = member.get(id(previous[0])) if previous else None
            if (
                previous
                and group is not None
                and home
                and group.home == home
                and group.units[-1] is previous[0]
            ):
                group.units.append(unit)
                group.output = unit.output
                group.between.extend(previous[1])
            else:
                group = Group([unit], home, unit.input)
                groups.append(group)
            member[id(unit)] = group
        split = [part for group in groups for part in self._checked(group)]
        twins: dict[tuple[object, ...], set[int]] = {}
        for group in split:
            twins.setdefault(self._signature(group.units), set()).update(group.nodes())
        for group in split:
            self._fit_module(group, ignoring=twins[self._signature(group.units)])
        return split

    def _signature(self, units: Sequence[Candidate]) -> tuple[object, ...]:
        """What a unit is made of; the same for two calls of one module."""
        nodes = [node for unit in units for node in (*unit.own, unit.merge)]
        return tuple((self.scopes.of(node), node.op) for node in nodes)

    def _again(self, group: Group, unit: Candidate) -> bool:
        """Whether a unit is what the group began with: the module is called once more."""
        return any(node.op in ops.LINEAR for node in unit.own) and self._signature([unit]) == self._signature(
            group.units[:1]
        )

    def single(self, unit: Candidate) -> Group:
        """A block of one unit."""
        group = Group([unit], unit.scope or None, unit.input)
        self._fit_module(group)
        return group

    def _links(self, units: Sequence[Candidate]) -> dict[int, tuple[Candidate, list[Node]]]:
        """For each unit the one that it follows, with the layout nodes between them."""
        by_output = {unit.output: unit for unit in units}
        links: dict[int, tuple[Candidate, list[Node]]] = {}
        for unit in units:
            at = unit.input
            passed: list[Node] = []
            while at not in by_output and len(passed) < 8:
                node = self.graph.producer.get(at)
                if node is None or node.op not in LAYOUT or len(node.data) != 1:
                    break
                passed.append(node)
                at = node.data[0]
            if at in by_output:
                links[id(unit)] = (by_output[at], passed[::-1])
        return links

    def _checked(self, group: Group) -> list[Group]:
        """The group itself, or its units one by one where they are not one region or only a loop over modules."""
        if len(group.units) == 1:
            return [group]
        if not self._is_loop(group) and not self._is_read_inside(group):
            return [group]
        return [Group([unit], unit.scope or None, unit.input) for unit in group.units]

    def _is_loop(self, group: Group) -> bool:
        """Whether every branch is another member of one numbered list: a stage that adds in its own forward."""
        depth = len(group.home or ())
        children: list[Scope] = []
        for unit in group.units:
            scopes = [scope for node in unit.own if (scope := self.scopes.of(node)) and len(scope) > depth]
            heads = {_through_number(scope, depth) for scope in scopes}
            if len(heads) != 1:
                return False
            children.append(heads.pop())
        numbered = all(child[-1].isdigit() for child in children)
        return (
            numbered and len({child[:-1] for child in children}) == 1 and len(set(children)) == len(children)
        )

    def _is_read_inside(self, group: Group) -> bool:
        own = group.nodes()
        inner = [unit.output for unit in group.units[:-1]]
        inner += [name for node in group.between for name in node.outputs if name]
        return any(name in self.graph.output_set or self._read_beyond(name, own) for name in inner)

    def _read_beyond(self, name: str, own: Collection[int]) -> bool:
        """Whether the data of a value, and not only its shape, is used outside of some nodes."""
        allowed = set(own)
        return any(
            reader.index not in own and escapes(self.graph, reader, allowed, self.live)
            for reader in self.graph.readers(name)
        )

    def _fit_module(self, group: Group, *, ignoring: Collection[int] = ()) -> None:
        """Find out whether the module is the block, and let the block start where the module does.

        Args:
            group: The block.
            ignoring: Nodes of further calls of the same module.
        """
        if not group.home:
            return
        own = group.nodes()
        others = [
            node
            for node in self._by_prefix.get(group.home, [])
            if node.index not in own and node.index not in ignoring
        ]
        before = self._upstream(group.input, others)
        if before and all(node.op in ops.NORMS | ops.ACTIVATIONS | LAYOUT for node in before):
            head = before[-1].data[0]
            makes = {name for node in before for name in node.outputs}
            members = {*own, *(node.index for node in before)}
            if not any(self._read_beyond(name, members) for name in makes if name):
                group.input = head
                before = []
        after = self._downstream(group, others)
        group.exact = not before and not after

    def _downstream(self, group: Group, others: Iterable[Node]) -> bool:
        """Whether the module goes on after the block; mere layout changes at its end become part of the block."""
        left = {node.index for node in others}
        while True:
            if group.output in self.graph.output_set:
                return False
            readers = self.graph.readers(group.output)
            mine = [node for node in readers if node.index in left and group.output in node.data]
            if not mine:
                return False
            if len(readers) > 1 or mine[0].op not in LAYOUT:
                return True
            group.between.append(mine[0])
            group.output = mine[0].output

    def _upstream(self, value: str, others: Iterable[Node]) -> list[Node]:
        by_index = {node.index: node for node in others}
        found: list[Node] = []
        stack, seen = [value], {value}
        while stack:
            node = self.graph.producer.get(stack.pop())
            if node is None or node.index not in by_index:
                continue
            found.append(node)
            for name in node.data:
                if name in self.graph.dynamic and name not in seen:
                    seen.add(name)
                    stack.append(name)
        return sorted(set(found), key=lambda node: -node.index)


def _through_number(scope: Scope, depth: int) -> Scope:
    """The scope cut after the first number below a depth."""
    for position in range(depth, len(scope)):
        if scope[position].isdigit():
            return scope[: position + 1]
    return scope[: depth + 1]


def _homes(
    units: Sequence[Candidate], links: dict[int, tuple[Candidate, list[Node]]]
) -> dict[int, Scope | None]:
    """For each unit the outermost module among those that it and its neighbours in the chain run in."""
    homes: dict[int, Scope | None] = {id(unit): unit.scope or None for unit in units}
    for order in (units, list(reversed(units)), units):
        for unit in order:
            link = links.get(id(unit))
            if link is None:
                continue
            a, b = homes[id(unit)], homes[id(link[0])]
            if a and b and a != b:
                if b[: len(a)] == a:
                    homes[id(link[0])] = a
                elif a[: len(b)] == b:
                    homes[id(unit)] = b
    return homes


def derived_name(unit: Candidate) -> str:
    """A name from the merge node, for a block that is no module."""
    name = unit.merge.name.removeprefix("node_").strip("/")
    parts = name.split("/")
    if len(parts) > 1 and parts[-1].lower().rstrip("_0123456789") in ("add", "sum", "addv2"):
        return "/".join(parts[:-1]) if not unit.merge.name.startswith("/") else ".".join(parts)
    return name.replace("/", ".") or unit.merge.label


def short_name(unit: Candidate) -> str:
    """The merge node's own name without its scopes."""
    return derived_name(unit).replace("/", ".").rpartition(".")[2]


def block_name(group: Group) -> str:
    """The module path where the block is a module, else the module and the merge in it."""
    if group.home is None:
        return derived_name(group.units[-1])
    return join(group.home) if group.exact else f"{join(group.home)}:{short_name(group.units[-1])}"


def unit_name(group: Group, unit: Candidate, scopes: Scopes) -> str:
    """Name of one unit of a block with several."""
    if group.home is None:
        return derived_name(unit)
    if unit.scope and unit.scope != group.home:
        return join(unit.scope)
    depth = len(group.home)
    weights: dict[str, int] = {}
    for node in unit.own:
        scope = scopes.of(node)
        if scope and len(scope) > depth:
            heavy = node.op in ops.LINEAR
            weights[scope[depth]] = weights.get(scope[depth], 0) + (100 if heavy else 1)
    if not weights:
        return f"{join(group.home)}:{short_name(unit)}"
    return f"{join(group.home)}:{max(weights, key=lambda child: weights[child])}"
