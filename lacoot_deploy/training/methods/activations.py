"""The activations of a network: where they are, what makes their input, what alone reads their output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.export import evaluating
from lacoot_deploy.training.methods.layers import Slope

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.PReLU, nn.LeakyReLU, Slope)
UPPER: dict[type[nn.Module], float] = {nn.ReLU6: 6.0}
"""Above this an activation is flat again."""

FUNCTIONS = frozenset(
    {"relu", "relu_", "relu6", "gelu", "silu", "hardswish", "prelu", "leaky_relu", "leaky_relu_", "clamp_min"}
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS)
PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Site:
    """An activation that can be made linear.

    Attributes:
        path: Path of its module.
        kind: Name of its class.
        upper: Above this it is flat; None for not at all.
        channels: Number of its neurons: channels after a convolution, features after a linear layer.
        axis: Their axis in its value, 1 or -1.
        producer: Path of the convolution or linear layer whose result is its input, through nothing but a batch
            normalisation; None where something else makes it, such as the addition of a skip path.
        norm: Path of that batch normalisation.
        consumer: Path of the convolution or linear layer that alone reads its value.
        after_add: Whether an addition makes its input.
    """

    path: str
    kind: str
    upper: float | None
    channels: int
    axis: int
    producer: str | None
    norm: str | None
    consumer: str | None
    after_add: bool


@dataclass(frozen=True)
class Activations:
    """What was found in a network.

    Attributes:
        sites: Activations in the order of the computation.
        refused: Place and reason of every one that cannot be made linear by replacing a module.
    """

    sites: tuple[Site, ...]
    refused: tuple[tuple[str, str], ...]

    def select(self, names: Sequence[str]) -> tuple[Site, ...]:
        """The sites of these paths; all of them for no names.

        Raises:
            UsageError: There is no such activation, or it cannot be made linear.
        """
        reasons = dict(self.refused)
        known = {site.path: site for site in self.sites}
        for name in names:
            if name in reasons:
                raise UsageError(f"only: {name} cannot be made linear: {reasons[name]}.")
            if name not in known:
                raise UsageError(
                    f"only: there is no activation {name!r}; there are {', '.join(known) or 'none'}."
                )
        return tuple(site for site in self.sites if not names or site.path in names)


@dataclass(frozen=True)
class _Call:
    """A call of a torch function that gives a new tensor: inside which module, what it reads and what it makes."""

    owner: str
    name: str
    reads: tuple[int, ...]
    made: int


class CallTrace(TorchFunctionMode):
    """Every call of a torch function, and which tensors go into and out of every leaf module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.values: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._kept: list[torch.Tensor] = []  # so that no id is used twice
        self._stack: list[str] = []
        self._handles: list[Any] = []
        for path, module in model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._enter(path)))
            self._handles.append(module.register_forward_hook(self._leave(path)))

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.append(path)

        return hook

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._stack.pop()
            if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
                self.values.setdefault(path, []).append((args[0], output))
                self._kept += [args[0], output]

        return hook

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the call and note it."""
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        results = output if isinstance(output, tuple | list) else (output,)
        reads = tuple(id(value) for value in _tensors((*args, *(kwargs or {}).values())))
        for made in _tensors(results):
            self._kept.append(made)
            # Not what hands its argument on, as dropout does; but in-place activations count.
            if id(made) not in reads or name in FUNCTIONS:
                self.calls.append(_Call(self._stack[-1] if self._stack else "", name, reads, id(made)))
        self._kept += list(_tensors(args))
        return output

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def trace_calls(model: nn.Module, example: torch.Tensor) -> CallTrace:
    """What a forward pass in evaluation mode calls, no activation overwriting its input."""
    with _out_of_place(model), evaluating(model), torch.no_grad():
        trace = CallTrace(model)
        try:
            with trace:
                model(example)
        finally:
            trace.remove()
    return trace


def find_activations(model: nn.Module, example: torch.Tensor) -> Activations:
    """Run the network once on the CPU and see what its activations read and what reads them.

    Args:
        model: The network.
        example: Two or more real inputs.
    """
    trace = trace_calls(model, example)
    modules = dict(model.named_modules())
    sites: list[Site] = []
    refused: list[tuple[str, str]] = []
    inside = tuple(p for p, m in modules.items() if isinstance(m, Slope))
    order = {path: number for number, path in enumerate(trace.values)}
    paths = [p for p, m in modules.items() if isinstance(m, ACTIVATIONS)]
    for path in sorted(paths, key=lambda p: order.get(p, len(order))):
        if path.rpartition(".")[0] in inside:
            continue  # the activation within one with a slope
        passes = trace.values.get(path, [])
        if len(passes) != 1:
            times = "never" if not passes else f"{len(passes)} times"
            refused.append((path, f"the module is called {times} in a forward pass; give each place its own"))
        else:
            sites.append(_site(path, modules, trace, *passes[0]))
    owners = {p for p, m in modules.items() if isinstance(m, ACTIVATIONS)}
    for call in trace.calls:
        if call.name in FUNCTIONS and call.owner not in owners:
            where = call.owner or type(model).__name__
            reason = f"{call.name} is called as a function; make it a module, such as torch.nn.ReLU"
            if (where, reason) not in refused:
                refused.append((where, reason))
    return Activations(tuple(sites), tuple(refused))


def _site(
    path: str, modules: dict[str, nn.Module], trace: CallTrace, value: torch.Tensor, output: torch.Tensor
) -> Site:
    makers = {call.made: call for call in trace.calls}
    maker = makers.get(id(value))
    norm = producer = None
    if maker is not None and isinstance(modules[maker.owner], NORMS):
        norm = maker.owner
        maker = makers.get(id(trace.values[norm][0][0])) if len(trace.values[norm]) == 1 else None
    if (
        maker is not None
        and isinstance(modules[maker.owner], WEIGHTED)
        and len(trace.values[maker.owner]) == 1
    ):
        producer = maker.owner
    made_by = makers.get(id(value))
    nearest = modules.get(producer or norm or _nearest(id(value), modules, makers))
    axis = 1 if value.dim() > 2 and isinstance(nearest, (*CONVOLUTIONS, *NORMS)) else -1
    module = modules[path]
    kind = type(module.activation if isinstance(module, Slope) else module)
    return Site(
        path=path,
        kind=kind.__name__,
        upper=UPPER.get(kind),
        channels=value.shape[axis],
        axis=axis,
        producer=producer,
        norm=norm if producer is not None else None,
        consumer=_consumer(path, modules, trace, output),
        after_add=made_by is not None and made_by.name in ("add", "add_", "__add__", "__iadd__", "__radd__"),
    )


def _nearest(value: int, modules: dict[str, nn.Module], makers: dict[int, _Call]) -> str:
    """Path of the nearest layer with weights that a value comes from, which tells where its channels lie."""
    waiting, seen = [value], set[int]()
    while waiting:
        call = makers.get(waiting.pop(0))
        if call is None or call.made in seen:
            continue
        seen.add(call.made)
        if isinstance(modules[call.owner], (*WEIGHTED, *NORMS)):
            return call.owner
        waiting += call.reads
    return ""


def _consumer(path: str, modules: dict[str, nn.Module], trace: CallTrace, output: torch.Tensor) -> str | None:
    """The weighted module that alone reads a value, through dropout and batch normalisation."""
    value, own = id(output), path
    while True:
        readers = [call for call in trace.calls if value in call.reads and call.owner != own]
        if len(readers) != 1:
            return None
        reader = readers[0]
        module = modules[reader.owner]
        if isinstance(module, WEIGHTED):
            return reader.owner if len(trace.values[reader.owner]) == 1 else None
        if not isinstance(module, (*NORMS, *PASSING)):
            return None
        value, own = reader.made, reader.owner


class _out_of_place:  # noqa: N801 (reads as an adverb in `with`)
    """Context in which no activation overwrites its input, which would give one tensor two meanings."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [m for m in model.modules() if getattr(m, "inplace", False) is True]

    def __enter__(self) -> None:
        for module in self.modules:
            setattr(module, "inplace", False)  # noqa: B010 (not every module has one)

    def __exit__(self, *_: object) -> None:
        for module in self.modules:
            setattr(module, "inplace", True)  # noqa: B010


def _tensors(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
