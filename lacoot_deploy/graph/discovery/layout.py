"""Ends of a block that differ in layout or element type only: it is moved to where they agree, to be bypassed."""

from __future__ import annotations

from lacoot_deploy.graph.discovery.fitting import Group
from lacoot_deploy.graph.discovery.paths import LAYOUT
from lacoot_deploy.graph.model.index import GraphIndex, Node
from lacoot_deploy.graph.model.table import ShapeTable, same_shape


def settle_layout(graph: GraphIndex, table: ShapeTable, group: Group) -> None:
    """Move the block's input or output across changes of layout where that makes their shapes equal.

    Exporters cancel the transposition at the head of a branch against the one before the block: the branch then reads
    the value in one layout and the skip in the other, and the skip is what the module was given. And a module may end
    by giving its result the layout of its input.
    """
    if _alike(table, group.input, group.output) is not False:
        return
    first, last = group.units[0], group.units[-1]
    if _alike(table, first.input, last.output):
        # The module changes the layout at one end only: the block is what lies between.
        group.input, group.output = first.input, last.output
        return
    mere = bool(first.path) and all(node.op in LAYOUT for node in first.path)
    if mere and _alike(table, first.skip, group.output) and group.input == first.input:
        group.input = first.skip
        return
    passed: list[Node] = []
    at = group.output
    while at not in graph.output_set and len(passed) < 4:
        readers = graph.readers(at)
        if len(readers) != 1 or readers[0].op not in LAYOUT or at not in readers[0].data:
            return
        passed.append(readers[0])
        at = readers[0].output
        if _alike(table, group.input, at):
            group.between.extend(passed)
            group.output = at
            return


def _alike(table: ShapeTable, a: str, b: str) -> bool | None:
    """Whether two values have one shape and element type; None where that is not known."""
    kinds = {table.dtype(a), table.dtype(b)} - {None}
    return False if len(kinds) > 1 else same_shape(table.shape(a), table.shape(b))
