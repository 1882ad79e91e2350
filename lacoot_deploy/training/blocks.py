"""From the blocks of the ONNX graph to the modules and sums of the PyTorch model, and the values at their two ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.training.export import evaluating, to_onnx, values_of
from lacoot_deploy.training.sums import CallRecord, SumPlace, SumWatch, calls_in_training, find_sum, same


@dataclass(frozen=True)
class TrackedBlock:
    """A block of the graph and what computes exactly it in PyTorch.

    Attributes:
        block: As discovery found it in the exported graph.
        module: The submodule whose first argument and result are the block's input and output; None where it is a sum
            in another module's own forward.
        copy_input: The module's input is changed in place later on and must be copied when captured.
        copy_output: Likewise its output.
        place: That sum, where there is no module.
    """

    block: Block
    module: nn.Module | None
    copy_input: bool = False
    copy_output: bool = False
    place: SumPlace | None = None

    @property
    def name(self) -> str:
        """The block's name: the module's path, or that of the merge."""
        return self.block.name


@dataclass(frozen=True)
class LocatedBlocks:
    """What was found in a model.

    Attributes:
        tracked: Blocks that a bypass can delete, each with its module or sum.
        blocks: Everything that discovery found.
        missed: Name and reason of each bypassable block that nothing in PyTorch computes exactly.
        exported: The exported model.
    """

    tracked: tuple[TrackedBlock, ...]
    blocks: tuple[Block, ...]
    missed: tuple[tuple[str, str], ...]
    exported: onnx.ModelProto

    def select(self, names: Sequence[str]) -> tuple[TrackedBlock, ...]:
        """The tracked blocks of the given names; all of them for no names.

        Raises:
            UsageError: There is no such block, or it cannot be penalised.
        """
        if not names:
            return self.tracked
        known = {tracked.name: tracked for tracked in self.tracked}
        for name in names:
            if name not in known:
                choice = ", ".join(known) or "none"
                raise UsageError(f"There is no block {name!r} that can be penalised; there are: {choice}.")
        return tuple(known[name] for name in names)


class BlockCapture:
    """Keeps the input and output of blocks in the forward passes of `watching`; nothing is computed for it.

    Attributes:
        values: Block name to (input, output) of the last recorded forward pass.
    """

    def __init__(self, tracked: Sequence[TrackedBlock]) -> None:
        self.enabled = False
        self.values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._places = {t.name: t.place for t in tracked if t.place is not None}
        self._handles = [
            t.module.register_forward_hook(self._hook(t), with_kwargs=True)
            for t in tracked
            if t.module is not None
        ]

    @contextmanager
    def watching(self, wanted: bool = True) -> Iterator[None]:
        """Context whose forward pass is recorded, unless it is not wanted."""
        self.enabled = wanted
        try:
            if wanted and self._places:
                with SumWatch(self._places) as sums:
                    yield
                self.values |= sums.values
            else:
                yield
        finally:
            self.enabled = False

    def _hook(self, tracked: TrackedBlock) -> Any:
        name, copy_input, copy_output = tracked.name, tracked.copy_input, tracked.copy_output

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self.enabled:
                value = args[0] if args else next(iter(kwargs.values()))
                self.values[name] = (
                    value.clone() if copy_input else value,
                    output.clone() if copy_output else output,
                )

        return keep

    def take(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The recorded values, which are then forgotten so that their memory can go."""
        values, self.values = self.values, {}
        return values

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for handle in self._handles:
            handle.remove()


def locate_blocks(model: nn.Module, example: torch.Tensor) -> LocatedBlocks:
    """Find the blocks of a model that can be deleted from its ONNX export, and their modules.

    The model is exported once and searched with the discovery that the ONNX commands use. A block is tracked
    where the module of its name has, for real input, exactly the block's input and output values.

    Args:
        model: The network, on the CPU.
        example: Two or more real inputs, float32 [n, ...].
    """
    from lacoot_deploy.graph.discovery import find_blocks

    proto = to_onnx(model, example[:2])
    blocks = find_blocks(proto)
    bypassable = [block for block in blocks if block.collapsible and Form.BYPASS in block.forms]
    wanted = sorted({name for block in bypassable for name in (block.input, block.output)})
    truth = values_of(proto, wanted, example.numpy()) if wanted else {}
    matched = {block.name: _match(model, example, block, truth) for block in bypassable}
    lost = [block for block in bypassable if isinstance(matched[block.name], str)]
    matched |= _sums(model, example, lost, truth) if lost else {}
    tracked = [found for found in matched.values() if isinstance(found, TrackedBlock)]
    missed = [(name, found) for name, found in matched.items() if isinstance(found, str)]
    return LocatedBlocks(tuple(tracked), blocks, tuple(missed), proto)


def _sums(
    model: nn.Module, example: torch.Tensor, blocks: Sequence[Block], truth: Mapping[str, Any]
) -> dict[str, TrackedBlock | str]:
    """Blocks that no module is, as sums in a module's own forward, or what has to be changed for that."""
    found: dict[str, TrackedBlock | str] = {}
    record = CallRecord(truth[name].shape for block in blocks for name in (block.input, block.output))
    with evaluating(model), torch.no_grad(), record:
        model(example)
    trained = calls_in_training(model, example)
    for block in blocks:
        place = find_sum(record.seen, truth[block.input], truth[block.output])
        if place is None:
            found[block.name] = (
                "its sum is no call of PyTorch's that could be watched; put block and sum into a module of their own"
            )
            continue
        found[block.name] = TrackedBlock(block, None, place=place)
        if any(trained[name] != record.counts[name] for name in (place.merge.name, place.end.name)):
            found[block.name] = (
                "the forward in which its sum is written takes another way in training; put block and sum into a "
                "module of their own"
            )
    return found


def _match(model: nn.Module, example: torch.Tensor, block: Block, truth: Any) -> TrackedBlock | str:
    """The block's module, or why there is none."""
    try:
        module = model.get_submodule(block.name)
    except AttributeError:
        return f"the model has no submodule {block.name!r}"
    capture = BlockCapture([TrackedBlock(block, module, copy_input=False, copy_output=False)])
    copies = BlockCapture([TrackedBlock(block, module, copy_input=True, copy_output=True)])
    try:
        with evaluating(model), torch.no_grad(), capture.watching(), copies.watching():
            model(example)
    finally:
        capture.remove()
        copies.remove()
    if block.name not in copies.values:
        return f"the module {block.name} is not called in the forward pass"
    ends = copies.values[block.name]
    for what, value, name in zip(("input", "output"), ends, (block.input, block.output), strict=True):
        if not isinstance(value, torch.Tensor):
            return f"the {what} of module {block.name} is no tensor"
        expected = truth[name]
        if tuple(value.shape) != expected.shape:
            return f"the {what} of module {block.name} has another shape than the block's"
        if not same(value.numpy(), expected):
            return f"the {what} of module {block.name} is not the block's {what}"
    # An in-place operation further on would change what was captured: then it has to be copied.
    changed = [
        not torch.equal(kept, copied) for kept, copied in zip(capture.values[block.name], ends, strict=True)
    ]
    return TrackedBlock(block, module, copy_input=changed[0], copy_output=changed[1])
