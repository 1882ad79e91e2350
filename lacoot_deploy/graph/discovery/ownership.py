"""Which activation or norm after a merge belongs to its unit, and which to what follows."""

from __future__ import annotations

from collections.abc import Sequence

from lacoot_deploy.graph.discovery.candidates import Candidate, real_value
from lacoot_deploy.graph.discovery.scoping import set_scopes
from lacoot_deploy.graph.discovery.trailing import Tail, find_tail
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.naming import Scopes, inside


def own_tails(graph: GraphIndex, scopes: Scopes, candidates: Sequence[Candidate]) -> None:
    """Set scope, tail and output of every candidate.

    A tail belongs to the unit if the unit's module ran it. Where modules are unknown, or the unit's is the whole
    model, the structure decides: a unit whose branch starts with an activation or a norm on its input is of the kind
    that puts them first, so what follows its merge is the next block's or the model's last. So is the norm in a fused
    merge, whatever it is called, unless the skips themselves run through such norms.
    """
    set_scopes(graph, scopes, candidates)
    inputs = {candidate.input for candidate in candidates}
    skips = {candidate.skip for candidate in candidates if candidate.reason is None}
    for candidate in candidates:
        at = candidate.merge.output
        for _ in range(2):
            tail = find_tail(graph, at)
            if tail is None:
                break
            on_skip = candidate.merge.fused in ops.SKIP_NORMS and tail.output in skips
            belongs = on_skip or _belongs(graph, scopes, candidate, tail, inputs)
            if not belongs and real_value(at):
                break
            # Inside a fused node there is no value between the sum and what follows.
            candidate.borrowed = candidate.borrowed or not belongs
            candidate.tail.extend(tail.nodes)
            at = tail.output
            if tail.kind == "activation" or candidate.borrowed:
                break
        pair = _rounded(graph, candidate, at)
        candidate.tail.extend(pair)
        candidate.output = pair[-1].output if pair else at


def _rounded(graph: GraphIndex, candidate: Candidate, value: str) -> tuple[Node, ...]:
    """The pair that rounds the unit's result as its input was rounded: the block lies between the two pairs.

    The value that stays then keeps the scale that it has.
    """
    maker = graph.producer.get(candidate.input)
    if maker is None or maker.op != "DequantizeLinear" or value in graph.output_set:
        return ()
    nodes: list[Node] = []
    for op in ops.SCALING_PAIR:
        readers = graph.readers(value)
        if (
            len(readers) != 1
            or readers[0].op != op
            or readers[0].inputs[0] != value
            or value in graph.output_set
        ):
            return ()
        nodes.append(readers[0])
        value = readers[0].output
    return tuple(nodes)


def _belongs(graph: GraphIndex, scopes: Scopes, candidate: Candidate, tail: Tail, inputs: set[str]) -> bool:
    where = scopes.of(tail.nodes[-1])
    # A fused node bears the name of its sum or of its norm, as the fusion went: it does not tell whose norm it is.
    if candidate.merge.fused not in ops.SKIP_NORMS and candidate.scope and where is not None:
        return inside(where, candidate.scope)
    starts_bent = _starts_with(graph, candidate, tail.kind)
    if tail.kind == "activation":
        return candidate.merge.fused != "" or not starts_bent
    if starts_bent:
        return False
    maker = graph.producer.get(candidate.input)
    normed = maker is not None and (maker.op in ops.NORMS or maker.op == "EmbedLayerNormalization")
    spelt = maker is not None and maker.op in ("Add", "Mul") and any(map(graph.constant, maker.inputs))
    return normed or spelt or tail.output in inputs


def _starts_with(graph: GraphIndex, candidate: Candidate, kind: str) -> bool:
    """Whether the first thing the branch does to its input is an activation (or a norm)."""
    first = [node for node in candidate.own if candidate.input in node.inputs]
    kinds = ops.NORMS | {"ReduceMean"} if kind == "norm" else ops.ACTIVATIONS | ops.NORMS | {"ReduceMean"}
    return any(node.op in kinds for node in first)
