"""A model's files: bytes on disk with external data, and the hash of the model file."""

from __future__ import annotations

import hashlib
from pathlib import Path


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

    from lacoot_deploy.graph.model.external import data_files
    from lacoot_deploy.graph.model.foreign import ORT_MAGIC

    own: int = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8)[4:] == ORT_MAGIC:
            return own
    model = onnx.load(str(path), load_external_data=False)
    others = sorted(data_files(model, path))
    return own + sum(file.stat().st_size for file in others if file.is_file())
