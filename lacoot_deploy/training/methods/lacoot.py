"""LaCoOT (2406.08933): the distance between the input and output of every block is penalised, so that blocks can go."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.blocks import BlockCapture, TrackedBlock, locate_blocks
from lacoot_deploy.training.data_pipeline import DIRECTIONS, seeded
from lacoot_deploy.training.methods.base import Companion, Method, MethodSettings, Surroundings
from lacoot_deploy.training.penalty import block_penalty


class LacootSettings(MethodSettings):
    """The penalty.

    Attributes:
        penalty: lambda, its weight; 0 trains plainly, whatever the settings below say.
        penalty_schedule: `constant`, or `linear` or `cosine` from the initial weight to lambda between start and end.
        penalty_initial: That initial weight: 0 to let the penalty rise, more than lambda to let it fall.
        penalty_start: Share of the training at which the penalty sets in.
        penalty_end: Share of the training at which the penalty reaches lambda.
        penalty_stride: n > 1 looks only at every n-th row and column of activations.
        penalty_blocks: Names of the blocks to penalise; empty for all that a bypass can remove.
    """

    penalty: float = Field(default=3.0, ge=0)
    penalty_schedule: Literal["constant", "linear", "cosine"] = "constant"
    penalty_initial: float = Field(default=0.0, ge=0)
    penalty_start: float = Field(default=0.0, ge=0, le=1)
    penalty_end: float = Field(default=1.0, gt=0, le=1)
    penalty_stride: int = Field(default=1, ge=1)
    penalty_blocks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> LacootSettings:
        if self.penalty_initial > 0 and self.penalty_schedule == "constant":
            raise ValueError(
                "penalty_initial needs penalty_schedule linear or cosine, to go from it to the penalty"
            )
        if self.penalty_end < self.penalty_start:
            raise ValueError(f"penalty_end {self.penalty_end} lies before penalty_start {self.penalty_start}")
        return self


class Lacoot(Method[LacootSettings]):
    """Cross-entropy plus lambda times the mean distance over blocks."""

    tracked: tuple[TrackedBlock, ...] = ()

    def examine(self, model: nn.Module, example: torch.Tensor, around: Surroundings) -> None:
        """Find the blocks that a bypass can remove, and say which are penalised.

        Raises:
            UsageError: None can be, or the network is compiled and one is a sum in another module's own forward.
        """
        found = locate_blocks(model, example)
        if self.settings.penalty > 0:
            self.tracked = found.select(self.settings.penalty_blocks)
        sums = [t.name for t in self.tracked if t.place is not None]
        if sums and around.compiled:
            raise UsageError(
                f"Block {sums[0]} is a sum in a module's own forward, which cannot be watched in a compiled network; "
                f"set compile=false, or put block and sum into a module of their own."
            )
        names = ", ".join(t.name for t in found.tracked) or "none"
        around.note(f"Blocks that a bypass can remove: {names}; penalised: {len(self.tracked)}.")
        for name, reason in found.missed:
            around.note(f"Block {name} is not penalised: {reason}.")
        if self.settings.penalty > 0 and not found.tracked:
            raise UsageError(
                f"{around.model} has no block that a bypass can remove, so there is nothing to penalise; "
                f"train it with penalty=0."
            )

    def accompany(self, model: nn.Module, around: Surroundings) -> Companion:
        """Hooks on the blocks, and their distance in every step."""
        return BlockPenalty(self.settings, self.tracked, around)


class BlockPenalty(Companion):
    """The mean distance over blocks, with lambda as its weight."""

    distance = True

    def __init__(
        self, settings: LacootSettings, tracked: tuple[TrackedBlock, ...], around: Surroundings
    ) -> None:
        """Hook the blocks."""
        self.settings, self.around = settings, around
        chosen = around.distance
        self.options = replace(chosen, stride=settings.penalty_stride)
        self.capture = BlockCapture(tracked)

    def begin_epoch(self, epoch: int) -> None:
        """Directions of its own for every epoch."""
        self.directions = seeded(self.around.seed, epoch, DIRECTIONS, device=self.around.device)

    def begin_step(self, done: float, rate: float) -> None:
        """Lambda as the schedule has it."""
        self.weight = penalty_weight(self.settings, done)

    def watching(self) -> AbstractContextManager[None]:
        """Keep what goes into and comes out of every block."""
        return self.capture.watching(self.weight > 0)

    def added(self) -> torch.Tensor | None:
        """The mean distance over blocks; None where lambda is 0."""
        values = self.capture.take()
        if not values:
            return None
        return block_penalty(values, self.options, self.directions, group=self.around.group)

    def end(self) -> None:
        """Take the hooks off."""
        self.capture.remove()


def penalty_weight(settings: LacootSettings, done: float) -> float:
    """The penalty's lambda at an optimiser step.

    Args:
        settings: Its schedule.
        done: Steps before this one, as a share of those before the last.
    """
    if settings.penalty == 0 or done < settings.penalty_start:
        return 0.0
    if settings.penalty_schedule == "constant":
        return settings.penalty
    span = settings.penalty_end - settings.penalty_start
    rise = 1.0 if span <= 0 else min((done - settings.penalty_start) / span, 1.0)
    if settings.penalty_schedule == "cosine":
        rise = 0.5 * (1 - math.cos(math.pi * rise))
    return settings.penalty_initial + (settings.penalty - settings.penalty_initial) * rise
