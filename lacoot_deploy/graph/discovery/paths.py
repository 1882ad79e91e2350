"""Data paths between values: what lies between a block's input and its merge, and how a skip path runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.index import GraphIndex, Node

LAYOUT = frozenset(
    {
        "Identity", "Dropout", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
        "Expand", "QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput",
    }
)  # fmt: skip
RESIZING = frozenset(
    {
        "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "Slice", "Pad", "Split", "Gather",
        "CenterCropPad", "Resize", "Upsample", "SpaceToDepth", "DepthToSpace", "Concat", "ReduceMean", "ReduceMax",
    }
)  # fmt: skip
SCALING = frozenset({"Add", "Sub", "Mul", "Div"})
PROJECTION = frozenset(
    {"Conv", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "NhwcConv", "ConvTranspose", "FusedGemm"}
)
_SUMMING = frozenset({"Add", "Sum", "Concat"})
_DYNAMIC = frozenset(
    {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "Cast", "Mul", "Add", "Reshape", "Transpose"}
)
_MAX_SKIP = 32
_MAX_PARTS = 12
"""Nodes of a product on integers, as quantisers write it."""
_MAX_SIDE = 6
"""Nodes between the inside of a branch and a sum that it is added to aside."""
_MAX_AROUND = 64
"""A value that more nodes outside work on than this is read outside; what ends before then ends in shapes."""


@dataclass(frozen=True)
class SkipStep:
    """One value that a skip operand can be traced back to.

    Attributes:
        value: The value.
        nodes: The nodes between it and the skip operand, from the operand backwards.
        projections: How many of them are convolutions or matrix products.
        changes: How many of them do more than rename or cast.
    """

    value: str
    nodes: tuple[Node, ...]
    projections: int
    changes: int


def skip_steps(graph: GraphIndex, operand: str) -> Iterator[SkipStep]:
    """The values that an operand can be traced back to along operators a skip path may hold, nearest first."""
    nodes: list[Node] = []
    projections = changes = 0
    at = operand
    yield SkipStep(at, (), 0, 0)
    while len(nodes) < _MAX_SKIP:
        node = graph.producer.get(at)
        if node is None or (node.domain and node.domain not in ops.KNOWN_DOMAINS) or node.captured:
            return
        sources = [name for name in node.data if name in graph.dynamic]
        if len(sources) != 1:
            product = _dynamically_quantised(graph, at)
            if product is None:
                return
            projections += 1
            changes += 1
            nodes.extend(product)
            at = product[-1].data[0]
            yield SkipStep(at, tuple(nodes), projections, changes)
            continue
        if node.op in PROJECTION:
            projections += not is_depthwise(graph, node)
        elif node.op not in LAYOUT | RESIZING | SCALING and node.op not in ops.NORMS:
            return
        if projections > 1 or (node.op == "FusedConv" and _has_activation(node)):
            return
        changes += node.op not in ("Identity", "Dropout", "Cast", "CastLike")
        nodes.append(node)
        at = sources[0]
        yield SkipStep(at, tuple(nodes), projections, changes)


def _dynamically_quantised(graph: GraphIndex, value: str) -> list[Node] | None:
    """The nodes of a product on integers whose scale is found at run time, from a value back to the quantisation."""
    found: dict[int, Node] = {}
    stack = [value]
    while stack and len(found) < _MAX_PARTS:
        node = graph.producer.get(stack.pop())
        if node is None or node.op not in _DYNAMIC:
            return None
        found[node.index] = node
        if node.op != "DynamicQuantizeLinear":
            stack.extend(name for name in node.data if name in graph.dynamic)
    nodes = [found[index] for index in sorted(found, reverse=True)]
    heads = [node for node in nodes if node.op == "DynamicQuantizeLinear"]
    return nodes if not stack and len(heads) == 1 and heads[0] is nodes[-1] and len(nodes) > 2 else None


def is_depthwise(graph: GraphIndex, node: Node) -> bool:
    """Whether a convolution treats every channel by itself, as the spatial half of a separable projection does."""
    group = node.attribute("group", 1)
    weight = graph.initializers.get(node.inputs[1]) if len(node.inputs) > 1 else None
    return group > 1 and weight is not None and len(weight.dims) > 1 and weight.dims[1] == 1


def _has_activation(node: Node) -> bool:
    return bool(node.attribute("activation"))


def between(graph: GraphIndex, source: str, target: str) -> list[Node] | None:
    """The nodes on data paths from one value to another, in topological order; None where there is no path.

    Cost is bounded by the nodes that lie between the two in topological order.
    """
    start = graph.position(source)
    last = graph.producer.get(target)
    if last is None or last.index <= start:
        return None
    seen = {last.index}
    stack = [last]
    window: list[Node] = []
    while stack:
        node = stack.pop()
        window.append(node)
        for name in node.data:
            maker = graph.producer.get(name)
            if maker is not None and maker.index > start and maker.index not in seen:
                seen.add(maker.index)
                stack.append(maker)
    window.sort(key=lambda node: node.index)
    reached = {source}
    region: list[Node] = []
    for node in window:
        if any(name in reached for name in node.data):
            region.append(node)
            reached.update(name for name in node.outputs if name)
    return region if target in reached else None


def leaks(graph: GraphIndex, region: list[Node], allowed: set[int], live: frozenset[str]) -> tuple[str, ...]:
    """Values made inside a region whose data something outside it uses, or that the graph returns.

    Who only asks for the shape of an inner value still gets it after the removal: what computes it stays.

    Args:
        graph: The graph.
        region: The nodes of the branch.
        allowed: Positions of the nodes that may read the region: its own, the merge, and the skip path.
        live: Values that some result of the graph depends on.
    """
    found: dict[str, None] = {}
    for node in region:
        for name in node.outputs:
            if (
                name
                and name in live
                and (name in graph.output_set or read_beyond(graph, name, allowed, live))
            ):
                found.setdefault(name)
    return tuple(found)


def read_beyond(graph: GraphIndex, name: str, allowed: Collection[int], live: frozenset[str]) -> bool:
    """Whether the data of a value reaches anything that lives beyond the allowed nodes."""
    stack, seen = [name], set(allowed)
    while stack:
        at = stack.pop()
        if at != name and at in graph.output_set:
            return True
        for reader in graph.readers(at):
            if reader.index in seen or at not in reader.data:
                continue
            seen.add(reader.index)
            if len(seen) - len(allowed) > _MAX_AROUND:
                return True
            stack.extend(output for output in reader.outputs if output and output in live)
    return False


def makers(graph: GraphIndex, nodes: Sequence[Node], values: Iterable[str]) -> set[int]:
    """Positions of those among some nodes that are needed to compute values."""
    within = {node.index for node in nodes}
    needed: set[int] = set()
    stack = list(values)
    while stack:
        node = graph.producer.get(stack.pop())
        if node is not None and node.index in within and node.index not in needed:
            needed.add(node.index)
            stack.extend(node.reads)
    return needed


def joins_a_sum(graph: GraphIndex, name: str, inside: Collection[int], live: frozenset[str]) -> bool:
    """Whether all that read a value outside of some nodes add it, or a linear map of it, to something else."""
    ends = False
    stack = [(name, 0)]
    while stack:
        at, steps = stack.pop()
        if at in graph.output_set or steps > _MAX_SIDE:
            return False
        for reader in graph.readers(at):
            if reader.index in inside or at not in reader.data or reader.output not in live:
                continue
            sources = [source for source in reader.data if source in graph.dynamic]
            if reader.op in _SUMMING and len(sources) > 1:
                ends = True
            elif len(sources) == 1 and reader.op in PROJECTION | LAYOUT | RESIZING | SCALING:
                stack.extend((output, steps + 1) for output in reader.outputs if output)
            else:
                return False
    return ends


def live_values(graph: GraphIndex) -> frozenset[str]:
    """Values that some result of the graph depends on in any way."""
    live = set(graph.outputs)
    for node in reversed(graph.nodes):
        if any(name in live for name in node.outputs):
            live.update(node.reads)
    return frozenset(live)
