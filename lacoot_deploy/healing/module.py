"""An ONNX graph as a `torch.nn.Module` whose parameters carry the names of the file's weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lacoot_deploy.errors import InputError
from lacoot_deploy.healing.flat import FlatGraph
from lacoot_deploy.healing.operators import find
from lacoot_deploy.healing.operators.base import UnknownOperatorError, tensor_of
from lacoot_deploy.healing.program import Program, Step, Values, compile_graph

KEPT_SHAPES = 16
"""For how many shapes of the inputs what depends on them alone is kept."""


class GraphModule(nn.Module):
    """A graph that PyTorch runs and differentiates.

    The parameters' names are those of the file's weights, dots included (`layer1.0.conv1.weight` is reached as such);
    a name that no module path can have is changed, see `weight_names`.

    Attributes:
        source: The file it was read from; None where it was none.
        weight_names: The file's name of every parameter, by the parameter's own.
    """

    def __init__(self, graph: FlatGraph, program: Program, *, source: Path | None = None) -> None:
        super().__init__()
        self.source = source
        self.weight_names: dict[str, str] = {}
        self._program = program
        self._stores: dict[str, tuple[dict[str, Any], str]] = {}
        self._host: dict[str, Tensor] = {}
        self._kept: OrderedDict[tuple[Any, ...], Values] = OrderedDict()
        for name in program.weights:
            self._add_weight(name, tensor_of(graph.array(name)))
        for number, (name, value) in enumerate(program.constants.items()):
            if value.is_floating_point():
                self.register_buffer(f"constant{number}", value, persistent=False)
                self._stores[name] = (self._buffers, f"constant{number}")
            else:
                self._host[name] = value

    def _add_weight(self, name: str, value: Tensor) -> None:
        parameter = nn.Parameter(value)
        owner, key = self._place(name)
        owner.register_parameter(key, parameter)
        self._stores[name] = (owner._parameters, key)
        path = next(path for path, found in self.named_parameters() if found is parameter)
        self.weight_names[path] = name

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The module and the key under which a parameter of that name can stand."""
        *path, key = name.split(".")
        owner: nn.Module = self
        if all([*path, key]):
            for part in path:
                child = owner._modules.get(part)
                if child is None and hasattr(owner, part):
                    break
                if child is None:
                    child = nn.Module()
                    owner.add_module(part, child)
                owner = child
            else:
                if not hasattr(owner, key):
                    return owner, key
        key = name.replace(".", "_") or "weight"
        while hasattr(self, key):
            key += "_"
        return self, key

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of what `forward` takes, in order."""
        return self._program.given

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what it gives, in order."""
        return self._program.wanted

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters by the file's names of them."""
        named = dict(self.named_parameters())
        return {name: named[path] for path, name in self.weight_names.items()}

    def share_with(self, other: GraphModule) -> None:
        """Let another module of the same graph have this one's weights, as the very same parameters."""
        for name, (store, key) in self._stores.items():
            if name in other._stores and isinstance(store[key], nn.Parameter):
                place, place_key = other._stores[name]
                place[place_key] = store[key]

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The outputs for the inputs, given in order or by name.

        Returns:
            A tensor, or a tuple of them where there are several outputs.

        Raises:
            InputError: An input is missing or not known.
        """
        feeds = dict(zip(self.input_names, inputs, strict=False)) | named
        found = self.values(feeds)
        results = tuple(found[name] for name in self.output_names)
        return results[0] if len(results) == 1 else results

    def values(self, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
        """The wanted values by name.

        Args:
            feeds: Every given value by name; half precision is worked with in float32.

        Raises:
            InputError: One is missing, or a node cannot be run as it is fed.
        """
        missing = [name for name in self.input_names if name not in feeds]
        if missing or len(feeds) > len(self.input_names):
            raise InputError(
                f"The network takes {', '.join(self.input_names)}; it was given {', '.join(feeds) or 'nothing'}."
            )
        environment: Values = {name: _full(value) for name, value in feeds.items()}
        environment.update(self._host)
        for name, (store, key) in self._stores.items():
            environment[name] = store[key]
        shapes = tuple((name, tuple(feeds[name].shape), feeds[name].device) for name in self.input_names)
        known = self._kept.get(shapes) if self._program.kept else None
        if known is not None:
            environment.update(known)
        run_steps(self._program.steps, environment, skip_steady=known is not None)
        if known is None and self._program.kept:
            self._kept[shapes] = {name: environment[name].detach() for name in self._program.kept}
            while len(self._kept) > KEPT_SHAPES:
                self._kept.popitem(last=False)
        return {name: environment[name] for name in self.output_names}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def _full(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def run_steps(steps: Sequence[Step], environment: Values, *, skip_steady: bool = False) -> None:
    """Run steps in order, reading and writing values by name.

    Raises:
        InputError: A node cannot be run as it is fed.
    """
    for step in steps:
        if skip_steady and step.steady:
            continue
        node = step.node
        try:
            if step.run is None:
                results = _run_bodies(step, environment)
            else:
                operands = [environment[name] if name else None for name in node.inputs]
                results = step.run(*_on_one_device(operands, node.domain, node.op))
        except UnknownOperatorError as error:
            raise InputError(f"PyTorch cannot run {node.label}: {node.op} {error}.") from None
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or "alloc" in str(error):
                raise
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"PyTorch cannot run {node.label} ({node.op}): {text}.") from error
        if isinstance(results, tuple):
            for name, value in zip(node.outputs, results, strict=False):
                if name:
                    environment[name] = value
        elif node.outputs:
            environment[node.outputs[0]] = results
        for name in step.frees:
            environment.pop(name, None)


def _on_one_device(operands: list[Any], domain: str, op: str) -> list[Any]:
    """Operands that were kept on the host, beside others on a GPU, follow them there."""
    device = next((x.device for x in operands if x is not None and x.device.type != "cpu"), None)
    if device is None:
        return operands
    entry = find(domain, op)
    host = entry.host if entry is not None else ()
    return [
        x.to(device) if x is not None and i not in host and x.device.type == "cpu" else x
        for i, x in enumerate(operands)
    ]


def _run_bodies(step: Step, environment: Values) -> tuple[Any, ...]:
    node = step.node
    if node.op == "If":
        chosen = "then_branch" if bool(environment[node.inputs[0]]) else "else_branch"
        return _run_body(step.bodies[chosen], environment, ())
    return _run_loop(step, environment)


def _run_body(program: Program, environment: Values, inputs: Sequence[Any]) -> tuple[Any, ...]:
    inner = dict(environment)
    inner.update(program.constants)
    inner.update(zip(program.given, inputs, strict=False))
    run_steps(program.steps, inner)
    return tuple(inner[name] for name in program.wanted)


def _run_loop(step: Step, environment: Values) -> tuple[Any, ...]:
    """Loop: the trip count, the condition, carried values, and what each round adds to a list."""
    node, body = step.node, step.bodies["body"]
    values = [environment[name] if name else None for name in node.inputs]
    trips = None if values[0] is None else int(values[0])
    going = True if len(values) < 2 or values[1] is None else bool(values[1])
    carried = values[2:]
    scanned: list[list[Any]] = [[] for _ in range(len(body.wanted) - 1 - len(carried))]
    number = 0
    while going and (trips is None or number < trips):
        results = _run_body(body, environment, (torch.tensor(number), torch.tensor(going), *carried))
        going, carried = bool(results[0]), list(results[1 : 1 + len(carried)])
        for kept, value in zip(scanned, results[1 + len(carried) :], strict=True):
            kept.append(value)
        number += 1
    return (*carried, *(torch.stack(kept) if kept else torch.zeros(0) for kept in scanned))


def graph_module(
    graph: FlatGraph,
    *,
    weights: Sequence[str] = (),
    wanted: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    source: Path | None = None,
) -> GraphModule:
    """A module that computes `wanted` from `given`; see `compile_graph`.

    Raises:
        InputError: As for `compile_graph`, or a weight cannot be read.
    """
    program = compile_graph(graph, weights=weights, wanted=wanted, given=given)
    return GraphModule(graph, program, source=source)
