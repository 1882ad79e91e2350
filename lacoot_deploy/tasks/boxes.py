"""How a detector's outputs tell boxes, scores and classes: the usual layouts, told from their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.tasks.arrays import Operations

Layout = Literal["apart", "rows", "grid", "listed"]


@dataclass(frozen=True)
class BoxLayout:
    """Where boxes, scores and classes stand.

    Attributes:
        layout: `apart`: boxes [n, m, 4] and scores [n, m, classes] in two outputs; `rows`: [n, m, 6] of x1 y1 x2 y2
            score class, as after suppression; `grid`: [n, 4 + classes, m] or [n, m, 5 + classes] with centre, width and
            height, not suppressed; `listed`: boxes [n, m, 4], scores [n, m] and classes [n, m] in three outputs.
        outputs: Names of the outputs, in that order.
        classes: Number of classes.
        centred: Whether boxes are centre, width and height.
        transposed: Whether a grid's columns come before its boxes.
        objectness: Whether a grid's fifth column is the score of any object.
        scale: How scores become probabilities: `none`, `sigmoid`, or `softmax` with the background behind the classes.
        suppressed: Whether overlapping boxes are already out.
    """

    layout: Layout
    outputs: tuple[str, ...]
    classes: int
    centred: bool = False
    transposed: bool = False
    objectness: bool = False
    scale: Literal["none", "sigmoid", "softmax"] = "none"
    suppressed: bool = False

    @property
    def anchored(self) -> bool:
        """Whether the i-th box of two networks is about the same place."""
        return self.layout in ("apart", "grid")

    def read(self, ops: Operations, outputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Boxes [n, m, 4] as corners, and probabilities [n, m, classes]."""
        first = ops.floating(outputs[self.outputs[0]])
        if self.layout == "apart":
            boxes, scores = first, ops.floating(outputs[self.outputs[1]])
        elif self.layout == "grid":
            grid = ops.move(first, 1, 2) if self.transposed else first
            boxes, scores = grid[:, :, :4], grid[:, :, 5 if self.objectness else 4 :]
        else:
            boxes = first[:, :, :4]
            rows = self.layout == "rows"
            score = first[:, :, 4] if rows else ops.floating(outputs[self.outputs[1]])
            number = first[:, :, 5] if rows else ops.floating(outputs[self.outputs[2]])
            numbers = ops.like(np.arange(self.classes), first)
            scores = score[:, :, None] * ops.floating(number[:, :, None].round() == numbers)
        scores = self._probabilities(ops, scores)
        if self.objectness:
            scores = scores * self._probabilities(ops, grid[:, :, 4:5])
        return _corners(ops, boxes) if self.centred else boxes, scores

    def _probabilities(self, ops: Operations, scores: Any) -> Any:
        if self.scale == "softmax":
            return ops.exp(ops.log_softmax(scores, 2))[:, :, : self.classes]
        return ops.exp(-ops.softplus(-scores)) if self.scale == "sigmoid" else scores


def _corners(ops: Operations, boxes: Any) -> Any:
    middle, half = boxes[:, :, :2], boxes[:, :, 2:] / 2
    return ops.join([middle - half, middle + half], 2)


def find_layout(outputs: Mapping[str, NDArray[Any]], classes: int | None) -> BoxLayout | None:
    """The layout of a detector's outputs; None where they are none that is known.

    Args:
        outputs: By name, [n, ...] each.
        classes: How many classes the labels speak of; None without labels.
    """
    found = {name: a for name, a in outputs.items() if a.ndim >= 2 and a.dtype.kind in "fiu" and a.size}
    boxes = next(
        (n for n, a in found.items() if a.ndim == 3 and a.shape[2] == 4 and a.dtype.kind == "f"), None
    )
    if boxes is None:
        return _in_one(found, classes)
    m = found[boxes].shape[1]
    centred = not _are_corners(found[boxes])
    for name, a in found.items():
        if name != boxes and a.ndim == 3 and a.shape[1] == m and a.dtype.kind == "f":
            scale, number = _scale(name, a, classes)
            done = scale == "softmax" or "query" in name or "logit" in name
            return BoxLayout("apart", (boxes, name), number, centred, scale=scale, suppressed=done)
    flat = {name: a for name, a in found.items() if a.shape[:2] == (len(a), m) and a.ndim == 2}
    numbers = next((n for n, a in flat.items() if np.all(a == np.round(a)) and a.max() >= 1), None)
    scores = next((n for n, a in flat.items() if n != numbers and a.dtype.kind == "f"), None)
    if numbers is None or scores is None:
        return None
    top = max(int(flat[numbers].max()) + 1, classes or 0)
    return BoxLayout("listed", (boxes, scores, numbers), top, centred, suppressed=True)


def _in_one(found: Mapping[str, NDArray[Any]], classes: int | None) -> BoxLayout | None:
    for name, a in found.items():
        if a.ndim != 3 or a.dtype.kind != "f":
            continue
        if a.shape[2] == 6 and _are_corners(a[:, :, :4]) and np.all(a[:, :, 5] == np.round(a[:, :, 5])):
            top = max(int(a[:, :, 5].max()) + 1, classes or 0)
            return BoxLayout("rows", (name,), top, suppressed=True)
        transposed = a.shape[1] < a.shape[2]
        columns = min(a.shape[1:])
        if columns < 5 or max(a.shape[1:]) < 2 * columns:
            continue
        objectness = columns == 5 + classes if classes else not transposed
        grid = a.transpose(0, 2, 1) if transposed else a
        scores = grid[:, :, 4:]
        inside = bool(np.all((scores >= 0) & (scores <= 1)))
        number = columns - (5 if objectness else 4)
        scale: Literal["none", "sigmoid"] = "none" if inside else "sigmoid"
        if number > 0:
            return BoxLayout("grid", (name,), number, True, transposed, objectness, scale)
    return None


def _scale(
    name: str, scores: NDArray[Any], classes: int | None
) -> tuple[Literal["none", "sigmoid", "softmax"], int]:
    columns = scores.shape[2]
    if np.all((scores >= 0) & (scores <= 1)):
        return "none", columns
    if classes is not None and columns == classes + 1:
        return "softmax", classes
    return "sigmoid", columns


def _are_corners(boxes: NDArray[Any]) -> bool:
    flat = boxes.reshape(-1, 4)
    ordered = (flat[:, 2] >= flat[:, 0]) & (flat[:, 3] >= flat[:, 1])
    return bool(ordered.mean() > 0.95)


def pairwise_overlap(ops: Operations, a: Any, b: Any) -> Any:
    """Intersection over union of boxes [n, p, 4] and [n, q, 4] as corners: [n, p, q]."""
    sides = []
    for axis in (0, 1):
        first, second = a[:, :, None], b[:, None]
        ends = ops.smaller(first[..., axis + 2], second[..., axis + 2])
        starts = -ops.smaller(-first[..., axis], -second[..., axis])
        sides.append(ops.clip(ends - starts, 0.0, None))
    common = sides[0] * sides[1]
    area_a, area_b = (
        ops.clip(c[..., 2] - c[..., 0], 0.0, None) * ops.clip(c[..., 3] - c[..., 1], 0.0, None)
        for c in (a, b)
    )
    return common / ops.clip(area_a[:, :, None] + area_b[:, None] - common, 1e-9, None)
