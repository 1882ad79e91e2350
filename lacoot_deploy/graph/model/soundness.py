"""What makes a model meaningless, found before anything is computed from it: a sentence instead of a guess or a hang.

Only what no runtime could run is refused here. Unknown operators, odd attributes and wrong notes about inner shapes
are met in published files and are left to the rules that read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from lacoot_deploy.graph.model.external import stored_bytes
from lacoot_deploy.graph.model.walk import describe, initializer_names, subgraphs, walk_nodes

MAX_ELEMENTS = 2**62
MAX_CALLED_NODES = 1_000_000
"""Nodes of a model with all its functions written out: calls of calls of calls can be far more than the file."""

WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def unsound(model: onnx.ModelProto) -> str | None:
    """What is meaningless about a model, as the end of a sentence; None where nothing is."""
    return _calls(model) or _graph(model.graph, frozenset())


def _graph(graph: onnx.GraphProto, around: frozenset[str]) -> str | None:
    weights = initializer_names(graph)
    inputs = [value.name for value in graph.input]
    made = [name for node in graph.node for name in node.output if name]
    for what, names in (("weights", weights), ("inputs", inputs)):
        if len(set(names)) < len(names):
            return f"two {what} are called {_twice(names)!r}"
    given = {*weights, *inputs}
    if not given.isdisjoint(made):
        name = next(name for name in made if name in given)
        return f"{name!r} is an input or a weight and is computed by a node as well"
    seen = around | given.union(made)
    read = {name for node in graph.node for name in node.input}
    missing = read - seen - {""}
    if missing:
        node = next(node for node in graph.node if not missing.isdisjoint(node.input))
        name = next(name for name in node.input if name in missing)
        return f"node {describe(node)!r} reads {name!r}, which is no input, no weight and computed by no node"
    unmade = next((value.name for value in graph.output if value.name not in seen), None)
    if unmade is not None:
        return f"its output {unmade!r} is no input, no weight and computed by no node"
    problem = next(filter(None, map(_tensor, graph.initializer)), None)
    problem = problem or next(filter(None, map(_declared, _values(graph))), None)
    if problem is not None:
        return problem
    for node in graph.node:
        if node.op_type in WITH_BODIES or node.domain:
            for _, inner in subgraphs(node):
                problem = _graph(inner, seen)
                if problem is not None:
                    return problem
    return None


def _twice(names: Iterable[str]) -> str:
    met: set[str] = set()
    return next(name for name in names if name in met or met.add(name))  # type: ignore[func-returns-value]


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output


def _tensor(tensor: onnx.TensorProto) -> str | None:
    count = 1
    for size in tensor.dims:
        if size < 0:
            return f"the weight {tensor.name!r} has a negative size ({list(tensor.dims)})"
        count *= size
    if count > MAX_ELEMENTS:
        return f"the weight {tensor.name!r} is larger than anything can be ({list(tensor.dims)})"
    wanted = stored_bytes(tensor) if tensor.HasField("raw_data") else None
    # The size of the message, because asking for the data copies them.
    if wanted is not None and wanted > tensor.ByteSize():
        return (
            f"the weight {tensor.name!r} holds less than the {wanted} bytes of its shape {list(tensor.dims)}"
        )
    return None


def _declared(value: onnx.ValueInfoProto) -> str | None:
    """An input or output of an impossible size; -1 is what some exporters write for a free dimension."""
    count = 1
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_value < -1:
            return f"{value.name!r} is declared with a size of {dim.dim_value}"
        count *= max(dim.dim_value, 1)
    if count > MAX_ELEMENTS:
        return f"{value.name!r} is declared larger than anything can be"
    return None


def _calls(model: onnx.ModelProto) -> str | None:
    """Functions that call themselves, in a circle or not, or call so much that writing them out would not end."""
    if not model.functions:
        return None
    inside = {
        (function.domain, function.name): [
            (node.domain, node.op_type) for top in function.node for node in _with_bodies(top)
        ]
        for function in model.functions
    }
    sizes: dict[tuple[str, str], int] = {}
    for start in inside:
        # Depth first with a stack of our own: a chain of calls may be longer than Python's.
        path: list[tuple[str, str]] = [start]
        on_path = {start}
        while path:
            current = path[-1]
            open_ = next((c for c in inside[current] if c in inside and c not in sizes), None)
            if open_ is None:
                sizes[current] = sum(1 + sizes.get(call, 0) for call in inside[current])
                on_path.discard(path.pop())
            elif open_ in on_path:
                return f"the function {open_[1]!r} calls itself"
            else:
                path.append(open_)
                on_path.add(open_)
    total = sum(1 + sizes.get((node.domain, node.op_type), 0) for node in walk_nodes(model.graph))
    if total > MAX_CALLED_NODES:
        return f"with its functions written out it would have more than {MAX_CALLED_NODES:,} nodes"
    return None


def _with_bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for _, inner in subgraphs(node):
        yield from walk_nodes(inner)
