"""Mean average precision of detections as COCO defines it: matching, precision at 101 recalls, ten overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections of an image that count, those with the largest scores."""


@dataclass(frozen=True)
class ImageMatches:
    """What one image adds to the precision.

    Attributes:
        classes: Class of each detection, [d].
        scores: Score of each detection, [d].
        hits: Whether it has a partner at each overlap, bool [d, 10].
        present: Number of true boxes of each class, [classes].
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    present: NDArray[np.int64]


def overlaps(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes [d, 4] and [g, 4], corners x1 y1 x2 y2: [d, g]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(c[:, 2:] - c[:, :2], 0, None).prod(axis=1) for c in (a, b)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def suppress(
    boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], *, overlap: float = 0.65
) -> NDArray[np.int64]:
    """Indices of the boxes that stay when of those of one class that overlap only the best does, best first.

    Args:
        boxes: Corners, [d, 4].
        scores: [d].
        classes: [d].
        overlap: From this intersection over union on the lesser box goes.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    ious = overlaps(boxes[order], boxes[order])
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            kept.append(int(order[i]))
            alive &= ~((ious[i] > overlap) & (classes[order] == classes[order[i]]))
    return np.array(kept, np.int64)


def match(
    found: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    true: tuple[NDArray[Any], NDArray[Any]],
    number: int,
) -> ImageMatches:
    """Match one image's detections with its true boxes, the best score first, at every overlap.

    Args:
        found: Boxes [d, 4], scores [d] and classes [d] of the detections.
        true: Boxes [g, 4] and classes [g].
        number: Number of classes.
    """
    boxes, scores, classes = found
    true_boxes, true_classes = true
    parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]] = []
    for c in np.unique(classes):
        # COCO's bound on detections holds for every class of an image.
        mine = np.flatnonzero(classes == c)
        mine = mine[np.argsort(-scores[mine], kind="stable")[:MOST]]
        theirs = np.flatnonzero(true_classes == c)
        ious = overlaps(boxes[mine], true_boxes[theirs])
        hits = np.zeros((len(mine), len(OVERLAPS)), bool)
        for t, least in enumerate(OVERLAPS):
            free = np.ones(len(theirs), bool)
            for d in range(len(mine)) if len(theirs) else ():
                candidates = np.where(free, ious[d], -1.0)
                best = (
                    len(theirs) - 1 - int(np.argmax(candidates[::-1]))
                )  # of equal ones the last, as COCO does
                if candidates[best] >= min(least, 1 - 1e-10):
                    hits[d, t], free[best] = True, False
        parts.append((classes[mine], scores[mine], hits))
    present = np.bincount(true_classes[true_classes >= 0].astype(np.int64), minlength=number)[:number]
    if not parts:
        return ImageMatches(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, len(OVERLAPS)), bool), present)
    stacked = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return ImageMatches(stacked[0].astype(np.int64), stacked[1].astype(np.float64), stacked[2], present)


class Detections:
    """The detections of many images, sorted once, so that images can be drawn again and again.

    Args:
        images: What each image adds.
    """

    def __init__(self, images: Sequence[ImageMatches]) -> None:
        self._present = np.array([image.present for image in images])
        classes = np.concatenate([image.classes for image in images])
        scores = np.concatenate([image.scores for image in images])
        hits = np.concatenate([image.hits for image in images])
        image = np.repeat(np.arange(len(images)), [len(one.scores) for one in images])
        order = np.lexsort((np.arange(len(scores)), -scores))
        self._of_class = [
            (image[mine], hits[mine])
            for mine in (order[classes[order] == c] for c in range(self._present.shape[1]))
        ]

    def precision(self, chosen: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Mean over the classes that occur of the average precision at each overlap, [10]; NaN where none occurs.

        Args:
            chosen: Images to look at, by index, any number of times each; None for all, once.
        """
        times = (
            np.ones(len(self._present))
            if chosen is None
            else np.bincount(chosen, minlength=len(self._present))
        )
        present = times @ self._present
        each = [
            _average_precision(hits, times[image].astype(np.float64), float(count))
            for (image, hits), count in zip(self._of_class, present, strict=True)
            if count
        ]
        return np.asarray(np.mean(each, axis=0) if each else np.full(len(OVERLAPS), np.nan))


def _average_precision(
    hits: NDArray[np.bool_], times: NDArray[np.float64], count: float
) -> NDArray[np.float64]:
    """Precision at 101 recalls, each the best that any larger recall has; [10]."""
    result = np.zeros(len(OVERLAPS))
    if not len(hits):
        return result
    seen = np.maximum(np.cumsum(times), 1e-9)
    right = np.cumsum(hits * times[:, None], axis=0)
    precision = np.maximum.accumulate((right / seen[:, None])[::-1], axis=0)[::-1]
    recall = right / count
    for t in range(len(OVERLAPS)):
        places = np.searchsorted(recall[:, t], RECALLS, side="left")
        reached = places[places < len(hits)]
        result[t] = precision[reached, t].sum() / len(RECALLS)
    return result
