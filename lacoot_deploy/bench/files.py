"""A model's files: bytes on disk with external data, and the hash of the model file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def total_bytes(path: Path) -> int:
    """Bytes of a model's file and of the files that it refers to for its weights; missing ones count nothing."""
    import onnx

    if path.suffix == ".ort":
        return path.stat().st_size
    model = onnx.load(str(path), load_external_data=False)
    names = {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    others: list[Path] = [path.parent / name for name in sorted(names)]
    own: int = path.stat().st_size
    return own + sum(file.stat().st_size for file in others if file.is_file())


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)
