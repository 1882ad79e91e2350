"""Files that people take for ONNX models and that are something else: what each is, and what to do with it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

ORT_MAGIC = b"ORTM"
"""What stands at byte 4 of a file in ONNX Runtime's own format."""

HEAD_BYTES = 4096

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself; fetch it with `git lfs pull`"),
    (b"ftrt", "a TensorRT engine, which holds no graph; give the ONNX file that it was built from"),
    (b"ptrt", "a TensorRT engine, which holds no graph; give the ONNX file that it was built from"),
    (b"GGUF", "a GGUF file of llama.cpp; export the model to ONNX from its original weights"),
    (b"\x89HDF", "a Keras HDF5 file; convert it with tf2onnx or keras' ONNX export first"),
    (b"\x80\x02", "a PyTorch checkpoint; export the model with torch.onnx.export, or `lacoot-deploy export`"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the ONNX file inside"),
    (b"BZh", "a bzip2 archive; unpack it and give the ONNX file inside"),
    (b"\xfd7zXZ", "an xz archive; unpack it and give the ONNX file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it and give the ONNX file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it and give the ONNX file inside"),
    (b"Rar!", "a RAR archive; unpack it and give the ONNX file inside"),
    (b"{", "JSON and not a model; give the ONNX file"),
)


def what_it_is(path: Path, head: bytes) -> str | None:
    """What a file is that is no ONNX model, with what to do; None where it may be one.

    Args:
        path: The file.
        head: Its first `HEAD_BYTES` bytes.
    """
    if head[4:8] == ORT_MAGIC:
        return "in ONNX Runtime's own format (ORT), which is not read here; give the ONNX file that it was made from"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model; convert it with tf2onnx (`--tflite`) first"
    for magic, text in _STARTS:
        if head.startswith(magic):
            return text
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and give the ONNX file inside"
    if head[8:10] == b'{"' and head[6:8] == b"\0\0":
        return "a safetensors file, weights without a graph; export the model with torch.onnx.export"
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, perhaps in place of a download; fetch the file itself"
    if start.startswith((b"<?xml", b"<net ")):
        kind = "an OpenVINO model" if b"<net " in start else "XML and not a model"
        return f"{kind}; give the ONNX file that it was made from"
    return None


def _zipped(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []

    def holds(fits: Callable[[str], bool]) -> bool:
        return any(map(fits, names))

    if holds(lambda name: name.endswith(("/data.pkl", "data.pkl"))):
        if holds(lambda name: "/code/" in name):
            return "a TorchScript archive; export the original module with torch.onnx.export"
        return "a PyTorch checkpoint; export the model with torch.onnx.export, or `lacoot-deploy export`"
    if holds(lambda name: name.endswith(".weights.h5")):
        return "a Keras archive; export it to ONNX with keras' own export first"
    return "a zip archive; unpack it and give the ONNX file inside"
