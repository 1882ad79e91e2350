"""The samples on which two networks differ most, with what each of them says and a picture where there is one."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.manifest import PreprocessingRecord
from lacoot_deploy.reports.records import Sample

if TYPE_CHECKING:
    from lacoot_deploy.data import Samples
    from lacoot_deploy.runtime.compare import CompareResult
    from lacoot_deploy.runtime.sessions import Session

LARGEST = 128
"""Pixels that the longer side of a picture in the page has at most."""


def worst_samples(
    comparison: CompareResult | None,
    *,
    samples: Samples | None = None,
    sessions: tuple[Session, Session] | None = None,
    preprocessing: PreprocessingRecord | None = None,
) -> list[Sample]:
    """The worst samples of every output; with the data itself also their labels, predictions and pictures.

    Args:
        comparison: Says which they are.
        samples: The very samples that were compared.
        sessions: The dense and the collapsed network, to say what they predict.
        preprocessing: How images became inputs.
    """
    found: list[Sample] = []
    for output, drift in comparison.outputs.items() if comparison is not None else ():
        for worst in drift.worst:
            found.append(Sample(output=output, index=worst.index, difference=worst.difference))
    if samples is None or sessions is None or not found:
        return found
    chosen = samples.take(np.array([one.index for one in found]))
    for place, one in enumerate(found):
        if chosen.labels is not None and chosen.labels.ndim == 1 and chosen.labels.dtype.kind in "iu":
            one.label = _named(int(chosen.labels[place]), chosen.classes)
        feeds = {name: values[place : place + 1] for name, values in chosen.feeds.items()}
        answers = [session.run(_whole_batch(session, feeds)).get(one.output) for session in sessions]
        one.before, one.after = (_class(answer, chosen.classes) for answer in answers)
        one.image = picture(next(iter(feeds.values()))[0], preprocessing)
    return found


def _whole_batch(session: Session, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The sample as often as a network that fixes its batch wants it."""
    first = session.inputs[0].shape
    size = first[0] if first and isinstance(first[0], int) else 1
    return {name: np.repeat(values, size, axis=0) for name, values in feeds.items()}


def _class(answer: NDArray[Any] | None, classes: tuple[str, ...]) -> str | None:
    """The class that an output says; by its number where the output has other classes than the data."""
    if answer is None or answer.ndim != 2 or answer.dtype.kind != "f" or answer.shape[1] < 2:
        return None
    return _named(int(answer[0].argmax()), classes if len(classes) == answer.shape[1] else ())


def _named(number: int, classes: tuple[str, ...]) -> str:
    return classes[number] if 0 <= number < len(classes) else str(number)


def picture(values: NDArray[Any], preprocessing: PreprocessingRecord | None) -> str | None:
    """An input as a PNG in a `data:` address; None where it is no image.

    Args:
        values: One sample, [C, H, W] or [H, W, C] with 1 or 3 channels.
        preprocessing: What is undone; without it the values are stretched to their range.
    """
    if values.ndim == 3 and values.shape[2] in (1, 3) and values.shape[0] not in (1, 3):
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] not in (1, 3) or min(values.shape[1:]) < 2:
        return None
    from PIL import Image

    image = values.astype(np.float64)
    if preprocessing is not None and len(preprocessing.mean) in (1, len(image)):
        mean, std = (np.reshape(part, (-1, 1, 1)) for part in (preprocessing.mean, preprocessing.std))
        image = (image * std + mean) * 255
    else:
        low, high = float(image.min()), float(image.max())
        image = (image - low) * (255 / ((high - low) or 1.0))
    pixels = np.clip(np.nan_to_num(image), 0, 255).round().astype(np.uint8)
    shown = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if max(shown.size) > LARGEST:
        shown.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
