"""Trained weights back into the same file: every byte but theirs and the manifest's stays what it was."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lacoot_deploy.errors import InputError, VerificationError
from lacoot_deploy.files import check_target, one_at_a_time, same_file, staging_folder, sync_folder
from lacoot_deploy.graph.model.external import Extent, data_files, extent_of, external_tensors
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.healing.flat import Constant, flatten
from lacoot_deploy.healing.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    Edit,
    fields,
    locate_all,
    rewritten,
    varint,
)
from lacoot_deploy.manifest import MANIFEST_KEY

METADATA = 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
FLOAT_DATA, INT32_DATA, RAW_DATA, DOUBLE_DATA, EXTERNAL_DATA = 4, 5, 9, 10, 13
"""Field numbers of ONNX's protobuf messages."""

_NUMPY: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.DOUBLE: np.dtype("<f8"),
    onnx.TensorProto.FLOAT16: np.dtype("<f2"),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


@dataclass
class _Patch:
    """What is to be written: edits of the model file, and bytes of its data files by place."""

    edits: list[Edit] = field(default_factory=list)
    external: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)


def write_weights(
    source: str | Path,
    target: str | Path,
    weights: Mapping[str, NDArray[Any]],
    *,
    manifest: str | None = None,
) -> None:
    """Write the model with other values for some of its constants, all or nothing.

    Args:
        source: The model's file; it is not changed.
        target: The file to write. External data goes beside it, laid out as it was.
        weights: New values by the names of the constants, of their shape; they are rounded to their type.
        manifest: Text of a new manifest; None to leave that as it is.

    Raises:
        InputError: A file cannot be read or written, a name is no constant of the file, or a value leaves its type.
        VerificationError: What was written does not hold what it should.
    """
    source, target = Path(source), Path(target)
    model = load_model(source)
    check_target(target, inputs=[source, *data_files(model, source)])
    constants = flatten(model, source.parent).constants
    unknown = [name for name in weights if name not in constants]
    if unknown:
        raise InputError(f"{source} has no weight {unknown[0]}.")
    stored = {name: stored_array(values, constants[name].tensor, name) for name, values in weights.items()}
    renamed = _data_names(model, source, target)
    for new in renamed.values():
        for old in data_files(model, source):
            if same_file(target.parent / new, old):
                raise InputError(f"{target.parent / new} holds the input's weights; give another output.")
    try:
        with staging_folder(target) as folder:
            with _mapped(source) as data:
                patch = _patch(model, data, source, {n: (constants[n], v) for n, v in stored.items()})
                patch.edits += _locations(model, data, renamed)
                if manifest is not None:
                    patch.edits.append(_manifest_edit(data, manifest))
                staged = folder / target.name
                with staged.open("wb") as file:
                    file.writelines(rewritten(data, patch.edits))
                    file.flush()
                    os.fsync(file.fileno())
            for location, new in renamed.items():
                _copy_patched(source.parent / location, folder / new, patch.external.get(location, []))
            _verify(staged, stored)
            with one_at_a_time(target.parent):
                if renamed:
                    target.unlink(missing_ok=True)
                for new in renamed.values():
                    os.replace(folder / new, target.parent / new)
                os.replace(staged, target)
            sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from None


