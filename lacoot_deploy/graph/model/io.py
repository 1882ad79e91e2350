"""Reads and writes ONNX files: every failure is one clear sentence, every write is all or nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from google.protobuf import text_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, EncodeError, Message  # type: ignore[import-untyped]

from lacoot_deploy.errors import InputError
from lacoot_deploy.files import check_target, one_at_a_time, same_file, staging_folder, sync_folder
from lacoot_deploy.graph.model.external import external_tensors, move_external_data, validate_external_data
from lacoot_deploy.graph.model.foreign import HEAD_BYTES, what_it_is
from lacoot_deploy.graph.model.functions import with_sums_written_out
from lacoot_deploy.graph.model.soundness import unsound
from lacoot_deploy.graph.model.text import broken_text

MAX_PROTO_BYTES = 2**31 - 1
"""The largest message that protobuf reads or writes."""

TEXT_SUFFIXES = (".onnxtxt", ".textproto", ".txtpb", ".pbtxt", ".prototxt", ".onnxtext")
"""How the names of models end that are written as text."""

OPSETS_SINCE_IR = 3
"""The IR version from which on a model must name its operator sets."""


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read an ONNX file; weights stored outside it are not loaded, but checked to be there.

    Local functions that hold residual sums are written out.

    Args:
        path: The file, binary or text, or a folder that holds one model.

    Raises:
        InputError: There is no such file, it is no ONNX model or damaged, empty or meaningless, or its external data is
            missing, too short or outside the model's folder.
    """
    path = model_file(path)
    return checked(_parse(path), path)


