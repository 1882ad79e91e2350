"""The cut itself, on an onnx-graphsurgeon graph: rewire the readers of a block's output, insert what stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Block, Form, ResidualUnit
from lacoot_deploy.graph.model.walk import (
    attribute,
    attributes_of,
    describe,
    initializer_names,
    subgraphs,
    walk_graphs,
    walk_nodes,
)
from lacoot_deploy.graph.surgery.carry import FREE_INITIALIZERS_SINCE_IR, NODE_KEY
from lacoot_deploy.graph.surgery.cuts import Cut, Repair
from lacoot_deploy.graph.surgery.norms import DEFAULT_EPSILON, FUSED_MERGES, NORM_OUTPUT, SUM_OUTPUT, add_norm
from lacoot_deploy.graph.surgery.repairs import Chain, add_repair


@dataclass(eq=False)
class Scope:
    """One graph of the model: the main graph or one inside a node.

    Attributes:
        graph: The onnx-graphsurgeon graph.
        path: How it is reached, as in `Block.scope`.
        outer: The scope around it.
        tensors: Its tensors by name, as they were before surgery.
        producers: Its nodes by output name, as they were before surgery.
        inserted: New nodes by the identity of the node that they go before.
    """

    graph: Any
    path: tuple[str, ...]
    outer: Scope | None
    tensors: dict[str, Any]
    producers: dict[str, Any]
    inserted: dict[int, list[Any]] = field(default_factory=dict)

    def insert(self, nodes: Sequence[Any], before: Any) -> None:
        """Note new nodes that go before one that was there; `Cutter.finish` puts them in."""
        self.inserted.setdefault(id(before), []).extend(nodes)

    def find(self, name: str) -> Any | None:
        """The tensor of that name that nodes of this graph see."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.tensors:
                return scope.tensors[name]
            scope = scope.outer
        return None


