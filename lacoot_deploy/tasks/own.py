"""A task or a metric of the user's own: `python:module:object`.

The object is a class (made without arguments), an instance, or a function that gives scores:

    class Heading:
        \"\"\"A camera's direction: what counts is the angle.\"\"\"

        outputs = ("direction",)      # optional; all outputs without it
        unit = "degrees"              # of a drop
        higher = False                # whether a larger score is better

        def costs(self, outputs, labels, dense):
            \"\"\"What each sample costs, never negative, [n]; arrays or tensors, so only what both know.\"\"\"
            want = labels["labels"] if labels else dense["direction"]
            return ((outputs["direction"] - want) ** 2).sum(1)

        def scores(self, outputs, labels, dense):
            \"\"\"Each sample's score [n], or one number for all of them; NumPy arrays.\"\"\"
            want = labels["labels"] if labels else dense["direction"]
            return np.degrees(np.arccos((outputs["direction"] * want).sum(1).clip(-1, 1)))

`labels` is None where there are none. Without `scores` the cost is the score. A function is called as
`f(outputs, labels)` and gives a score per sample or one for all; what a sample costs is then the distance from the
dense network's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import Operations
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.regression import Regression
from lacoot_deploy.userfunctions import call_function, load_function


@dataclass(frozen=True)
class Own(Task):
    """A task of the user's own.

    Attributes:
        target: `python:module:object`.
        thing: The object.
        names: The outputs that are judged.
        fallback: What gives the costs of a function that only gives scores; None where the object has costs.
        whole: Whether the scores are one number for all samples.
        yes_or_no: Whether each sample's score is true or false: then the score is a percentage.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "python"
    summary: ClassVar[str] = "a class or function of your own"
    wants: ClassVar[str] = "whatever it says"

    target: str
    thing: Any
    names: tuple[str, ...]
    fallback: Task | None = None
    whole: bool = False
    yes_or_no: bool = False
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """Never found by itself: `own_task` makes it from what the user names."""
        return Unfit("it has to be named as python:module:object")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that it names, or all."""
        return self.names

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Its own score."""
        higher = bool(
            getattr(self.thing, "higher", hasattr(self.thing, "scores") or self.fallback is not None)
        )
        name = str(
            getattr(self.thing, "name", None) or getattr(self.thing, "__name__", type(self.thing).__name__)
        )
        unit = str(getattr(self.thing, "unit", "points" if self.yes_or_no else f"of {name}"))
        if self.whole:
            return (Measure(name, unit, self._total, higher=higher),)
        if self.yes_or_no:
            hits = lambda found: np.asarray(found[:, 0] > 0)  # noqa: E731
            return (Measure(name, unit, lambda s: 100 * float(s.mean()), hits, higher, span=100.0),)
        return (Measure(name, unit, lambda s: float(s.mean()), lambda s: s[:, 0], higher),)

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """The labels as they are."""
        return Truth(dict(labels))

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """What its `costs` gives.

        Raises:
            InputError: It fails, or gives something else than one number a sample.
        """
        if self.fallback is not None:
            return self.fallback.formula(ops, outputs, truth.unlabelled(), dense)
        known = {n: outputs[n] for n in self.names}
        labels = {n: ops.like(v, next(iter(known.values()))) for n, v in truth.labels.items()} or None
        found = self._call(self.thing.costs, known, labels, dense)
        if tuple(np.shape(found)) != (len(next(iter(known.values()))),):
            raise InputError(
                f"costs of {self.target} gives shape {list(np.shape(found))}, not one number a sample."
            )
        return found

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Each sample's score, [n, 1]; where it is one number for all, each sample's outputs and labels, [n]."""
        if not self.whole:
            return np.asarray(self._scores(outputs, truth, dense), np.float64).reshape(-1, 1)
        count = len(outputs[self.names[0]])
        found = np.empty(count, object)
        for i in range(count):
            parts = ({n: v[i] for n, v in given.items()} for given in (outputs, truth.labels, dense or {}))
            found[i] = tuple(parts)
        return found

    def settings(self) -> dict[str, Any]:
        """Where it comes from."""
        return {"object": self.target}

    def _total(self, found: Statistics) -> float:
        outputs, labels, dense = (
            {name: np.stack([row[part][name] for row in found]) for name in found[0][part]}
            for part in range(3)
        )
        return float(self._scores(outputs, Truth(labels), dense or None))

    def _scores(self, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        known: Outputs = outputs if self.fallback is not None else {n: outputs[n] for n in self.names}
        if self.fallback is not None:
            labels = truth.labels.get("labels", dict(truth.labels) or None)
            return self._call(self.thing, known, labels)
        function = getattr(self.thing, "scores", None) or self.thing.costs
        return self._call(function, known, dict(truth.labels) or None, dense)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return call_function(function, self.target, *arguments)


def own_task(target: str, facts: Facts) -> Task:
    """The task of the user's own that `python:module:object` names.

    Args:
        target: Its name.
        facts: The outputs and labels that it is for.

    Raises:
        UsageError: The name is of another form.
        InputError: It cannot be imported, is nothing of that kind, or fails.
    """
    return task_of(load_function(target, "task"), target, facts)


def task_of(thing: Any, target: str, facts: Facts) -> Task:
    """The task that an object of the user's stands for.

    Args:
        thing: A class, an instance, or a function that gives scores.
        target: What messages call it.
        facts: The outputs and labels that it is for.

    Raises:
        InputError: It is nothing of that kind, or fails.
    """
    if isinstance(thing, type):
        thing = call_function(thing, target)
    if not callable(getattr(thing, "costs", None)) and (not callable(thing) or hasattr(thing, "scores")):
        raise InputError(f"{target} has no costs(outputs, labels, dense); see `costs` in the guide on tasks.")
    names = tuple(getattr(thing, "outputs", None) or facts.outputs)
    unknown = [name for name in names if name not in facts.outputs]
    if unknown:
        raise InputError(
            f"{target} judges the output {unknown[0]!r}; the model has {', '.join(facts.outputs)}."
        )
    fallback = None
    if not callable(getattr(thing, "costs", None)):
        found = Regression.fit(Facts(facts.outputs))
        fallback = found if isinstance(found, Task) else None
    task = Own(target, thing, names, fallback)
    few = {name: values[:8] for name, values in facts.outputs.items()}
    labels = {name: values[:8] for name, values in facts.labels.items()}
    scores = np.asarray(task._scores(few, Truth(labels), few))
    if scores.shape not in ((), (len(next(iter(few.values()))),)):
        raise InputError(
            f"{target} must give one score a sample or one number; it gave shape {list(scores.shape)}."
        )
    return Own(target, thing, names, fallback, whole=scores.shape == (), yes_or_no=scores.dtype == bool)


def task_is_metric(task: Task | None) -> bool:
    """Whether a task is a function of the user's that only scores."""
    return isinstance(task, Own) and task.fallback is not None
