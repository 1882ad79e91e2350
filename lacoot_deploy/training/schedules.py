"""Learning rate and lambda as functions of the step: nothing to save, so nothing to restore wrongly."""

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


def penalty_weight(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The penalty's lambda at an optimiser step; arguments as for `learning_rate`."""
    done = step / max(recipe.epochs * steps_per_epoch - 1, 1)
    if recipe.penalty == 0 or done < recipe.penalty_start:
        return 0.0
    if recipe.penalty_schedule == "constant":
        return recipe.penalty
    span = recipe.penalty_end - recipe.penalty_start
    rise = 1.0 if span <= 0 else min((done - recipe.penalty_start) / span, 1.0)
    if recipe.penalty_schedule == "cosine":
        rise = 0.5 * (1 - math.cos(math.pi * rise))
    return recipe.penalty_initial + (recipe.penalty - recipe.penalty_initial) * rise
