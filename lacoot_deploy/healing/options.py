"""How a cut network is healed: one value, passed whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lacoot_deploy.errors import UsageError

AUGMENTATIONS = ("flip", "crop")
FEW = 500
"""Fewer samples than this are said to be few: what is learnt from them carries over less."""


@dataclass(frozen=True)
class HealOptions:
    """How a cut network is healed.

    Attributes:
        steps: Optimiser steps.
        minutes: Minutes after which it ends, whatever steps are left; the schedule follows whichever comes first. None
            for no limit.
        batch: Samples of a step.
        rate: Peak learning rate of Adam.
        seed: Of the order of the samples, the augmentation and the choice of the held-back share.
        held_back: Share of the samples that judge and never train, 0..1.
        augment: `flip` and `crop`, for images alone.
        ends: Weight of the squared errors at the ends of the blocks that stay.
        features: Weight of the squared error of the features before the head.
        answers: Weight of the task's distance between the outputs.
        labels: Weight of the task's cost against the labels.
        match: Names of further values whose squared errors count, with the weight of the features.
        train: `all` weights, or those `near` a hole alone.
        head: Whether the head learns too.
        bf16: Whether PyTorch may compute in bfloat16.
        device: `auto` (CUDA where PyTorch has it), `cpu` or `cuda`.
        force: Whether to go on with files of which neither is a cut of the other.

    Raises:
        UsageError: A value makes no sense.
    """

    steps: int = 480
    minutes: float | None = 10.0
    batch: int = 64
    rate: float = 3e-3
    seed: int = 0
    held_back: float = 0.15
    augment: tuple[str, ...] = ()
    ends: float = 1.0
    features: float = 1.0
    answers: float = 0.0
    labels: float = 0.0
    match: tuple[str, ...] = ()
    train: Literal["all", "near"] = "all"
    head: bool = False
    bf16: bool = False
    device: str = "auto"
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.steps < 1 or self.batch < 1:
            raise UsageError("Healing takes at least one step, of at least one sample.")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"--minutes must be above 0, not {self.minutes:g}.")
        if not 0 < self.held_back < 1:
            raise UsageError(f"The held-back share must lie between 0 and 1, not {self.held_back:g}.")
        if not self.rate > 0:
            raise UsageError(f"--rate must be above 0, not {self.rate:g}.")
        unknown = [name for name in self.augment if name not in AUGMENTATIONS]
        if unknown:
            raise UsageError(f"--augment knows {', '.join(AUGMENTATIONS)}, not {unknown[0]!r}.")
        weights = (self.ends, self.features, self.answers, self.labels)
        if any(not weight >= 0 for weight in weights) or not any(weights):
            raise UsageError("The weights of the loss must not be negative, and not all of them 0.")


DEFAULTS = HealOptions()
