"""Turns models and feeds of the caller into files that the measuring process can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.bench.protocol import ModelFile
from lacoot_deploy.errors import InputError

if TYPE_CHECKING:
    import onnx

    Model = onnx.ModelProto | Path | str


def model_file(model: Model, folder: Path, name: str) -> ModelFile:
    """A model as a file: the one given, or one written into the folder.

    Raises:
        InputError: The file does not exist, or a model without a file has its weights in another one.
    """
    if isinstance(model, (Path, str)):
        path = Path(model)
        if not path.is_file():
            raise InputError(f"{model} does not exist or is no file; give the path of an ONNX model.")
        return ModelFile(path=path.resolve(), label=str(model))
    import onnx

    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        raise InputError(f"Model {name} has its weights in another file; give the path of the model instead.")
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    return ModelFile(path=path, label=f"Model {name}")


def feeds_file(feeds: Mapping[str, NDArray[Any]] | None, folder: Path) -> Path | None:
    """Feeds as a file that the measuring process reads; None where they are to be generated."""
    if feeds is None:
        return None
    file = folder / "feeds.npz"
    # Strings as objects would be pickled.
    arrays: dict[str, Any] = {name: a.astype(str) if a.dtype.kind == "O" else a for name, a in feeds.items()}
    np.savez(file, **arrays)
    return file