class Cutter:
    """Applies cuts to an imported graph.

    Args:
        graph: The onnx-graphsurgeon graph of the model's wiring, changed in place.
        model: The model that the wiring was taken from.
    """

    def __init__(self, graph: Any, model: onnx.ModelProto):
        self._protos = {f"{NODE_KEY}{number}": node for number, node in enumerate(walk_nodes(model.graph))}
        self._scopes = list(self._walk(graph, (), None))
        self._free_initializers = model.ir_version >= FREE_INITIALIZERS_SINCE_IR
        self._replaced: dict[int, Any] = {}
        self._opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self._model = model

    @cached_property
    def _taken(self) -> set[str]:
        """All names in the model; asked for only where something new needs one."""
        return _all_names(self._model)

    @cached_property
    def _known_ops(self) -> frozenset[str]:
        """The standard operators that the model uses."""
        standard = (node for node in self._protos.values() if node.domain in ("", "ai.onnx"))
        return frozenset(node.op_type for node in standard)

    def _walk(self, graph: Any, path: tuple[str, ...], outer: Scope | None) -> Iterator[Scope]:
        scope = Scope(graph, path, outer, _defined_tensors(graph), _producers(graph))
        yield scope
        for node in graph.nodes:
            if outer is not None:
                self._share_outer(node, scope)
            for label, inner in node.attrs.items():
                yield from self._walk(inner, (*path, f"{describe(self._protos[node.name])}/{label}"), scope)

    def _share_outer(self, node: Any, scope: Scope) -> None:
        """Give a nested node that stands before what it reads the tensor that it reads; it had one of its own."""
        for slot, tensor in enumerate(node.inputs):
            seen = scope.find(tensor.name)
            if seen is not None and seen is not tensor:
                node.inputs[slot] = seen

    def node_ids(self) -> set[int]:
        """Identities of all nodes."""
        return {id(node) for scope in self._scopes for node in scope.graph.nodes}

    def in_graph_order(self, cuts: Sequence[Cut]) -> list[tuple[Cut, Scope]]:
        """The cuts in the order of their blocks' last nodes, each with the graph that holds it.

        Raises:
            InputError: A block is not there.
        """
        order = {id(node): place for place, node in enumerate(n for s in self._scopes for n in s.graph.nodes)}
        placed = [(cut, self._scope_of(cut.block)) for cut in cuts]
        return sorted(placed, key=lambda entry: order[id(entry[1].producers[entry[0].block.output])])

    def _scope_of(self, block: Block) -> Scope:
        needed = [block.output, *(unit.merge for unit in block.units)]
        found = [scope for scope in self._scopes if all(name in scope.producers for name in needed)]
        if len(found) > 1:
            found = [scope for scope in found if scope.path == block.scope]
        if not found:
            missing = next(
                (n for n in needed if not any(n in s.producers for s in self._scopes)), block.output
            )
            raise InputError(
                f"Block {block.name} is not in this model: nothing computes {missing}. Has it been collapsed already?"
            )
        scope = found[0]
        for name in [block.input, *(unit.skip for unit in block.units)]:
            if scope.find(name) is None:
                raise InputError(
                    f"Block {block.name} does not fit this model: there is no value {name}. Inspect the model anew."
                )
        return scope

    def apply(self, cut: Cut, scope: Scope) -> None:
        """Apply one cut.

        Raises:
            InputError: The repair does not fit, or a side output of a fused merge is read that only it can give.
        """
        if cut.form is Form.BYPASS:
            self._bypass(cut, scope)
            return
        for unit in cut.block.units:
            last = unit is cut.block.units[-1]
            self._shortcut(unit, cut.block, scope, cut.repair if last else None)

    def _bypass(self, cut: Cut, scope: Scope) -> None:
        block = cut.block
        target = scope.tensors[block.output]
        producer = scope.producers[block.output]
        chain = self._chain(block.name, scope, block.input)
        if cut.repair is not None:
            add_repair(chain, cut.repair, shape=block.shape, dtype=block.dtype, opset=self._opset)
        if block.keep_relu:
            chain.add("Relu")
        elif cut.repair is not None and cut.clip:
            self._add_clipping(chain, block, scope)
        self._put(chain, target, producer, scope)
        if producer.op in FUSED_MERGES:
            self._keep_side_output(block, producer, target, chain, scope)

    def _shortcut(self, unit: ResidualUnit, block: Block, scope: Scope, repair: Repair | None) -> None:
        merge = scope.producers[unit.merge]
        chain = self._chain(unit.name, scope, unit.skip)
        if repair is not None:
            add_repair(chain, repair, shape=block.output_shape, dtype=block.dtype, opset=self._opset)
        if merge.op not in FUSED_MERGES:
            self._put(chain, scope.tensors[unit.merge], merge, scope)
            return
        total = merge.outputs[SUM_OUTPUT] if len(merge.outputs) > SUM_OUTPUT else None
        if total is not None and total.name:
            self._put(chain, total, merge, scope)
        self._put_norm(chain, merge, block, scope)

    def _keep_side_output(self, block: Block, fused: Any, target: Any, chain: Chain, scope: Scope) -> None:
        """A fused merge gives the sum and its norm: where one is the block's output, the other may have readers."""
        if target is not fused.outputs[NORM_OUTPUT]:
            self._put_norm(chain, fused, block, scope)
        elif len(fused.outputs) > SUM_OUTPUT and fused.outputs[SUM_OUTPUT].name:
            skip = self._chain(block.name, scope, block.units[-1].skip)
            self._put(skip, fused.outputs[SUM_OUTPUT], fused, scope)

    def _put_norm(self, chain: Chain, fused: Any, block: Block, scope: Scope) -> None:
        output = fused.outputs[NORM_OUTPUT]
        proto = self._protos[fused.name]
        epsilon = attribute(proto, "epsilon", DEFAULT_EPSILON)
        chain = self._chain_from(chain.value, block.name)
        add_norm(
            chain, fused, epsilon=epsilon, opset=self._opset, known_ops=self._known_ops, dtype=block.dtype
        )
        self._put(chain, output, fused, scope)
        for side in fused.outputs[1:SUM_OUTPUT]:
            if side.outputs:
                raise InputError(
                    f"{side.name}, a statistic of block {block.name}'s fused norm, is read elsewhere."
                )

    def _chain(self, prefix: str, scope: Scope, start: str) -> Chain:
        return self._chain_from(scope.find(start), prefix)

    def _chain_from(self, start: Any, prefix: str) -> Chain:
        return Chain(
            self.resolve(start),
            prefix=prefix,
            taken=lambda: self._taken,
            initializers=self._free_initializers,
        )

    def _add_clipping(self, chain: Chain, block: Block, scope: Scope) -> None:
        """Clip what a map gives as the block clipped its output, though its input needed no clipping."""
        last = scope.producers[block.output]
        if last.op == "Relu":
            chain.add("Relu")
        elif last.op == "Clip":
            bounds = [self.resolve(bound) for bound in last.inputs[1:]]
            chain.add("Clip", *bounds, **attributes_of(self._protos[last.name]))

    def _put(self, chain: Chain, target: Any, producer: Any, scope: Scope) -> None:
        """Let the readers of `target` read the chain: its last node takes over the name, or they read its start."""
        if not chain.nodes:
            self._redirect(target, chain.value)
            return
        self._detach(target, producer)
        chain.end_in(target)
        scope.insert(chain.nodes, producer)

    def _detach(self, target: Any, producer: Any) -> None:
        """Give the output slot of a node that may live on to a value of its own."""
        import onnx_graphsurgeon as gs

        slot = next(i for i, tensor in enumerate(producer.outputs) if tensor is target)
        name = f"{target.name}/removed"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        producer.outputs[slot] = gs.Variable(name)

    def _redirect(self, old: Any, new: Any) -> None:
        for reader in {id(node): node for node in old.outputs}.values():
            for slot, tensor in enumerate(reader.inputs):
                if tensor is old:
                    reader.inputs[slot] = new
        self._replaced[id(old)] = new

    def resolve(self, tensor: Any) -> Any:
        """What stands for a tensor now."""
        while id(tensor) in self._replaced:
            tensor = self._replaced[id(tensor)]
        return tensor

    def finish(self) -> None:
        """Put the new nodes in their places, and give every public output whose value was replaced its name back.

        The new source takes over the name where it is an inner value of the same graph. A graph input, an initializer,
        a value from outside or one that is a public output already keeps its own, and an Identity stands between.
        """
        import onnx_graphsurgeon as gs

        for scope in self._scopes:
            graph = scope.graph
            nodes = (*graph.nodes, *(new for news in scope.inserted.values() for new in news))
            inner = {id(tensor) for node in nodes for tensor in node.outputs}
            done: dict[int, Any] = {}
            for slot, output in enumerate(list(graph.outputs)):
                if id(output) in done:
                    # One value listed twice.
                    graph.outputs[slot] = done[id(output)]
                    continue
                source = self.resolve(output)
                if source is output:
                    continue
                producer = scope.producers[output.name]
                if id(source) in inner and not any(tensor is source for tensor in graph.outputs):
                    self._detach(output, producer)
                    source.name = output.name
                    graph.outputs[slot] = source
                else:
                    self._detach(output, producer)
                    name = self._chain_from(source, output.name).name("Identity")
                    keep = gs.Node("Identity", name=name, inputs=[source], outputs=[output])
                    scope.insert([keep], producer)
                done[id(output)] = graph.outputs[slot]
            if scope.inserted:
                graph.nodes = [
                    new for node in graph.nodes for new in (*scope.inserted.get(id(node), ()), node)
                ]


def _defined_tensors(graph: Any) -> dict[str, Any]:
    tensors = {tensor.name: tensor for tensor in graph.inputs}
    tensors.update((tensor.name, tensor) for node in graph.nodes for tensor in node.outputs if tensor.name)
    return tensors


def _producers(graph: Any) -> dict[str, Any]:
    producers: dict[str, Any] = {}
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.name and producers.setdefault(tensor.name, node) is not node:
                raise InputError(f"The model is not valid: {tensor.name} is computed by two nodes.")
    return producers


def _all_names(model: onnx.ModelProto) -> set[str]:
    names = {node.name for node in walk_nodes(model.graph)}
    for graph in walk_graphs(model.graph):
        names.update(
            value.name for values in (graph.input, graph.output, graph.value_info) for value in values
        )
        names.update(initializer_names(graph))
        for node in graph.node:
            names.update((*node.input, *node.output))
            names.update(label for label, _ in subgraphs(node))
    return names
