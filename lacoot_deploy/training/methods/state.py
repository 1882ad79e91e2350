"""What a run of such a method keeps from round to round: small records that travel in the checkpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lacoot_deploy.manifest import RoundRecord


class Edit(BaseModel):
    """One change to the network that its recipe describes, replayed in order when it is built again.

    Attributes:
        kind: `linear` puts an identity in place of an activation, `gate` a fixed scale (and shift) per channel,
            `slope` one with a learned slope; `padding` gives a convolution other padding.
        path: Path of the module.
        channels: Channels of a gate.
        axis: Channel axis of its value, -1 for the last.
        shifted: Whether the gate also adds constants.
        padding: Rows and columns of zeros on each side, of `padding`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["linear", "gate", "slope", "padding"]
    path: str
    channels: int = 0
    axis: int = 1
    shifted: bool = False
    padding: tuple[int, ...] = ()


class MethodState(BaseModel):
    """How far a run of rounds is.

    Attributes:
        round: The round it is in; 0 trains the dense network.
        trained: Epochs of that round that are done.
        edits: Every change made so far.
        records: The rounds that were judged, the present one's record last once its change is made.
        dense_accuracy: Validation accuracy after round 0, in percent.
        good_edits: How many of the edits the last good network has.
        good_accuracy: Its validation accuracy.
        stopped: Why no further round follows; None while it goes on.
    """

    model_config = ConfigDict(extra="forbid")

    round: int = 0
    trained: int = 0
    edits: list[Edit] = Field(default_factory=list)
    records: list[RoundRecord] = Field(default_factory=list)
    dense_accuracy: float | None = None
    good_edits: int = 0
    good_accuracy: float | None = None
    stopped: str | None = None

    @property
    def good_records(self) -> list[RoundRecord]:
        """The rounds whose network was kept."""
        return [record for record in self.records if record.accepted]

    @property
    def removed(self) -> list[str]:
        """Paths of the activations that are gone from the last good network, in the order in which they went."""
        return [name for record in self.good_records for name in record.removed]
