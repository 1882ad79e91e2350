"""Boxes with classes: mean average precision at 0.5 and over 0.5 to 0.95, as COCO defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.tasks.arrays import NUMPY, Operations
from lacoot_deploy.tasks.average_precision import Detections, match, suppress
from lacoot_deploy.tasks.base import Facts, Measure, Outputs, Statistics, Task, Truth, Unfit
from lacoot_deploy.tasks.boxes import BoxLayout, find_layout, pairwise_overlap
from lacoot_deploy.tasks.class_scores import TINY, whole_numbers

BOXES, CLASSES = "boxes", "classes"
"""Names of the labels: corners [n, g, 4] in the outputs' own coordinates, and classes [n, g], -1 for no box."""

LEAST = 0.001
"""Score under which a detection is not looked at, as evaluations do."""

BELIEVED = 0.3
"""Score from which on a detection of the dense network stands in for a true box."""

CANDIDATES = 1000
"""Detections of an image that suppression looks at, those with the largest scores."""


@dataclass(frozen=True)
class Detection(Task):
    """Boxes with classes.

    Attributes:
        layout: Where they stand in the outputs.
        labelled: Whether the labels `boxes` and `classes` are there.
        measure_name: As in `Task`.
    """

    name: ClassVar[str] = "detection"
    summary: ClassVar[str] = "boxes with classes: mean average precision"
    wants: ClassVar[str] = (
        "boxes and scores in the usual layouts; labels, if any, are `labels.boxes` (corners x1 y1 x2 y2, "
        "[samples, boxes, 4]) and `labels.classes` ([samples, boxes], -1 for none)"
    )

    layout: BoxLayout
    labelled: bool = False
    measure_name: str | None = None

    @classmethod
    def fit(cls, facts: Facts) -> Task | Unfit:
        """Outputs of a known layout; without labels only where an output is called boxes."""
        labelled = BOXES in facts.labels and CLASSES in facts.labels
        if facts.labels and not labelled:
            return Unfit("labels are no boxes with classes (labels.boxes and labels.classes)")
        classes = None
        if labelled:
            numbers = whole_numbers(facts.labels[CLASSES])
            if numbers is None:
                return Unfit("labels.classes are no whole numbers", near=True)
            classes = int(numbers.max(initial=0)) + 1
        layout = find_layout(facts.outputs, classes)
        if layout is None:
            shapes = ", ".join(f"{name} is {list(a.shape)}" for name, a in facts.outputs.items())
            return Unfit(f"the outputs are in no known layout of boxes and scores ({shapes})", near=labelled)
        said = any("box" in name.lower() for name in layout.outputs)
        if not facts.named and not labelled and not (said and layout.layout != "grid"):
            return Unfit("no output is called boxes")
        if classes is not None and classes > layout.classes:
            return Unfit(
                f"labels.classes go up to {classes - 1}, but the output has {layout.classes} classes",
                near=True,
            )
        return cls(layout, labelled)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that boxes are read from."""
        return self.layout.outputs

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Mean average precision over overlaps of 0.5 to 0.95, and at 0.5 and 0.75."""
        return (_precision("mAP", slice(None)), _precision("mAP50", 0), _precision("mAP75", 5))

    def truth(self, labels: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> Truth:
        """True boxes [n, g, 4] and their classes [n, g].

        Raises:
            InputError: The labels are not of these shapes.
        """
        if not self.labelled or BOXES not in labels:
            return Truth()
        boxes, classes = np.asarray(labels[BOXES], np.float64), whole_numbers(np.asarray(labels[CLASSES]))
        if classes is None or classes.ndim != 2 or boxes.shape != (*classes.shape, 4):
            raise InputError(
                f"labels.boxes must be [samples, boxes, 4] and labels.classes [samples, boxes]; they are "
                f"{list(boxes.shape)} and {list(np.shape(labels[CLASSES]))}."
            )
        return Truth({BOXES: boxes, CLASSES: classes})

    def formula(self, ops: Operations, outputs: Outputs, truth: Truth, dense: Outputs | None) -> Any:
        """What is wrong with boxes and classes, weighted by how much the true box, or the dense network's, is one."""
        boxes, scores = self.layout.read(ops, outputs)
        if truth.labels:
            classes = ops.like(truth.labels[CLASSES], boxes)
            true = ops.floating(ops.like(truth.labels[BOXES], boxes))
            weights = ops.floating(classes >= 0)
            return _unmatched(ops, boxes, scores, true, ops.clip(classes, 0, None), weights)
        assert dense is not None
        true, wanted = self.layout.read(ops, dense)
        best = ops.largest(wanted, 2)
        if not self.layout.anchored:
            return _unmatched(ops, boxes, scores, true, wanted.argmax(2), best)
        yes, no = (ops.log(ops.clip(p, TINY, None)) for p in (scores, 1 - scores))
        want_yes, want_no = (ops.log(ops.clip(p, TINY, None)) for p in (wanted, 1 - wanted))
        classes = (wanted * (want_yes - yes) + (1 - wanted) * (want_no - no)).sum(2)
        size = ((true[:, :, 2:] - true[:, :, :2]) ** 2).sum(2) / 2
        size = size + 0.01 * size.mean(1)[:, None] + 1e-9
        places = ((boxes - true) ** 2).sum(2) / size
        costs = (ops.clip(classes, 0.0, None) + best * places).sum(1) / ops.clip(best.sum(1), 1.0, None)
        return ops.where(ops.finite(boxes).all(2).all(1) & ops.finite(scores).all(2).all(1), costs, np.inf)

    def statistics(self, outputs: Outputs, truth: Truth, dense: Outputs | None = None) -> Statistics:
        """Each image's detections with what they match, `ImageMatches` in an array [n]."""
        boxes, scores = self.layout.read(NUMPY, {n: np.asarray(outputs[n]) for n in self.outputs})
        found = np.empty(len(boxes), object)
        stand_in = None
        if not truth.labels:
            assert dense is not None
            stand_in = self.layout.read(NUMPY, {n: np.asarray(dense[n]) for n in self.outputs})
        for i in range(len(boxes)):
            if stand_in is None:
                real = truth.labels[CLASSES][i] >= 0
                true = truth.labels[BOXES][i][real], truth.labels[CLASSES][i][real]
            else:
                true_boxes, true_scores, true_classes = self._detections(stand_in[0][i], stand_in[1][i])
                believed = true_scores >= min(BELIEVED, float(true_scores.max(initial=0)))
                true = true_boxes[believed], true_classes[believed]
            found[i] = match(self._detections(boxes[i], scores[i]), true, self.layout.classes)
        return found

    def settings(self) -> dict[str, Any]:
        """The layout, the number of classes, and whether boxes are suppressed here."""
        layout = self.layout
        return {"layout": layout.layout, "classes": layout.classes, "suppressed_here": not layout.suppressed}

    def _detections(
        self, boxes: NDArray[Any], scores: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        """One image's boxes, scores and classes that evaluations look at."""
        finite = np.isfinite(boxes).all(axis=1)
        place, classes = np.nonzero((scores > LEAST) & finite[:, None])
        values = scores[place, classes]
        chosen = np.argsort(-values, kind="stable")[:CANDIDATES]
        place, classes, values = place[chosen], classes[chosen], values[chosen]
        if not self.layout.suppressed:
            kept = suppress(boxes[place], values, classes)
            place, classes, values = place[kept], classes[kept], values[kept]
        return boxes[place], values, classes


def _precision(name: str, overlap: int | slice) -> Measure:
    def drawn(found: Statistics) -> Callable[[NDArray[np.int64]], float]:
        detections = Detections(list(found))
        return lambda chosen: 100 * float(np.mean(detections.precision(chosen)[overlap]))

    def total(found: Statistics) -> float:
        return 100 * float(np.mean(Detections(list(found)).precision()[overlap]))

    return Measure(name, "points", total, span=100.0, drawn=drawn)


def _unmatched(ops: Operations, boxes: Any, scores: Any, true: Any, classes: Any, weights: Any) -> Any:
    """How badly true boxes are found: for each, what is missing of the best overlap times its class's probability.

    A box that lies on no true one costs its probability; all over the number of true boxes.
    """
    overlap = pairwise_overlap(ops, true, boxes)
    n = boxes.shape[0]
    # The probability that each box gives to the class of each true box, [n, true, boxes].
    chosen = ops.floating(classes[:, :, None] == ops.like(np.arange(scores.shape[2]), boxes))
    mine = chosen.astype(scores.dtype) if ops is NUMPY else chosen.to(scores.dtype)
    mine = mine @ ops.move(scores, 1, 2)
    quality = overlap * mine
    best = ops.largest(quality, 2)
    count = ops.clip(weights.sum(1), 1.0, None)
    missed = ((1 - best) * weights).sum(1) / count
    covered = overlap * ops.floating(weights > 0)[:, :, None]
    nearest = ops.largest(covered, 1)
    strongest = ops.largest(scores, 2)
    false = (strongest * (1 - nearest) * ops.floating(nearest < 0.5)).sum(1) / count
    costs = missed + false
    return ops.where(
        ops.finite(boxes).reshape(n, -1).all(1) & ops.finite(scores).reshape(n, -1).all(1), costs, np.inf
    )
