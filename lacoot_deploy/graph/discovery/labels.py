"""Names of blocks and units."""

from __future__ import annotations

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.discovery.fitting import Group
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.naming import Scope, Scopes, join, parse_slashed

_MERGES = ("add", "sum", "addv2", "addn", "biasadd")


def block_name(group: Group) -> str:
    """The module path where the block is a module, else the module and the merge in it."""
    if group.home is None:
        return derived_name(group.units[-1])
    home = _join(group.home, group.units[-1])
    return home if group.exact else f"{home}:{short_name(group.units[-1])}"


def unit_name(group: Group, unit: Candidate, scopes: Scopes) -> str:
    """Name of one unit of a block with several: its own module, else the part of the block that does the work."""
    if group.home is None:
        return derived_name(unit)
    home = _join(group.home, unit)
    if unit.scope and unit.scope != group.home:
        return _join(unit.scope, unit)
    depth = len(group.home)
    weights: dict[str, int] = {}
    for node in unit.own:
        scope = scopes.of(node)
        if scope and len(scope) > depth:
            heavy = node.op in ops.LINEAR
            weights[scope[depth]] = weights.get(scope[depth], 0) + (100 if heavy else 1)
    return f"{home}:{max(weights, key=lambda child: weights[child]) if weights else short_name(unit)}"


def derived_name(unit: Candidate) -> str:
    """A name from the merge node, for a block that is no module."""
    name = unit.merge.name
    if name.startswith("/"):
        return join((*parse_slashed(name), name.rpartition("/")[2]))
    name = name.removeprefix("node_")
    head, _, last = name.rpartition("/")
    return (head if head and last.lower().rstrip("_0123456789") in _MERGES else name) or unit.merge.label


def short_name(unit: Candidate) -> str:
    """The merge node's own name without its scopes."""
    return derived_name(unit).replace("/", ".").rpartition(".")[2]


def _join(scope: Scope, unit: Candidate) -> str:
    """A scope as text, the way the framework writes it that the node's name comes from."""
    name = unit.merge.name
    return ("/" if "/" in name and not name.startswith("/") else ".").join(scope)
