"""What networks are for: one object says what a sample costs, what is right, and in which unit, for every command."""

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.tasks.base import Difference, Facts, Measure, Score, Task, Truth, Unfit
from lacoot_deploy.tasks.judge import Judge, Quality
from lacoot_deploy.tasks.registry import TASKS, fit_task, kind_of

__all__ = [
    "TASKS",
    "Difference",
    "Facts",
    "Judge",
    "Measure",
    "Quality",
    "Score",
    "Task",
    "TaskOptions",
    "Truth",
    "Unfit",
    "fit_task",
    "kind_of",
]