def checked(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model, if it is meaningful; see `load_model`.

    Raises:
        InputError: It is not.
    """
    if not model.HasField("graph") or not model.ir_version:
        raise InputError(f"{path} is not an ONNX model, or it is cut short: it holds no graph.")
    if not model.opset_import and model.ir_version >= OPSETS_SINCE_IR:
        raise InputError(f"{path} names no operator set; it is not an ONNX model, or it is cut short.")
    if not model.graph.node:
        raise InputError(f"{path} holds an empty graph, without any node; there is nothing to work on.")
    broken = broken_text(model)
    if broken is not None:
        raise InputError(f"{path} is damaged: {broken} holds bytes that are no text.")
    validate_external_data(model, path)
    problem = unsound(model)
    if problem is not None:
        raise InputError(f"{path} is not a valid model: {problem}.")
    return with_sums_written_out(model)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty; it may be the rest of an interrupted download or export.")
        if size > MAX_PROTO_BYTES:
            raise InputError(
                f"{path} is larger than 2 GiB, more than a single ONNX file may be; save its weights as external data."
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        # A name can be too long, or hold a character that none can have.
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    known = what_it_is(path, data[:HEAD_BYTES])
    if known is not None:
        raise InputError(f"{path} is {known}.")
    if path.suffix in TEXT_SUFFIXES:
        return _parse_text(data, path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{path} is not an ONNX model, or it is damaged or cut short.") from None
    return model


def _parse_text(data: bytes, path: Path) -> onnx.ModelProto:
    """A model written as text: protobuf's own, or the syntax of ONNX."""
    model = onnx.ModelProto()
    try:
        text = data.decode()
        if text.lstrip().startswith("<"):
            parsed: onnx.ModelProto = onnx.parser.parse_model(text)
            return parsed
        text_format.Parse(text, model)
    except (UnicodeDecodeError, text_format.ParseError, onnx.parser.ParseError) as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not an ONNX model in text, or it is damaged: {problem}") from None
    return model


def model_file(path: str | Path) -> Path:
    """The file itself; of a folder the one model in it.

    Raises:
        InputError: The folder holds no model, or several.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return path
        found = sorted(file for file in path.iterdir() if file.suffix == ".onnx")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(found) != 1:
        held = ", ".join(file.name for file in found[:5]) if found else "no .onnx file"
        raise InputError(f"{path} is a folder; give the ONNX file inside it (it holds {held}).")
    return found[0]


def fingerprint(model: onnx.ModelProto) -> str:
    """SHA-256 of what a model computes: everything in it but metadata and doc strings.

    Writing a manifest does not change it. Of external weights it covers where they lie in their file and how long they
    are, not their bytes nor the file's name.
    """
    digest, pieces = hashlib.sha256(), list[bytes]()
    _hash_message(model, digest, pieces)
    digest.update(b"".join(pieces))
    return digest.hexdigest()


_UNHASHED = {"metadata_props", "doc_string", "producer_name", "producer_version", "model_version"}


_PLAIN_ATTRIBUTES = frozenset(
    getattr(onnx.AttributeProto, name) for name in ("FLOAT", "INT", "STRING", "FLOATS", "INTS", "STRINGS")
)


_PIECES = 4096
_LONG_BYTES = 1 << 12


def _hash_message(message: Message, digest: hashlib._Hash, pieces: list[bytes]) -> None:
    """Hash a message. Most of a graph is short texts by the ten thousand: `pieces` gathers them."""
    for field, value in message.ListFields():
        if field.name in _UNHASHED:
            continue
        pieces.append(b"%d:" % field.number)
        kind = type(value)
        if kind is str or kind is bytes:
            _hash_bytes(value, digest, pieces)
        elif isinstance(value, (int, float)):
            _hash_bytes(str(value), digest, pieces)
        elif isinstance(value, Message):
            _hash_message(value, digest, pieces)
        elif isinstance(value[0], onnx.NodeProto):
            for node in value:
                _hash_node(node, digest, pieces)
                if len(pieces) > _PIECES:
                    digest.update(b"".join(pieces))
                    pieces.clear()
        elif isinstance(value[0], Message):
            placed = isinstance(value[0], onnx.StringStringEntryProto)
            for item in value:
                if not (placed and item.key == "location"):
                    _hash_message(item, digest, pieces)
                    pieces.append(b";")
                if len(pieces) > _PIECES:
                    digest.update(b"".join(pieces))
                    pieces.clear()
        elif isinstance(value[0], (str, bytes)):
            for item in value:
                _hash_bytes(item, digest, pieces)
        else:
            _hash_bytes(np.array(value).tobytes(), digest, pieces)
    pieces.append(b"}")


def _hash_node(node: onnx.NodeProto, digest: hashlib._Hash, pieces: list[bytes]) -> None:
    """Hash a node: as it is written where its attributes are plain, else field by field."""
    if any(a.doc_string or a.type not in _PLAIN_ATTRIBUTES for a in node.attribute):
        _hash_message(node, digest, pieces)
        return
    if node.doc_string or node.metadata_props:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        bare.ClearField("doc_string")
        bare.ClearField("metadata_props")
        node = bare
    data = node.SerializeToString(deterministic=True)
    pieces += (b"%d:" % len(data), data, b";")


def _hash_bytes(text: str | bytes, digest: hashlib._Hash, pieces: list[bytes]) -> None:
    data = text.encode() if isinstance(text, str) else text
    pieces.append(b"%d:" % len(data))
    if len(data) <= _LONG_BYTES:
        pieces.append(data)
        return
    # A weight: hashed where it lies, not copied.
    digest.update(b"".join(pieces))
    pieces.clear()
    digest.update(data)


def save_model(model: onnx.ModelProto, target: str | Path, *, source: str | Path | None = None) -> None:
    """Write a model, checked, all or nothing: interrupted anywhere, the target is either absent or whole.

    External weights are copied from beside `source` into `<target name>.data`, in bounded memory.

    Args:
        model: The model; references to external data are those of `source`.
        target: The file to write; one that is there is replaced.
        source: The file that the model was loaded from; needed where it has external data. It is never written to.

    Raises:
        InputError: The target cannot be written, is the source or one of its data files, or the model is not valid
            although the source is.
    """
    target = Path(target)
    source = None if source is None else Path(source)
    _check_target(target, source, model)
    try:
        with staging_folder(target) as folder:
            _write(model, target, source, folder)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from None


def _check_target(target: Path, source: Path | None, model: onnx.ModelProto) -> None:
    check_target(target)
    external = any(True for _ in external_tensors(model))
    if external and source is None:
        raise InputError(
            "The model's weights lie in external files; to save it, name the file it was loaded from."
        )
    if source is None:
        return
    if same_file(target, source):
        raise InputError(
            f"{target} is the input itself; give another output, the input is never overwritten."
        )
    if external:
        data = _data_file(target)
        for tensor in external_tensors(model):
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            for written in (data, target):
                if same_file(written, source.parent / location):
                    raise InputError(
                        f"{written} holds the input's weights and would be overwritten; give another output."
                    )


def _data_file(target: Path) -> Path:
    """Where external weights go; the model names that file, so its name is text though the target's is not."""
    return target.with_name(os.fsencode(target.name).decode(errors="replace") + ".data")


def _write(model: onnx.ModelProto, target: Path, source: Path | None, folder: Path) -> None:
    staged, data = folder / target.name, _data_file(target)
    external = source is not None and any(True for _ in external_tensors(model))
    shipped = model
    if external and source is not None:
        shipped = onnx.ModelProto()
        shipped.CopyFrom(model)
        move_external_data(shipped, source, folder / data.name, location=data.name)
    _write_proto(shipped, staged, target)
    _validate(staged, target, source)
    # Two processes with one target: the model and the data that are left at the end come from the same one.
    with one_at_a_time(target.parent):
        if external:
            # In this order there is never a model beside data that are not its own.
            target.unlink(missing_ok=True)
            os.replace(folder / data.name, data)
        os.replace(staged, target)
    sync_folder(target.parent)


def _write_proto(model: onnx.ModelProto, staged: Path, target: Path) -> None:
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError):
        raise InputError(
            f"{target} would be larger than 2 GiB, more than a single ONNX file may be."
        ) from None
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _validate(staged: Path, target: Path, source: Path | None) -> None:
    """Refuse an invalid result, unless what it was made from is no better."""
    problem = _problem(staged)
    if problem is not None and (source is None or _problem(source) is None):
        raise InputError(f"{target} was not written, the model would not be valid: {problem}")


def _problem(path: Path) -> str | None:
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
