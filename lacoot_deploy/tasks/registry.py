"""The tasks by name, and the choice among them: named by the user, or found from outputs and labels.

A task is one file and one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.data.options import TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.tasks.base import Facts, Task, Unfit
from lacoot_deploy.tasks.classification import Classification
from lacoot_deploy.tasks.denoising import Denoising
from lacoot_deploy.tasks.detection import Detection
from lacoot_deploy.tasks.embedding import Embedding
from lacoot_deploy.tasks.multilabel import Multilabel
from lacoot_deploy.tasks.own import own_task
from lacoot_deploy.tasks.regression import Regression
from lacoot_deploy.tasks.segmentation import Segmentation
from lacoot_deploy.tasks.tokens import Tokens

TASKS: dict[str, type[Task]] = {
    kind.name: kind
    for kind in (
        Detection,
        Multilabel,
        Embedding,
        Classification,
        Tokens,
        Segmentation,
        Denoising,
        Regression,
    )
}
"""In the order in which they are tried where none is named."""


def fit_task(
    outputs: Mapping[str, NDArray[Any]], samples: Samples, options: TaskOptions | None = None
) -> Task:
    """The task that the user named, or that outputs and labels speak for.

    Args:
        outputs: The dense network's outputs on the samples, or on the first of them, [n, ...] each.
        samples: Samples with their labels, if any.
        options: What the user said; None for nothing.

    Raises:
        UsageError: There is no such task, measure or output.
        InputError: The named task does not fit, or none fits the labels; the message says why.
    """
    options = options or TaskOptions()
    task = _fitted(outputs, samples, options)
    return task if options.measure is None else task.with_measure(options.measure)


def _fitted(outputs: Mapping[str, NDArray[Any]], samples: Samples, options: TaskOptions) -> Task:
    judged = chosen_outputs(outputs, options.outputs)
    facts = Facts(judged, samples.label_arrays, samples.own_feeds, samples.classes, options.name is not None)
    if options.name is None:
        recorded = (
            None if options.recorded is None else _recorded(options.recorded, replace(facts, named=True))
        )
        return recorded or _found(facts, samples)
    if options.name.startswith("python:"):
        return own_task(options.name, facts)
    kind, measure = kind_of(options.name)
    task = kind.fit(facts)
    if isinstance(task, Unfit):
        raise InputError(f"The task {kind.name} does not fit: {task.reason}. It is for {kind.wants}.")
    return task if measure is None else task.with_measure(measure)


def _recorded(name: str, facts: Facts) -> Task | None:
    """The task that a manifest speaks of, where it is one of ours and fits."""
    kind, _, measure = name.partition(":")
    task = TASKS[kind].fit(facts) if kind in TASKS else None
    if not isinstance(task, Task):
        return None
    known = {one.name for one in task.measures}
    return task.with_measure(measure) if measure in known else task


def kind_of(name: str) -> tuple[type[Task], str | None]:
    """The kind of task that a name stands for, and the measure that it asks for, if any.

    Args:
        name: `NAME`, `NAME:MEASURE` or `python:module:object`.

    Raises:
        UsageError: There is no such task.
        InputError: The user's own cannot be imported.
    """
    kind, _, measure = name.partition(":")
    if kind not in TASKS:
        raise UsageError(
            f"There is no task {name!r}; use one of {', '.join(TASKS)}, each with :MEASURE behind it if you like, or "
            f"python:module:object."
        )
    return TASKS[kind], measure or None


def chosen_outputs(
    outputs: Mapping[str, NDArray[Any]], names: tuple[str, ...] | None
) -> dict[str, NDArray[Any]]:
    """The outputs of those names, in the model's order; all for None.

    Raises:
        UsageError: There is no such output.
    """
    unknown = [name for name in names or () if name not in outputs]
    if unknown:
        raise UsageError(
            f"There is no output {unknown[0]!r} to judge by; the model has {', '.join(outputs)}."
        )
    return {name: values for name, values in outputs.items() if names is None or name in names}


def _found(facts: Facts, samples: Samples) -> Task:
    unfit: Unfit | None = None
    for kind in TASKS.values():
        task = kind.fit(facts)
        if isinstance(task, Task):
            return task
        if unfit is None or (task.near and not unfit.near):
            unfit = task
    assert unfit is not None
    where = f" in {samples.description}" if samples.description else ""
    if not facts.labels:
        raise InputError(f"The model's outputs can be judged by no task: {unfit.reason}.")
    raise InputError(
        f"The labels{where} fit no task: {unfit.reason}. Leave labels out of the data to judge by the dense network's "
        f"answers, or name the task with --task."
    )
