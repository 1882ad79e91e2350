"""Shapes followed through the graph where ONNX's inference leaves them open.

A dimension nobody can number still is *the same* dimension after an elementwise operator or a convolution that keeps
its size. Every open dimension gets a symbol that is built from how it came about, so that two paths with the same
arithmetic end in the same symbol, and different arithmetic in different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from lacoot_deploy.graph.model.blocks import Dim, Shape
from lacoot_deploy.graph.model.index import GraphIndex
from lacoot_deploy.graph.model.tolerant import attempt
from lacoot_deploy.graph.shapes import dims
from lacoot_deploy.graph.shapes.rules import KEEPS_TYPE, RULES
from lacoot_deploy.graph.shapes.values import ShapeValues
from lacoot_deploy.graph.shapes.windows import Shapes

Lookup = Callable[[str], "Shape | None"]


def propagate(
    graph: GraphIndex,
    shapes: dict[str, Shape],
    dtypes: dict[str, int],
    outer: Lookup | None,
    *,
    fixed: Collection[str],
    around: ShapeValues | None = None,
) -> ShapeValues:
    """Fill in `shapes` (and `dtypes`, where an operator keeps them) for the values of one graph.

    Args:
        graph: The indexed graph.
        shapes: What is known already, by value name; extended in place. Numbers in it stay.
        dtypes: Element types by value name; extended in place.
        outer: Shapes of the graphs around a body.
        fixed: Values whose entry must stay as it is (measured ones).
        around: Small values of the graph around a body.

    Returns:
        The small values of the graph, for the bodies inside it.
    """

    def lookup(name: str) -> Shape | None:
        found = shapes.get(name)
        return outer(name) if found is None and outer is not None and graph.is_outer(name) else found

    values = ShapeValues(graph, lookup, around)
    for name in graph.inputs:
        if name in shapes and name not in fixed:
            shapes[name] = _named(shapes[name], name)
    for node in graph.nodes:
        values.visit(node)
        rule = RULES.get(node.op) if node.domain in ("", "com.microsoft") else None
        derived: Shapes = attempt(rule, node, lookup, values, unknown=()) if rule else ()
        for position, name in enumerate(node.outputs):
            if not name or name in fixed:
                continue
            own = derived[position] if position < len(derived) else None
            merged = _merge(shapes.get(name), own, own_first=name in graph.output_set)
            if merged is not None:
                shapes[name] = _named(merged, name)
        if node.op in KEEPS_TYPE and node.inputs and node.inputs[0] in dtypes:
            for name in node.outputs:
                if name:
                    dtypes.setdefault(name, dtypes[node.inputs[0]])
    return values


def _named(shape: Shape, value: str) -> Shape:
    """The shape with a symbol of its own for every open dimension."""
    return tuple(
        dims.canonical(dim) if dim is not None else f"{value}@{axis}" for axis, dim in enumerate(shape)
    )


def _merge(known: Shape | None, own: Shape | None, *, own_first: bool) -> Shape | None:
    """Numbers from whoever has them, else a symbol.

    The exporter's symbols are kept, since they say more than ours; those that ONNX's inference makes up (`unk__7`)
    give way, and so do those of results, which exporters name without knowing.
    """
    if known is None or own is None:
        return known if own is None else own
    if known == own or len(known) != len(own):
        return known
    return tuple(_merge_dim(a, b, own_first=own_first) for a, b in zip(known, own, strict=True))


def _merge_dim(known: Dim, own: Dim, *, own_first: bool) -> Dim:
    if isinstance(known, int) or own is None:
        return known
    if isinstance(own, int) or known is None or own_first or known.startswith("unk__"):
        return own
    return known
