"""Files in ORT format: what can be read of them without the ONNX file that they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lacoot_deploy.errors import InputError

SUFFIX = ".ort"
_MARK = slice(4, 8)
"""Where the format's own four letters stand."""


@dataclass(frozen=True)
class OrtFile:
    """What a file in ORT format says of itself.

    Attributes:
        metadata: Of the ONNX file that it was made from.
        nodes: Nodes of the optimised graph.
        parameters: Entries of its weights.
        opset: Version of ONNX's own operators.
    """

    metadata: dict[str, str]
    nodes: int
    parameters: int
    opset: int


def read_ort(path: Path) -> OrtFile:
    """Read a file in ORT format.

    Raises:
        InputError: It cannot be read, or is no such file.
    """
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        if data[_MARK] != b"ORTM":
            raise ValueError("the letters ORTM are missing")
        return _read(InferenceSession.GetRootAsInferenceSession(data, 0).Model())
    except Exception as error:  # a damaged file sends the reader anywhere
        raise InputError(f"{path} is no file in ORT format, or it is damaged: {error}.") from None


def _read(model: Any) -> OrtFile:
    graph = model.Graph()
    entries = [model.MetadataProps(i) for i in range(model.MetadataPropsLength())]
    tensors = [graph.Initializers(i) for i in range(graph.InitializersLength())]
    opsets = [model.OpsetImport(i) for i in range(model.OpsetImportLength())]
    return OrtFile(
        metadata={_text(entry.Key()): _text(entry.Value()) for entry in entries},
        nodes=graph.NodesLength(),
        parameters=sum(prod(int(t.Dims(i)) for i in range(t.DimsLength())) for t in tensors),
        opset=next((int(o.Version()) for o in opsets if _text(o.Domain()) in ("", "ai.onnx")), 0),
    )


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", errors="replace")
