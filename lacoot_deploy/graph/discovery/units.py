"""Residual units of one graph: every merge is looked at, and comes out as a unit, refused, or as no merge at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from lacoot_deploy.graph.discovery.candidates import Candidate
from lacoot_deploy.graph.discovery.gates import gated_product, gated_sum
from lacoot_deploy.graph.discovery.overlaps import drop_sums_of_skips, refuse_nested_resolutions
from lacoot_deploy.graph.discovery.paths import (
    LAYOUT,
    SkipStep,
    between,
    joins_a_sum,
    leaks,
    live_values,
    makers,
    skip_steps,
)
from lacoot_deploy.graph.discovery.privacy import private_results
from lacoot_deploy.graph.discovery.sums import common_source
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.graph.model.index import GraphIndex, ModelIndex, Node
from lacoot_deploy.graph.model.naming import Scope, Scopes, common
from lacoot_deploy.graph.model.table import ShapeTable, same_shape
from lacoot_deploy.graph.shapes.rules import broadcast

_ON_INTEGERS = (
    "The block computes on integers, each with a scale of its own (QOperator format); collapse before quantising, or "
    "quantise in QDQ format."
)


class Finder:
    """Finds the candidates of one graph."""

    def __init__(
        self,
        model: ModelIndex,
        graph: GraphIndex,
        table: ShapeTable,
        scopes: Scopes,
        *,
        private_io: bool = False,
    ) -> None:
        self.model = model
        self._private_io = private_io
        self.graph = graph
        self.table = table
        self.scopes = scopes
        self.live = live_values(graph)
        self._working: dict[tuple[str, str], bool] = {}

    def candidates(self) -> list[Candidate]:
        """All candidates in graph order, refused ones included; sums that are no merge are left out."""
        found: dict[int, Candidate] = {}
        for node in self.graph.nodes:
            if node.op not in ops.MERGES or node.domain or node.output not in self.live:
                continue
            if node.op not in ops.ADD:
                candidate = self._beside_sums(node)
                if candidate is not None:
                    found[node.index] = candidate
                continue
            candidate = self._look_at(node, self._operands(node), ())
            sums = self._chain(node)
            if sums:
                operands = [name for add in (node, *sums) for name in self._operands(add)]
                own = {add.output for add in sums}
                whole = self._look_at(node, [name for name in operands if name not in own], sums)
                if whole is not None and whole.reason is None and self._is_one_sum(whole, candidate, found):
                    candidate = whole
                    for add in sums:
                        found.pop(add.index, None)
            candidate = candidate or gated_sum(self.graph, node, self.is_linear) or self._without_skip(node)
            if candidate is not None:
                found[node.index] = candidate
        refuse_nested_resolutions(found)
        drop_sums_of_skips(found)
        inner = {node.index for unit in found.values() if unit.reason is None for node in unit.own}
        for unit in found.values():
            if unit.reason is not None and unit.reason.code == "gated":
                inner.update(node.index for node in (*unit.region, *unit.path))
        # A sum inside the branch of a unit goes with the unit: only what could go by itself is worth naming.
        return [unit for index, unit in sorted(found.items()) if unit.reason is None or index not in inner]

    def _is_one_sum(self, whole: Candidate, last: Candidate | None, found: dict[int, Candidate]) -> bool:
        """Whether sums that feed one another are one merge: the parts are no units, or units of the same input."""
        if last is None or last.reason is not None:
            return True
        return all(found[add.index].input == whole.input for add in whole.sums if add.index in found)

    def _operands(self, merge: Node) -> list[str]:
        return [name for name in merge.inputs if name and name in self.graph.dynamic]

    def _beside_sums(self, merge: Node) -> Candidate | None:
        """A residual by subtraction, x - F(x), or a gate on x, which is refused."""
        operands = self._operands(merge)
        if len(operands) != 2 or operands[0] == operands[1]:
            return None
        if merge.op == "Sub":
            return self._look_at(merge, operands, (), skips=operands[:1])
        return gated_product(self.graph, merge, self.is_linear, self.table)

    def _chain(self, merge: Node) -> tuple[Node, ...]:
        """The sums that only feed this merge: `(x + a) + b` is one merge of three operands."""
        sums: list[Node] = []
        stack = self._operands(merge)
        while stack:
            name = stack.pop()
            node = self.graph.producer.get(name)
            if (
                node is None
                or node.op not in ops.ADD
                or node.domain
                or node.fused
                or name in self.graph.output_set
            ):
                continue
            if len(self.graph.readers(name)) == 1 and len(self._operands(node)) > 1 and len(sums) < 8:
                sums.append(node)
                stack.extend(self._operands(node))
        return tuple(sums)

    def _look_at(
        self, merge: Node, operands: list[str], sums: tuple[Node, ...], skips: Sequence[str] = ()
    ) -> Candidate | None:
        if len(operands) < 2 or len(set(operands)) < len(operands):
            return None
        if self._scores(merge):
            return None
        best: tuple[tuple[int, int, int], Candidate] | None = None
        for skip in skips or operands:
            others = tuple(name for name in operands if name != skip)
            if self._widened(skip, others):
                continue
            for step in skip_steps(self.graph, skip):
                candidate = self._try(merge, skip, others, step, sums)
                if candidate is not None:
                    # The plainer skip wins; among equals the one whose branch does more.
                    rank = (step.projections, step.changes, -len(candidate.region))
                    if best is None or rank < best[0]:
                        best = (rank, candidate)
                    break
        return best[1] if best else None

    def _without_skip(self, merge: Node) -> Candidate | None:
        """A sum of two branches of one value, which is no unit but looks like one."""
        operands = self._operands(merge)
        if len(set(operands)) != 2 or self._broadcasts(operands) or self._scores(merge):
            return None
        found = common_source(self.graph, operands, self.is_linear)
        if found is None:
            return None
        source, region = found
        text = f"The merge adds two branches of {source}, and neither is a skip path."
        reason = Reason("no_skip", text, (source,))
        if merge.fused in ops.QUANTIZED:
            reason = Reason("quantized", _ON_INTEGERS, (source,))
        return Candidate(merge, source, operands[0], tuple(operands[1:]), region, (), reason=reason)

    def _broadcasts(self, operands: Iterable[str]) -> bool:
        """Whether the operands are known to differ in shape: a bias, a mask or an embedding."""
        shapes = [self.table.shape(name) for name in operands]
        return any(same_shape(shapes[0], other) is False for other in shapes[1:])

    def _widened(self, skip: str, others: Iterable[str]) -> bool:
        """Whether an operand is known to be smaller than the sum: a mask, a bias or a shift, no skip."""
        shape = whole = self.table.shape(skip)
        for name in others:
            other = self.table.shape(name)
            if other != shape or None in (shape or (None,)):
                whole = broadcast(whole, other)
        return whole is not shape and same_shape(shape, whole) is False

    def _scores(self, merge: Node) -> bool:
        """Whether the sum is of attention scores: what follows, elementwise, is a softmax."""
        at = merge.output
        for _ in range(8):
            readers = self.graph.readers(at)
            if len(readers) != 1:
                return False
            node = readers[0]
            if node.op == "Softmax":
                return True
            if node.op not in ("Add", "Mul", "Div", "Where", "Cast", "Reshape", "Max", "Min", "Transpose"):
                return False
            at = node.output
        return False

    def _try(
        self, merge: Node, skip: str, others: tuple[str, ...], step: SkipStep, sums: tuple[Node, ...]
    ) -> Candidate | None:
        regions = [between(self.graph, step.value, name) for name in others]
        reached = [region for region in regions if region is not None]
        if not reached:
            return None
        nodes = {node.index: node for region in reached for node in region}
        region = [nodes[index] for index in sorted(nodes)]
        candidate = Candidate(merge, step.value, skip, others, region, step.nodes, sums)
        work = self._work(candidate.own)
        if work == 0 or (step.projections and work < 2):
            return None
        if len(reached) < len(regions):
            foreign = tuple(name for name, region in zip(others, regions, strict=True) if region is None)
            candidate.reason = Reason(
                "foreign_operand",
                f"The merge also adds {foreign[0]}, which does not come from {step.value}.",
                foreign,
            )
        candidate.reason = candidate.reason or self._refusal(candidate)
        return candidate

    def _work(self, nodes: Iterable[Node]) -> int:
        """0 for a branch that only reshuffles, 1 for a single linear operator, 2 for anything more."""
        linear = bending = substantial = 0
        for node in nodes:
            if self.is_linear(node):
                linear += 1
            elif node.op in ops.SUBSTANTIAL:
                substantial += 1
            elif node.op in ops.ACTIVATIONS or node.op == "Softmax":
                bending += 1
        if linear == 0:
            return 1 if substantial else 0
        return 2 if linear > 1 or bending else 1

    def is_linear(self, node: Node) -> bool:
        """Whether the node holds weights or multiplies activations, or may do so out of sight."""
        if node.captured:
            return True
        key = (node.domain, node.op)
        if key in self.model.functions:
            if key not in self._working:
                self._working[key] = True
                body = self.model.functions[key].node
                self._working[key] = any(
                    inner.op_type in ops.LINEAR
                    or inner.domain not in ops.KNOWN_DOMAINS
                    or any(attr.HasField("g") for attr in inner.attribute)
                    for inner in body
                )
            return self._working[key]
        return node.op in ops.LINEAR or node.domain not in ops.KNOWN_DOMAINS

    def _refusal(self, candidate: Candidate) -> Reason | None:
        graph = self.graph
        nodes = (*candidate.region, *candidate.path, candidate.merge)
        quantized = [node for node in nodes if node.op in ops.QUANTIZED or node.fused in ops.QUANTIZED]
        if quantized:
            return Reason("quantized", _ON_INTEGERS, (quantized[0].output,))
        ups = [node for node in candidate.own if node.op in ops.UPSAMPLING]
        resized = any(node.op in ops.UPSAMPLING for node in candidate.path)
        if ups and not resized and not self._is_inside_a_module(candidate):
            return Reason(
                "long_skip",
                f"The branch changes resolution and comes back ({ups[0].label}): a long skip connection as in a "
                f"feature pyramid or U-Net, not a block.",
                (ups[0].output,),
            )
        allowed = {node.index for node in candidate.region} | {candidate.merge.index}
        allowed |= {node.index for node in (*candidate.path, *candidate.sums)}
        read = leaks(graph, candidate.own, allowed, self.live)
        if not read or self._rest_can_go(candidate, read, allowed):
            return None
        candidate.private = private_results(graph, candidate.merge, read, allowed, self.live)
        if not candidate.private:
            text = f"The inside of the branch is also read elsewhere ({read[0]})."
            return Reason("interior_read", text, tuple(read[:8]))
        if self._private_io:
            return None
        text = (
            f"The model's output {candidate.private[0]} comes out of the branch and belongs to it alone; "
            f"--drop-private-io takes such outputs and inputs along."
        )
        return Reason("interior_read", text, tuple(read[:8]))

    def _rest_can_go(self, candidate: Candidate, read: Sequence[str], allowed: set[int]) -> bool:
        """Whether what others read of a branch can stay while work goes: a shared first norm, a sum of skips.

        Where what stays works itself, its readers must be such as add it to the like from elsewhere: otherwise the
        branch is the way to another part of the network.
        """
        if any(name in self.graph.output_set for name in read):
            return False
        stays = makers(self.graph, candidate.own, read)
        rest = [node for node in candidate.own if node.index not in stays]
        if not any(map(self.is_linear, rest)):
            return False
        working = any(self.is_linear(node) for node in candidate.own if node.index in stays)
        return not working or all(joins_a_sum(self.graph, name, allowed, self.live) for name in read)

    def _is_inside_a_module(self, candidate: Candidate) -> bool:
        """Whether a module, and not the network, runs branch and merge, and the skip is its very input."""
        if any(node.op not in LAYOUT for node in candidate.path):
            return False
        scopes = [self.scopes.of(node) for node in candidate.own if self.is_linear(node)]
        where = common([self.scopes.of(candidate.merge), *scopes])
        return bool(where) and where != self._whole

    @cached_property
    def idle(self) -> frozenset[int]:
        """Positions of the nodes that contribute to no result."""
        return frozenset(node.index for node in self.graph.nodes if self.live.isdisjoint(node.outputs))

    @cached_property
    def _whole(self) -> Scope:
        """The module that holds every node whose module is known."""
        nodes = (node for node in self.graph.nodes if node.output in self.live)
        return common(self.scopes.of(node) for node in nodes) or ()
