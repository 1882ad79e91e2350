"""Applies a chain of conversions to a model, and keeps what the file knows of itself at every step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.manifest import MANIFEST_KEY
from lacoot_deploy.runtime.reading import read_model
from lacoot_deploy.shipping.carry import carry, load_whole, record_of, stamp
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job
from lacoot_deploy.shipping.ort_format import OrtFormat


@dataclass(frozen=True)
class Made:
    """What a chain made.

    Attributes:
        path: The file.
        beside: Further files that belong to it.
        kept_float: What stays in float32.
        notes: What a reader should know.
    """

    path: Path
    beside: tuple[Path, ...]
    kept_float: tuple[str, ...]
    notes: tuple[str, ...]


def apply_chain(chain: Sequence[Conversion], job: Job, target: Path) -> Made:
    """Apply conversions one after the other; the file ends as `target` with the last one's suffix.

    Args:
        chain: The conversions.
        job: The model and what conversions need; its folder is used for what lies between.
        target: Where the file goes, without suffix.

    Raises:
        CannotConvertError: One of them cannot be done; the message names it.
    """
    made = Made(job.path, (), (), ())
    for number, conversion in enumerate(chain):
        folder = job.folder / f"{number}-{conversion.name}"
        folder.mkdir(parents=True)
        last = number == len(chain) - 1
        suffix = conversion.suffix
        result = target.with_name(target.name + suffix) if last else folder / f"result{suffix}"
        step = replace(job, path=made.path, folder=folder)
        try:
            converted = (
                _to_ort(conversion, step, result)
                if suffix == OrtFormat.suffix
                else _to_onnx(conversion, step, result)
            )
        except CannotConvertError as error:
            raise CannotConvertError(f"{conversion.name}: {error}") from error
        made = Made(
            result,
            (*made.beside, *converted.beside),
            (*made.kept_float, *converted.kept_float),
            (*made.notes, *converted.notes),
        )
    return made


def _to_onnx(conversion: Conversion, job: Job, result: Path) -> Converted:
    before = load_model(job.path)
    converted = conversion.convert(job)
    carry(before, converted.path, result, record_of(conversion.name, before, converted, job.target.name))
    return converted


def _to_ort(conversion: Conversion, job: Job, result: Path) -> Converted:
    """ORT format cannot be written to afterwards: the manifest says what will be done before it is."""
    model = load_whole(job.path)
    promised = Converted(result, {"platform": job.target.platform})
    stamp(model, record_of(conversion.name, load_model(job.path), promised, job.target.name))
    source = job.folder / "stamped.onnx"
    onnx.save(model, str(source))
    converted = conversion.convert(replace(job, path=source))
    if MANIFEST_KEY not in {entry.key for entry in read_model(converted.path).metadata_props}:
        raise CannotConvertError("the manifest is missing in what ONNX Runtime's tool wrote")
    shutil.copyfile(converted.path, result)
    beside = []
    for number, path in enumerate(converted.beside):
        place = result.with_name(result.name + (".operators.config" if not number else f".{number}.config"))
        # The tool's first lines name the folder that it worked in.
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        place.write_text("".join(line for line in lines if not line.startswith("# - ")), encoding="utf-8")
        beside.append(place)
    return replace(converted, path=result, beside=tuple(beside))
