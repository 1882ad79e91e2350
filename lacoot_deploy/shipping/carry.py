"""Keeps what a file knows of itself through every conversion, whatever the tool drops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import MAX_PROTO_BYTES, fingerprint, load_model, save_model
from lacoot_deploy.graph.model.order import sorted_nodes
from lacoot_deploy.manifest import (
    ConversionRecord,
    Manifest,
    read_manifest,
    write_manifest,
)
from lacoot_deploy.runtime.reading import read_model
from lacoot_deploy.shipping.conversion import CannotConvertError, Converted
from lacoot_deploy.version import PRODUCER

_TOOL_NOTES = ("onnx.infer", "onnx.quant.pre_process")
"""What conversion tools leave in the metadata for themselves."""


def load_whole(path: Path) -> onnx.ModelProto:
    """A model with its external weights in memory, as conversion tools want it.

    Raises:
        CannotConvertError: It would be larger than a single file may be.
        InputError: It cannot be read.
    """
    model = load_model(path)
    onnx.load_external_data_for_model(model, str(path.parent))
    if model.ByteSize() > MAX_PROTO_BYTES:
        raise CannotConvertError("with its weights it is larger than the 2 GiB that conversion tools take")
    return model


def record_of(
    conversion: str, before: onnx.ModelProto, converted: Converted, target: str
) -> ConversionRecord:
    """What a conversion leaves in the manifest."""
    return ConversionRecord(
        conversion=conversion,
        model_sha256_before=fingerprint(before),
        kept_float=list(converted.kept_float),
        settings=converted.settings,
        target=target,
        producer=PRODUCER,
    )


def carry(before: onnx.ModelProto, path: Path, target: Path, record: ConversionRecord) -> None:
    """Write a converted file again with the metadata of what it was made from, and the conversion in its manifest.

    Args:
        before: The model as it was.
        path: The converted file.
        target: Where it goes.
        record: What was done.

    Raises:
        CannotConvertError: The tool changed the names or types of inputs or outputs, or its file is not valid.
    """
    try:
        after = load_whole(path)
        _sort(after.graph)
        _check_interface(before, after)
        entries = {entry.key: entry.value for entry in after.metadata_props if entry.key not in _TOOL_NOTES}
        put_back(after, entries | {entry.key: entry.value for entry in before.metadata_props})
        stamp(after, record)
        after.producer_name, after.producer_version = before.producer_name, before.producer_version
        save_model(after, target)
    except CannotConvertError:
        raise
    except InputError as error:
        reason = str(error).replace(str(target), target.name).replace(str(path), path.name).rstrip(".")
        raise CannotConvertError(f"what the tool wrote is not usable: {reason}") from error


def _sort(graph: onnx.GraphProto) -> None:
    """Bring nodes into an order in which each finds what it reads; some tools only append."""
    order = [node for node, _, _ in sorted_nodes(graph)]
    if any(one is not other for one, other in zip(order, graph.node, strict=True)):
        copies = []
        for node in order:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del graph.node[:]
        graph.node.extend(copies)


def stamp(model: onnx.ModelProto, record: ConversionRecord) -> None:
    """Add a conversion to a model's manifest; one is made where there is none."""
    manifest = read_manifest(model) or Manifest()
    manifest.producer = PRODUCER
    manifest.conversions = [*manifest.conversions, record]
    write_manifest(model, manifest)


def put_back(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Make these the model's metadata."""
    model.ClearField("metadata_props")
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def _check_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for what, old, new in (
        ("inputs", before.graph.input, after.graph.input),
        ("outputs", before.graph.output, after.graph.output),
    ):
        weights = {tensor.name for tensor in before.graph.initializer}
        was = {v.name: v.type.tensor_type.elem_type for v in old if v.name not in weights}
        now = {v.name: v.type.tensor_type.elem_type for v in new if v.name not in weights}
        if list(was) != list(now) or was != now:
            raise CannotConvertError(f"the tool changed the {what} from {', '.join(was)} to {', '.join(now)}")


def manifest_of(path: Path) -> Manifest | None:
    """The manifest of a file of either format; None where it has none.

    Raises:
        InputError: The file cannot be read, or its manifest is not usable.
    """
    return read_manifest(read_model(path), path=path)
