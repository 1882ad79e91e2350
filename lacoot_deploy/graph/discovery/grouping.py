"""Units that one module runs one after the other become one block."""

from __future__ import annotations

from collections.abc import Sequence

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.discovery.fitting import Fitter, Group
from lacoot_deploy.graph.discovery.paths import LAYOUT
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.naming import Scope, Scopes

Links = dict[int, tuple[Candidate, list[Node]]]
"""For each unit (by identity) the one that it follows, with the layout nodes between them."""


class Grouper:
    """Groups the units of one graph."""

    def __init__(self, graph: GraphIndex, scopes: Scopes, live: frozenset[str]) -> None:
        self.graph = graph
        self.scopes = scopes
        self._fitter = Fitter(graph, scopes, live)

    def group(self, units: Sequence[Candidate]) -> list[Group]:
        """Blocks in graph order of their last merge.

        A block of several units is one module, called once, that does nothing else. Where a module runs more than its
        units, they stand alone.
        """
        groups = [part for chain in self._chains(units) for part in self._split_loop(chain)]
        done = self._fit(groups)
        loose = [group for group in done if len(group.units) > 1 and not group.exact]
        if not loose:
            return done
        parts = self._fit([self._alone(unit) for group in loose for unit in group.units])
        kept = [group for group in done if group not in loose]
        return sorted([*kept, *parts], key=lambda group: group.units[-1].merge.index)

    def single(self, unit: Candidate) -> Group:
        """A block of one unit."""
        group = self._alone(unit)
        self._fitter.fit(group)
        return group

    def _alone(self, unit: Candidate) -> Group:
        return Group([unit], unit.scope or None, unit.input)

    def _chains(self, units: Sequence[Candidate]) -> list[Group]:
        """Neighbouring units that share a module, up to where the module is called once more."""
        links = self._links(units)
        homes = _homes(units, links)
        groups: list[Group] = []
        member: dict[int, Group] = {}
        for unit in units:
            home = homes[id(unit)]
            previous, passed = links.get(id(unit), (None, []))
            group = member.get(id(previous))
            if group is None or not self._continues(group, unit, previous, home):
                group = None
            if group is None:
                group = Group([unit], home, unit.input)
                groups.append(group)
            else:
                group.units.append(unit)
                group.output = unit.output
                group.between.extend(passed)
            member[id(unit)] = group
        return groups

    def _continues(
        self, group: Group, unit: Candidate, previous: Candidate | None, home: Scope | None
    ) -> bool:
        if group.units[-1] is not previous or not home or group.home != home:
            return False
        return self._signature([unit]) != self._signature(group.units[:1])

    def _fit(self, groups: list[Group]) -> list[Group]:
        """Fit every group to its module; calls of one module do not count as more of it."""
        twins: dict[tuple[object, ...], set[int]] = {}
        for group in groups:
            twins.setdefault(self._signature(group.units), set()).update(group.nodes())
        for group in groups:
            self._fitter.fit(group, ignoring=twins[self._signature(group.units)])
        return groups

    def _signature(self, units: Sequence[Candidate]) -> tuple[object, ...]:
        """What units are made of and where; the same for two calls of one module."""
        nodes = [node for unit in units for node in (*unit.own, unit.merge)]
        return tuple((self.scopes.of(node), node.op) for node in nodes)

    def _links(self, units: Sequence[Candidate]) -> Links:
        by_output = {unit.output: unit for unit in units}
        links: Links = {}
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

    def _split_loop(self, group: Group) -> list[Group]:
        """The group, or its units one by one where they are a loop or something reads between them."""
        if len(group.units) == 1:
            return [group]
        if not self._is_loop(group) and not self._fitter.is_read_inside(group):
            return [group]
        return [self._alone(unit) for unit in group.units]

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


def _through_number(scope: Scope, depth: int) -> Scope:
    """The scope cut after the first number below a depth."""
    for position in range(depth, len(scope)):
        if scope[position].isdigit():
            return scope[: position + 1]
    return scope[: depth + 1]


def _holds(outer: Scope, inner: Scope) -> bool:
    """Whether a module holds another one as a part of its own, and not as an entry of a list of them."""
    return inner[: len(outer)] == outer and not any(part.isdigit() for part in inner[len(outer) :])


def _homes(units: Sequence[Candidate], links: Links) -> dict[int, Scope | None]:
    """For each unit the outermost module among those that it and its neighbours in the chain run in."""
    homes: dict[int, Scope | None] = {id(unit): unit.scope or None for unit in units}
    for order in (units, list(reversed(units)), units):
        for unit in order:
            link = links.get(id(unit))
            if link is None:
                continue
            a, b = homes[id(unit)], homes[id(link[0])]
            if a and b and a != b:
                if _holds(a, b):
                    homes[id(link[0])] = a
                elif _holds(b, a):
                    homes[id(unit)] = b
    return homes
