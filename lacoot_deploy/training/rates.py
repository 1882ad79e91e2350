"""The learning rate as a function of the step: nothing to save, so nothing to restore wrongly."""

from __future__ import annotations

import math

from lacoot_deploy.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of an optimiser step.

    Args:
        recipe: The schedule.
        step: Steps taken so far, over all epochs.
        steps_per_epoch: Steps of one epoch.
    """
    total = recipe.epochs * steps_per_epoch
    warm = recipe.warmup * steps_per_epoch
    if step < warm:
        return recipe.lr * (step + 1) / (math.ceil(warm) + 1)
    if recipe.schedule == "cosine":
        done = (step - warm) / max(total - warm, 1)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    passed = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
    return float(recipe.lr * recipe.gamma**passed)
