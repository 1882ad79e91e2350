"""The module of each unit: said by the exporter, or put together from the names of the branch's weights.

Where tools have dropped everything but weight names, the branch tells `blocks.0.attn` and not that the module
which adds is `blocks.0`. Then the module is taken to be the largest one that holds nothing else, or one entry of a
numbered list that holds a chain of units and little else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.discovery.trailing import find_tail
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.naming import Scope, Scopes, common, inside

_WORKING = ops.LINEAR | ops.SUBSTANTIAL | {"ReduceMean"}


def set_scopes(graph: GraphIndex, scopes: Scopes, candidates: Sequence[Candidate]) -> None:
    """Set the scope of every candidate; () is the model itself, None unknown."""
    guessed: list[Candidate] = []
    for candidate in candidates:
        candidate.scope = _scope_of(candidate, scopes)
        if (
            candidate.scope is not None
            and "/" in candidate.merge.name
            and not candidate.merge.name.startswith("/")
        ):
            candidate.scope = _by_prefix(candidate, candidate.scope, scopes)
        if scopes.said(candidate.merge) is None and candidate.scope:
            guessed.append(candidate)
    if not guessed:
        return
    units = [candidate for candidate in candidates if candidate.reason is None and candidate.scope]
    choices = [_widen(graph, candidate, units, scopes.held) for candidate in guessed]
    # A stage of one block says nothing about which of the two is the block: its neighbours do.
    kinds = {_kind(choice[-1]) for choice in choices}
    for candidate, choice in zip(guessed, choices, strict=True):
        candidate.scope = next(scope for scope in choice if _kind(scope) in kinds)


def _kind(scope: Scope) -> str:
    """The scope without its numbers: entries of one list are of one kind."""
    return re.sub(r"\d+", "#", ".".join(scope))


def _scope_of(candidate: Candidate, scopes: Scopes) -> Scope | None:
    """The module that holds merge and branch, as told by the merge and by the branch's linear operators and norms.

    The rest of the branch counts only where these say nothing: optimisers share and move what is mere layout. A fused
    merge bears the weights of the norm after it, which may be the next block's.
    """
    merge = scopes.said(candidate.merge) if candidate.merge.fused else scopes.of(candidate.merge)
    work = [
        scope for node in candidate.own if node.op in ops.LINEAR and (scope := scopes.of(node)) is not None
    ]
    if merge is not None and work:
        if candidate.merge.fused:
            # The node may bear the name of the next layer, whose norm it holds: the branch tells which layer adds.
            entry = _through_last_number(common(work) or ())
            if entry and not inside(merge, entry):
                return entry
        return common([merge, *work])
    return common([merge, *(scopes.of(node) for node in candidate.own)])


def _through_last_number(scope: Scope) -> Scope:
    """The entry of the innermost numbered list in a scope; () where there is none."""
    while scope and not scope[-1].isdigit():
        scope = scope[:-1]
    return scope


def _by_prefix(candidate: Candidate, scope: Scope, scopes: Scopes) -> Scope:
    """Keras names layers in one flat list: what `conv2_block1_1_conv` and `conv2_block1_add` share is the block."""
    depth = len(scope)
    inner = [scopes.of(node) for node in (*candidate.own, candidate.merge)]
    names = {name[depth] for name in inner if name and len(name) > depth}
    if len(names) < 2:
        return scope
    words = common([tuple(name.split("_")) for name in names])
    part = "_".join(words or ())
    return (*scope, part) if any(sign.isdigit() for sign in part) else scope


def _widen(
    graph: GraphIndex, candidate: Candidate, units: Sequence[Candidate], held: dict[Scope, list[Node]]
) -> list[Scope]:
    """The modules that may be the unit's, from the innermost outwards."""
    own = set(candidate.nodes())
    tail = find_tail(graph, candidate.merge.output)
    if tail is not None:
        own.update(node.index for node in tail.nodes)
    scope = candidate.scope or ()
    found = [scope]
    for length in range(len(scope) - 1, 0, -1):
        wider = scope[:length]
        inner = [unit.scope for unit in units if unit.scope and unit.scope[:length] == wider]
        if len(inner) > 1:
            children = {child[length] for child in inner if len(child) > length}
            if wider[-1].isdigit() and not any(child.isdigit() for child in children):
                return [wider]
            break
        if any(node.index not in own for node in held.get(wider, ())):
            break
        if wider[-1].isdigit() or not found[-1][-1].isdigit():
            found.append(wider)
    return found
