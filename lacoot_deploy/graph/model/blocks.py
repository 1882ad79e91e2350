"""What discovery finds: residual units, grouped into blocks, each collapsible or refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

Dim = int | str | None
"""One dimension: a number, a symbolic name, or None where nothing is known."""

Shape = tuple[Dim, ...]


class Form(str, Enum):
    """How a block goes."""

    BYPASS = "bypass"
    """y := x; needs equal shapes of the block's input and output."""

    SHORTCUT = "shortcut"
    """merge := s; the skip path and the trailing op stay, so a strided block can lose its branch."""


@dataclass(frozen=True)
class Reason:
    """Why a block cannot go: a stable code, a sentence, and the values concerned."""

    code: str
    text: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResidualUnit:
    """One merge of a skip path and a branch.

    Attributes:
        name: Unique name; the module scope where the exporter left one, else derived from the merge node.
        input: Value x at which skip path and branch part.
        skip: The operand s of the merge that comes along the skip path (equal to `input` for an identity skip).
        branch: The operand of the merge that comes out of the branch.
        merge: Output value of the merge node; identifies the node.
        merge_op: Operator of the merge (`Add`, `Sum`, `SkipLayerNormalization`, ...).
        trailing: Output values of the ops after the merge that belong to the unit (activation, norm), in order.
        output: The value y that leaves the unit: the last of `trailing`, else `merge`.
    """

    name: str
    input: str
    skip: str
    branch: str
    merge: str
    merge_op: str
    trailing: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Block:
    """A region with one input value and one output value that holds at least one residual unit.

    Attributes:
        name: Unique and stable name (module path where known).
        input: Name of the block's input value.
        output: Name of the block's output value.
        units: The residual units inside, in graph order.
        forms: The forms in which the block can go, best first; empty where it cannot.
        shape: Shape of the input value as far as known; None where not even the rank is known.
        output_shape: Shape of the output value, likewise.
        dtype: Element type of the input value, numpy's name for it ("float32"); None where unknown.
        nodes: Names of the nodes that removal in the first form deletes (unnamed ones as `OpType:output`).
        parameters: Number of weights that removal in the first form frees.
        macs: Multiply-adds of the nodes removed, for one sample (batch and other free dimensions 1);
            None where shapes are unknown.
        reason: Why the block cannot go; None where it can.
        keep_relu: Bypass must leave a `Relu` on the input because the block ends in one and the input is not
            known to be non-negative.
        private_inputs: Inputs of the model that nothing but the block reads, such as its key-value cache.
        private_outputs: Results of the model that belong to the block alone; they and the private inputs go with it.
        scope: Names of the graph that holds the block: () for the main graph, else the path of
            (owner node, attribute) pairs joined by "/" from the outside in.
    """

    name: str
    input: str
    output: str
    units: tuple[ResidualUnit, ...]
    forms: tuple[Form, ...]
    shape: Shape | None
    output_shape: Shape | None
    dtype: str | None
    nodes: tuple[str, ...]
    parameters: int
    macs: int | None
    reason: Reason | None = None
    keep_relu: bool = False
    private_inputs: tuple[str, ...] = ()
    private_outputs: tuple[str, ...] = ()
    scope: tuple[str, ...] = field(default=())

    @property
    def collapsible(self) -> bool:
        """Whether the block can go in at least one form."""
        return self.reason is None and bool(self.forms)
