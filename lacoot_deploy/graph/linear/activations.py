"""Lists the activations of a model: what each is, and what its neighbours would merge into if it were linear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.linear.neighbours import Neighbours, neighbours_of
from lacoot_deploy.graph.linear.operators import Identity, read_operator
from lacoot_deploy.graph.linear.patterns import find_regions
from lacoot_deploy.graph.linear.records import Work
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Reason, Shape
from lacoot_deploy.graph.model.index import ModelIndex, Node, index_model
from lacoot_deploy.graph.model.naming import Names, Scopes, inside, join
from lacoot_deploy.graph.model.pauses import no_cycle_search
from lacoot_deploy.graph.model.tolerant import invalid_is_refused
from lacoot_deploy.graph.model.walk import attributes_of, describe
from lacoot_deploy.graph.surgery.channels import channel_axis

_SINGLE = ops.ACTIVATIONS - {"Erf", "BiasGelu"}
"""Operators that are an activation by themselves; `BiasGelu` holds a bias besides."""

_WORKERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Activation:
    """One activation of the main graph.

    Attributes:
        name: Unique name, stable across runs: the module's path where the exporter left one.
        kind: What it computes: `Relu`, `Relu6`, `Gelu`, `Silu`, ...
        input: The value before it.
        output: The value behind it.
        nodes: Its nodes; more than one where the exporter spelled it out.
        shape: Shape of both values as far as known; None where not even the rank is.
        dtype: Element type, numpy's name; None where unknown.
        axis: Channel axis, counted from 0; None where no operator around it tells.
        low: Where it clips from below (`Relu`: 0); None where it does not clip, or not by a fixed number.
        high: Where it clips from above (`Relu6`: 6); None likewise.
        after_residual: Whether its input is a sum of two values, directly or through batch normalisation.
        normalised: Node of the batch normalisation that gives its input; None where there is none.
        first: The linear operator before it that would be merged; None where there is none.
        second: The linear operator behind it that would be merged; likewise.
        before: What the two take; None where they cannot be merged or it is not known.
        after: What they would take as one; likewise.
        merged: What they would be as one, such as `Conv 5x5` or `Gemm`; None where they could not even inexactly.
        reason: Why the two could not be merged exactly; None where they could.
    """

    name: str
    kind: str
    input: str
    output: str
    nodes: tuple[str, ...]
    shape: Shape | None
    dtype: str | None
    axis: int | None
    low: float | None
    high: float | None
    after_residual: bool
    normalised: str | None
    first: str | None
    second: str | None
    before: Work | None
    after: Work | None
    merged: str | None
    reason: Reason | None

    @property
    def merges(self) -> bool:
        """Whether the operators around it become one, exactly, once it is the identity."""
        return self.reason is None and self.first is not None and self.second is not None

    @property
    def pays(self) -> bool | None:
        """Whether that makes multiply-adds and parameters fewer; None where it cannot be counted."""
        if self.before is None or self.after is None:
            return None
        return self.after.total < self.before.total


def list_activations(model: onnx.ModelProto, *, folder: Path | None = None) -> tuple[Activation, ...]:
    """The activations of a model's main graph, in graph order.

    Args:
        model: The model; it is not touched.
        folder: Where its external data lies, if it has any.

    Raises:
        InputError: The model is not valid.
    """
    with invalid_is_refused(model), no_cycle_search():
        editor = Editor(model, folder)
        return _Lister(editor, index_model(model)).all()


class _Lister:
    def __init__(self, editor: Editor, index: ModelIndex) -> None:
        self._editor = editor
        self._scopes = Scopes(index.main)
        self._names = Names()
        self._nodes: dict[str, Node] = {name: node for name, node in index.main.producer.items()}
        self._modules = {
            scope
            for node in index.main.nodes
            if node.op in _WORKERS and (scope := self._scopes.of(node)) is not None
        }

    def all(self) -> tuple[Activation, ...]:
        """Every activation in graph order."""
        regions = {region.nodes[-1].output[0]: region for region in find_regions(self._editor)}
        members = {id(node) for region in regions.values() for node in region.nodes}
        found = []
        for node in self._editor.nodes:
            value = node.output[0] if node.output else ""
            if value in regions:
                region = regions[value]
                found.append(self._make(region.kind, region.input, value, region.nodes))
            elif id(node) not in members and self._is_single(node):
                found.append(self._make(_kind(self._editor, node), node.input[0], value, (node,)))
        return tuple(found)

    def _is_single(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _SINGLE or node.domain not in ("", "ai.onnx", ops.MICROSOFT):
            return False
        if self._editor.weights.known(node.input[0]):
            return False
        return not isinstance(read_operator(self._editor, node), Identity)

    def _make(self, kind: str, start: str, end: str, nodes: tuple[onnx.NodeProto, ...]) -> Activation:
        editor = self._editor
        shape = editor.shapes.shape(start)
        around: Neighbours = neighbours_of(editor, start, end, nodes)
        low, high = _bounds(editor, kind, nodes)
        rank = None if shape is None else len(shape)
        axis = channel_axis(editor.model, end, rank)
        if axis is None:
            axis = around.before_axis
        return Activation(
            name=self._names.take(self._wish(kind, end, nodes)),
            kind=kind,
            input=start,
            output=end,
            nodes=tuple(describe(node) for node in nodes),
            shape=shape,
            dtype=editor.shapes.dtype(start),
            axis=axis,
            low=low,
            high=high,
            after_residual=around.after_residual,
            normalised=around.normalised,
            first=around.first,
            second=around.second,
            before=around.before,
            after=around.after,
            merged=around.merged,
            reason=around.reason,
        )

    def _wish(self, kind: str, end: str, nodes: tuple[onnx.NodeProto, ...]) -> str:
        """The module's path; with the kind where that module does other work too, and the node's name without."""
        scope = self._scopes.of(self._nodes[end])
        if not scope:
            return describe(nodes[-1])
        shared = any(inside(module, scope) for module in self._modules)
        return f"{join(scope)}.{kind.split()[0].lower()}" if shared else join(scope)


def _kind(editor: Editor, node: onnx.NodeProto) -> str:
    if node.op_type == "Clip":
        low, high = _clip_bounds(editor, node)
        return "Relu6" if (low, high) == (0.0, 6.0) else "Clip"
    return {"Swish": "Silu", "FastGelu": "Gelu (tanh)", "QuickGelu": "Gelu (quick)"}.get(
        node.op_type, node.op_type
    )


def _bounds(
    editor: Editor, kind: str, nodes: tuple[onnx.NodeProto, ...]
) -> tuple[float | None, float | None]:
    if kind == "Relu":
        return 0.0, None
    if len(nodes) == 1 and nodes[0].op_type == "Clip":
        return _clip_bounds(editor, nodes[0])
    return (0.0, 6.0) if kind == "Relu6" else (None, None)


def _clip_bounds(editor: Editor, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    attributes = attributes_of(node)
    found: list[float | None] = []
    for slot, name in ((1, "min"), (2, "max")):
        if name in attributes:
            found.append(float(attributes[name]))
        elif editor.weights.has(node, slot):
            found.append(float(editor.weights.array(node.input[slot]).reshape(-1)[0]))
        else:
            found.append(None)
    return found[0], found[1]
