"""External weights: find their references, refuse those that lead astray, copy the bytes that survive."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.walk import subgraphs

CHUNK_BYTES = 8 * 1024 * 1024
"""How much is held in memory at once where the system cannot copy by itself."""

ALIGNMENTS = (65536, 4096, 64)
"""Boundaries that a tensor keeps if it had one: allocation granularity, page, cache line; the last is given to all."""


@dataclass(frozen=True)
class Extent:
    """Where an external tensor lies: `length` bytes of `location` from `offset` on."""

    location: str
    offset: int
    length: int


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors whose bytes lie outside the model: weights, constants, in nested graphs and functions too."""
    for tensor in _all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
        yield from _attribute_tensors(function.attribute_proto)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _attribute_tensors(node.attribute)
        for _, inner in subgraphs(node):
            yield from _graph_tensors(inner)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for tensor in (*sparse, *attribute.sparse_tensors):
            yield from (tensor.values, tensor.indices)


def extent_of(tensor: onnx.TensorProto, path: Path, *, sizes: dict[str, int]) -> Extent:
    """Read and check an external tensor's reference.

    Args:
        tensor: The tensor.
        path: The model file; its folder holds the data.
        sizes: Sizes of the data files seen so far, filled by this function.

    Raises:
        InputError: The reference leads out of the model's folder, to no file, or beyond the file's end.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"Weight {tensor.name!r} of {path}"
    if location not in sizes:
        sizes[location] = _contained_file(location, path, what).stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise InputError(f"{what} has an offset or length that is no number; the file is damaged.") from None
    expected = stored_bytes(tensor)
    if length is None:
        length = expected if expected is not None else sizes[location] - offset
    if offset < 0 or length < 0 or (expected is not None and length != expected):
        raise InputError(
            f"{what} has an impossible offset or length ({offset}, {length}); the file is damaged."
        )
    if offset + length > sizes[location]:
        raise InputError(
            f"{what} lies at bytes {offset} to {offset + length} of {location}, which has only {sizes[location]}; "
            f"the data file is cut short or belongs to another model."
        )
    return Extent(location, offset, length)


def map_external(tensor: onnx.TensorProto, path: Path, *, sizes: dict[str, int]) -> NDArray[Any] | None:
    """An external tensor as a read-only map of its file; None where NumPy cannot map it.

    Args:
        tensor: The tensor.
        path: As for `extent_of`.
        sizes: As for `extent_of`.

    Raises:
        InputError: As for `extent_of`.
    """
    extent = extent_of(tensor, path, sizes=sizes)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    whole = math.prod(tensor.dims) * dtype.itemsize
    if not whole or whole != extent.length or extent.offset % dtype.itemsize:
        return None
    file = path.parent / extent.location
    return np.memmap(file, dtype=dtype, mode="r", offset=extent.offset, shape=tuple(tensor.dims))


def _contained_file(location: str, path: Path, what: str) -> Path:
    if not location:
        raise InputError(f"{what} is external but names no file; the model is damaged.")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    outside = f"{what} is kept in {location}, outside the model's folder; move it beside the model."
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts):
        raise InputError(outside)
    file = path.parent / location
    try:
        resolved = file.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise InputError(
            f"{what} is kept in {location}, and there is no such file beside the model."
        ) from None
    if not resolved.is_relative_to(path.parent.resolve()):
        raise InputError(outside)
    if not resolved.is_file():
        raise InputError(f"{what} is kept in {location}, which is no regular file.")
    return resolved


def stored_bytes(tensor: onnx.TensorProto) -> int | None:
    """Bytes that a tensor's values take; None where its type or shape does not tell."""
    bits = _BITS.get(tensor.data_type)
    if bits is None or any(size < 0 for size in tensor.dims):
        return None
    count = 1
    for size in tensor.dims:
        count *= size
    return (count * bits + 7) // 8


_BITS = {
    getattr(onnx.TensorProto, name): bits
    for bits, names in {
        8: "UINT8 INT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ",
        16: "UINT16 INT16 FLOAT16 BFLOAT16",
        32: "FLOAT INT32 UINT32",
        64: "DOUBLE INT64 UINT64 COMPLEX64",
        128: "COMPLEX128",
        4: "UINT4 INT4",
    }.items()
    for name in names.split()
}


def validate_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Check every external reference of a model without reading the data.

    Raises:
        InputError: As for `extent_of`.
    """
    sizes: dict[str, int] = {}
    for tensor in external_tensors(model):
        extent_of(tensor, path, sizes=sizes)


def data_files(model: onnx.ModelProto, path: Path) -> set[Path]:
    """The files beside a model in which its external weights lie."""
    locations = {
        entry.value
        for tensor in external_tensors(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {path.parent / location for location in locations}


def move_external_data(model: onnx.ModelProto, source: Path, staged: Path, *, location: str) -> None:
    """Copy the bytes of a model's external tensors into one new file and point the tensors at it.

    Bytes that several tensors share are written once, and a tensor keeps the alignment it had. At most
    `CHUNK_BYTES` are held in memory.

    Args:
        model: The model, changed in place.
        source: The file it was loaded from.
        staged: The data file to write.
        location: The name under which the tensors will find it.

    Raises:
        InputError: A reference is not usable.
        OSError: Reading or writing failed.
    """
    sizes: dict[str, int] = {}
    placed: dict[Extent, int] = {}
    with staged.open("wb") as out:
        for tensor in external_tensors(model):
            extent = extent_of(tensor, source, sizes=sizes)
            if extent not in placed:
                placed[extent] = _append(extent, source.parent, out)
            _point(tensor, Extent(location, placed[extent], extent.length))
        out.flush()
        os.fsync(out.fileno())


def _append(extent: Extent, folder: Path, out: BinaryIO) -> int:
    alignment = next((size for size in ALIGNMENTS if extent.offset % size == 0), ALIGNMENTS[-1])
    position = -(-out.seek(0, os.SEEK_END) // alignment) * alignment
    if extent.length == 0:
        return position
    with (folder / extent.location).open("rb") as data:
        _copy_range(data.fileno(), extent.offset, out.fileno(), position, extent.length)
    return position


def _copy_range(source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
    while length > 0:
        done = _copy_some(source, source_offset, target, target_offset, length)
        if done == 0:
            raise InputError("A data file became shorter while it was copied; run the command again.")
        source_offset, target_offset, length = source_offset + done, target_offset + done, length - done


def _copy_some(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, source_offset, target_offset)
    except (AttributeError, OSError):
        # Not on this system or not between these two file systems; a real fault shows again below.
        os.lseek(source, source_offset, os.SEEK_SET)
        chunk = os.read(source, min(length, CHUNK_BYTES))
        os.lseek(target, target_offset, os.SEEK_SET)
        return os.write(target, chunk)


def _point(tensor: onnx.TensorProto, extent: Extent) -> None:
    # A checksum is that of the whole old file, so it says nothing about the new one.
    fields = {"location": extent.location, "offset": str(extent.offset), "length": str(extent.length)}
    others = [(e.key, e.value) for e in tensor.external_data if e.key not in (*fields, "checksum")]
    del tensor.external_data[:]
    for key, value in (*fields.items(), *others):
        tensor.external_data.add(key=key, value=value)
