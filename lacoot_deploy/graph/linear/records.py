"""What merging reports: every pair of linear operators that became one, and every pair that did not with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lacoot_deploy.graph.model.blocks import Reason


class Code(str, Enum):
    """Why two linear operators in a row stay two."""

    OTHER_READERS = "other-readers"
    GRAPH_OUTPUT = "graph-output"
    BORDER_BIAS = "border-bias"
    BORDER_WINDOW = "border-window"
    NOT_CHEAPER = "not-cheaper"
    NOT_FASTER = "not-faster"
    SLOPE = "slope"
    NOT_PER_CHANNEL = "not-per-channel"
    UNKNOWN_SHAPE = "unknown-shape"
    NOT_CONSTANT = "not-constant"
    TRANSPOSED = "transposed"
    OTHER_AXIS = "other-axis"
    NEGATIVE_PADDING = "negative-padding"
    RANGE = "range"
    OLD_MODEL = "old-model"
    ACTIVATION = "activation"
    RESIDUAL_ADD = "residual-add"
    NORMALISATION = "normalisation"
    NOT_LINEAR = "not-linear"
    NO_NEIGHBOUR = "no-neighbour"


@dataclass(frozen=True)
class Work:
    """What an operator, or a pair of them, takes.

    Attributes:
        macs: Multiply-adds for one sample; free dimensions count as 1.
        parameters: Weights and biases.
    """

    macs: int
    parameters: int

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.parameters + other.parameters)

    @property
    def total(self) -> int:
        """What `cheaper` compares: multiply-adds and parameters together, since a run pays for both."""
        return self.macs + self.parameters


@dataclass(frozen=True)
class MergeRecord:
    """Two linear operators that became one.

    Attributes:
        first: Node that ran first.
        second: Node that read its result.
        kept: Which of them is left.
        value: The value between them, which is gone.
        kinds: What they are: `convolution`, `fully connected`, `per channel`, `identity`.
        before: What the pair took; None for a fold that removes an operator without a cost of its own.
        after: What the merged operator takes; likewise.
        error: 0 for an exact merge; else the largest difference of the pair's output over its largest entry, measured
            on random input, or for a slope near 1 its distance from 1.
        reason: Why the merge is not exact; None where it is.
    """

    first: str
    second: str
    kept: str
    value: str
    kinds: tuple[str, str]
    before: Work | None = None
    after: Work | None = None
    error: float = 0.0
    reason: Reason | None = None

    @property
    def exact(self) -> bool:
        """Whether nothing changed but rounding."""
        return self.reason is None


@dataclass(frozen=True)
class Refusal:
    """Two linear operators in a row that were left as they are.

    Attributes:
        first: Node that runs first.
        second: Node that reads its result.
        value: The value between them.
        reason: Why; its code is one of `Code`.
    """

    first: str
    second: str
    value: str
    reason: Reason


def reason(code: Code, text: str, *values: str) -> Reason:
    """A reason with one of our codes."""
    return Reason(code.value, text, tuple(values))