def stored_array(values: NDArray[Any], tensor: onnx.TensorProto, name: str) -> NDArray[Any]:
    """Values in the type that a tensor is stored in, rounded once.

    Raises:
        InputError: The shape is another, the type is no floating-point type, or a value leaves its range.
    """
    dtype = _NUMPY.get(tensor.data_type)
    if dtype is None:
        raise InputError(f"The weight {name} holds no floating-point numbers.")
    if list(values.shape) != list(tensor.dims):
        raise InputError(f"The weight {name} has shape {list(tensor.dims)}, not {list(values.shape)}.")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(cast.astype(np.float64)).all():
        raise InputError(f"New values of the weight {name} are not finite in {dtype.name}.")
    return cast


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """A file's bytes, read as they are looked at."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


def _patch(
    model: onnx.ModelProto,
    data: memoryview,
    source: Path,
    weights: Mapping[str, tuple[Constant, NDArray[Any]]],
) -> _Patch:
    patch, sizes = _Patch(), dict[str, int]()
    places = locate_all(data, [constant.path for constant, _ in weights.values()])
    for name, (constant, values) in weights.items():
        tensor, raw = constant.tensor, values.tobytes()
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            extent: Extent = extent_of(tensor, source, sizes=sizes)
            patch.external.setdefault(extent.location, []).append((extent.offset, raw))
            continue
        place = places[constant.path]
        patch.edits += _tensor_edits(data, place.payload, place.end, values, name)
    return patch


def _tensor_edits(data: memoryview, start: int, end: int, values: NDArray[Any], name: str) -> list[Edit]:
    """The edits of an inner tensor, in whichever field it keeps its values."""
    raw, flat, at = values.tobytes(), values.reshape(-1), 0
    edits = []
    for entry in fields(data, start, end):
        size = entry.end - entry.payload
        if entry.number == RAW_DATA and size == len(raw):
            return [Edit(entry.payload, entry.end, raw)]
        if entry.number in (FLOAT_DATA, DOUBLE_DATA) and entry.wire in (BYTES, FIXED32, FIXED64):
            edits.append(Edit(entry.payload, entry.end, raw[at : at + size]))
            at += size
        elif entry.number == INT32_DATA and entry.wire == BYTES:
            bits = flat.view(np.uint16)
            return [Edit(entry.payload, entry.end, b"".join(varint(int(bit)) for bit in bits))]
    if at != len(raw):
        raise InputError(f"The weight {name} is stored in a way that cannot be changed in place.")
    return edits


def _data_names(model: onnx.ModelProto, source: Path, target: Path) -> dict[str, str]:
    """New names of the data files, by the ones that the model gives them."""
    locations = dict.fromkeys(
        entry.value
        for tensor in external_tensors(model)
        for entry in tensor.external_data
        if entry.key == "location"
    )
    text = os.fsencode(target.name).decode(errors="replace")
    if len(locations) == 1:
        return {next(iter(locations)): f"{text}.data"}
    return {location: f"{text}.{number}.data" for number, location in enumerate(locations)}


def _locations(model: onnx.ModelProto, data: memoryview, renamed: Mapping[str, str]) -> list[Edit]:
    """Edits that point external tensors at the new data files; a checksum is left empty, for it was the old file's."""
    if not renamed:
        return []
    edits = []
    for start, end in _external_entries(data, 0, len(data), onnx.ModelProto.DESCRIPTOR):
        parts = {entry.number: entry for entry in fields(data, start, end)}
        if ENTRY_KEY not in parts or ENTRY_VALUE not in parts:
            continue
        key, value = (bytes(data[parts[n].payload : parts[n].end]).decode() for n in (ENTRY_KEY, ENTRY_VALUE))
        if key == "location" and value in renamed:
            new = renamed[value].encode()
            edits.append(Edit(parts[ENTRY_VALUE].payload, parts[ENTRY_VALUE].end, new))
        elif key == "checksum" and value:
            edits.append(Edit(parts[ENTRY_VALUE].payload, parts[ENTRY_VALUE].end, b""))
    return edits


def _external_entries(data: memoryview, start: int, end: int, kind: Any) -> Iterator[tuple[int, int]]:
    """Where the entries of external tensors lie, at any depth."""
    below = {
        number: entry.message_type for number, entry in kind.fields_by_number.items() if entry.message_type
    }
    tensor = kind.name == "TensorProto"
    for entry in fields(data, start, end):
        if entry.wire != BYTES or entry.number not in below:
            continue
        if tensor and entry.number == EXTERNAL_DATA:
            yield entry.payload, entry.end
        elif below[entry.number].name != "StringStringEntryProto":
            yield from _external_entries(data, entry.payload, entry.end, below[entry.number])


def _manifest_edit(data: memoryview, text: str) -> Edit:
    """The manifest's text in place of the old one, or as a further entry."""
    new, found = text.encode(), None
    for entry in fields(data, 0, len(data)):
        if entry.number != METADATA:
            continue
        parts = {part.number: part for part in fields(data, entry.payload, entry.end)}
        if ENTRY_KEY in parts and ENTRY_VALUE in parts:
            key = parts[ENTRY_KEY]
            if bytes(data[key.payload : key.end]) == MANIFEST_KEY.encode():
                found = parts[ENTRY_VALUE]
    if found is not None:
        return Edit(found.payload, found.end, new)
    key_bytes = MANIFEST_KEY.encode()
    body = b"\x0a" + varint(len(key_bytes)) + key_bytes + b"\x12" + varint(len(new)) + new
    whole = varint(METADATA << 3 | BYTES) + varint(len(body)) + body
    return Edit(len(data), len(data), whole)


def _copy_patched(source: Path, target: Path, patches: Sequence[tuple[int, bytes]]) -> None:
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        for offset, raw in patches:
            file.seek(offset)
            file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _verify(staged: Path, stored: Mapping[str, NDArray[Any]]) -> None:
    """Read the written file again: it is a model, and its weights are those that it should hold."""
    constants = flatten(load_model(staged), staged.parent).constants
    for name, values in stored.items():
        found = np.asarray(numpy_helper.to_array(constants[name].tensor, str(staged.parent)))
        if found.tobytes() != values.tobytes():
            raise VerificationError(f"The weight {name} was not written as it was trained; nothing was kept.")
