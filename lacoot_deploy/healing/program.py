"""From a flat graph to steps that PyTorch runs: constants folded, what nobody needs left out, memory freed early."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lacoot_deploy.errors import InputError
from lacoot_deploy.healing.flat import FlatGraph, FlatNode
from lacoot_deploy.healing.operators import find
from lacoot_deploy.healing.operators.base import Call, Run, UnknownOperatorError, tensor_of

Values = dict[str, Any]

FROM_DATA = frozenset({"NonZero", "Unique", "NonMaxSuppression", "Compress"})
"""Operators whose result has a shape that the values decide."""

FROM_SHAPES = frozenset({"Shape", "Size"})
"""Operators that read nothing but a shape."""

LISTED = 6
"""How many unknown operators a message names."""


@dataclass(eq=False)
class Step:
    """A node as it runs.

    Attributes:
        node: The node.
        run: Its function; None for a node with bodies.
        bodies: Programs of its bodies.
        frees: Values that nobody needs after it.
        steady: Whether its results are the same for all inputs of the same shapes.
    """

    node: FlatNode
    run: Run | None
    bodies: Mapping[str, Program] = field(default_factory=dict)
    frees: tuple[str, ...] = ()
    steady: bool = False


@dataclass(eq=False)
class Program:
    """Steps from given values to wanted ones.

    Attributes:
        given: Names of the values that the caller gives.
        wanted: Names of the values that come out.
        steps: In order.
        constants: Tensors that the steps read, by name.
        weights: Names of the trained constants that the steps read.
        kept: Steady values that other steps read: they can be kept for inputs of the same shapes.
    """

    given: tuple[str, ...]
    wanted: tuple[str, ...]
    steps: list[Step]
    constants: dict[str, Tensor]
    weights: tuple[str, ...]
    kept: tuple[str, ...] = ()


def compile_graph(
    graph: FlatGraph,
    *,
    weights: Sequence[str] = (),
    wanted: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
) -> Program:
    """The steps that compute `wanted` from `given`.

    Args:
        graph: The graph.
        weights: Names of the constants that will be trained; they are not folded.
        wanted: Values to compute; the graph's outputs by default.
        given: Values that the caller gives; the graph's inputs by default.

    Raises:
        InputError: A value is neither given nor computed, or operators are not in the table; they are named.
    """
    wanted = tuple(graph.outputs if wanted is None else wanted)
    given = tuple(graph.inputs if given is None else given)
    return _Compiler(graph, tuple(dict.fromkeys(weights)), wanted, given).program()


class _Compiler:
    def __init__(
        self, graph: FlatGraph, weights: tuple[str, ...], wanted: tuple[str, ...], given: tuple[str, ...]
    ) -> None:
        self.graph, self.weights, self.wanted, self.given = graph, weights, wanted, given
        self.needed = needed_nodes(graph, wanted, given)
        self.arrays: dict[str, NDArray[Any]] = {}
        self.folded: dict[str, Tensor] = {}
        self.problems: dict[str, list[str]] = {}

    def program(self) -> Program:
        steps = [step for node in self.needed if (step := self._step(node)) is not None]
        if self.problems:
            raise InputError(_unknown(self.problems))
        _check_defined(steps, self)
        kept = self._mark_steady(steps)
        read = {name for step in steps for name in _reads(step)} | set(self.wanted)
        _mark_frees(steps, keep={*self.wanted, *self.given, *kept})
        return Program(
            given=self.given,
            wanted=self.wanted,
            steps=steps,
            constants={name: self._constant(name) for name in sorted(read) if self._is_constant(name)},
            weights=tuple(name for name in self.weights if name in read),
            kept=kept,
        )

    def _is_constant(self, name: str) -> bool:
        if name in self.given or name in self.weights:
            return False
        return name in self.folded or name in self.graph.constants

    def _constant(self, name: str) -> Tensor:
        return self.folded[name] if name in self.folded else tensor_of(self.graph.array(name))

    def _step(self, node: FlatNode) -> Step | None:
        """The step of a node; None where it is folded or cannot be run."""
        if node.bodies:
            return self._with_bodies(node)
        entry = find(node.domain, node.op)
        try:
            if entry is None:
                raise UnknownOperatorError("")
            run = entry.build(self._call(node, entry.host))
            if all(self._is_constant(name) for name in node.reads):
                self._fold(node, run)
                return None
        except UnknownOperatorError as error:
            what = f"{node.domain}.{node.op}".lstrip(".") + (f" {error}" if str(error) else "")
            self.problems.setdefault(what, []).append(node.label)
            return None
        return Step(node, run)

    def _call(self, node: FlatNode, host: tuple[int, ...]) -> Call:
        small = {}
        for place, name in enumerate(node.inputs):
            if name and self._is_constant(name) and (place in host or node.op in ("Clip", "Pow")):
                small[place] = self._constant(name).numpy()
        operands = len(node.inputs)
        while operands and not node.inputs[operands - 1]:
            operands -= 1
        return Call(node.op, node.domain, node.version, node.attributes, operands, node.outputs, small)

    def _fold(self, node: FlatNode, run: Run) -> None:
        with torch.no_grad():
            operands = [self._constant(name) if name else None for name in node.inputs]
            results = run(*operands)
        for name, value in zip(
            node.outputs, results if isinstance(results, tuple) else (results,), strict=False
        ):
            if name:
                self.folded[name] = value

    def _with_bodies(self, node: FlatNode) -> Step | None:
        if node.domain or node.op not in ("If", "Loop"):
            self.problems.setdefault(node.op, []).append(node.label)
            return None
        try:
            bodies = {
                name: compile_graph(body, given=(*body.inputs, *node.captured, *self._outer(body)))
                for name, body in node.bodies.items()
            }
        except InputError as error:
            self.problems.setdefault(f"{node.op} ({error})", []).append(node.label)
            return None
        return Step(node, None, bodies)

    def _outer(self, body: FlatGraph) -> tuple[str, ...]:
        """Results of a body that come from around it as they are."""
        made = {name for node in body.nodes for name in node.outputs} | body.constants.keys() | {*body.inputs}
        return tuple(name for name in body.outputs if name not in made)

    def _mark_steady(self, steps: list[Step]) -> tuple[str, ...]:
        """Find the steps that depend on shapes alone; the values of theirs that others read."""
        by_data = {*self.given, *self.weights}
        by_shape: set[str] = set()
        for step in steps:
            node = step.node
            entry = find(node.domain, node.op)
            host = entry.host if entry is not None else ()
            reads_data = any(name in by_data for name in node.reads) and node.op not in FROM_SHAPES
            steered = any(
                name in by_data for place, name in enumerate(node.inputs) if place in host and place
            )
            shaped = any(name in by_shape for name in node.reads) or steered or node.op in FROM_DATA
            shaped = shaped or bool(node.bodies)
            results = [name for name in node.outputs if name]
            if shaped:
                by_shape.update(results)
            if reads_data or shaped:
                by_data.update(results)
            else:
                step.steady = True
        made = {name for step in steps if step.steady for name in step.node.outputs if name}
        read = {name for step in steps if not step.steady for name in _reads(step)} | set(self.wanted)
        return tuple(sorted(made & read))


def needed_nodes(graph: FlatGraph, wanted: Iterable[str], given: Iterable[str]) -> list[FlatNode]:
    """The nodes on the way from `given` to `wanted`, in order."""
    needed, known = set(wanted), set(given)
    found = []
    for node in reversed(graph.nodes):
        results = [name for name in node.outputs if name]
        if any(name in needed and name not in known for name in results):
            found.append(node)
            needed.update(node.reads)
    return found[::-1]


def _reads(step: Step) -> tuple[str, ...]:
    return step.node.reads


def _check_defined(steps: list[Step], compiler: _Compiler) -> None:
    known = {*compiler.given, *compiler.weights}
    for step in steps:
        for name in step.node.reads:
            if name not in known and not compiler._is_constant(name):
                raise InputError(f"Nothing gives the value {name} that {step.node.label} reads.")
        known.update(step.node.outputs)
    missing = [n for n in compiler.wanted if n not in known and not compiler._is_constant(n)]
    if missing:
        raise InputError(f"The model's main graph has no value {missing[0]}.")


def _mark_frees(steps: list[Step], keep: set[str]) -> None:
    made = {name for step in steps for name in step.node.outputs if name}
    seen = set(keep)
    for step in reversed(steps):
        last = [n for n in dict.fromkeys((*_reads(step), *step.node.outputs)) if n in made and n not in seen]
        step.frees = tuple(last)
        seen.update(last)


def _unknown(problems: Mapping[str, Sequence[str]]) -> str:
    shown = [f"{what} ({nodes[0]})" for what, nodes in list(problems.items())[:LISTED]]
    more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    one = len(problems) == 1
    return (
        f"PyTorch cannot run {'this operator' if one else 'these operators'} of the model, so nothing behind "
        f"{'it' if one else 'them'} can be trained: {', '.join(shown)}{more}."
    )
