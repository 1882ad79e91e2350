"""What a plan leaves of a block, as the recipe of a network says it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CutSetting(BaseModel):
    """What a plan leaves of one block; the values of the repair are weights and travel with them.

    Attributes:
        block: Path of the module.
        form: `bypass` leaves nothing of it, `shortcut` its skip path.
        repair: Kind of the map in its place.
        axis: Channel axis of the map.
        rank: Number of axes of the block's value.
        channels: Channels of the map; 0 for none.
        low: The value is clipped from below at this; None for not at all.
        high: And from above at this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    block: str
    form: Literal["bypass", "shortcut"] = "bypass"
    repair: Literal["none", "affine", "linear"] = "none"
    axis: int = Field(default=1, ge=0)
    rank: int = Field(default=4, ge=1)
    channels: int = Field(default=0, ge=0)
    low: float | None = None
    high: float | None = None
