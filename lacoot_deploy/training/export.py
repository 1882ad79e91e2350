"""PyTorch to ONNX: dynamic batch, block names kept, local paths stripped, nothing written that differs."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from lacoot_deploy.errors import InputError, VerificationError
from lacoot_deploy.manifest import Manifest, write_manifest
from lacoot_deploy.version import __version__

OPSET = 20
INPUT_NAME = "input"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch, relative to the largest output: float32 with room for
another order of summation, far below what a wrong operator shows."""

# What the exporter writes besides (stack traces, graph modules, signatures) names files of the machine it ran on.
KEPT_METADATA = frozenset({"namespace", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes"})
IN_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Drift:
    """How far ONNX Runtime's outputs were from PyTorch's when the export was checked.

    Attributes:
        relative: Largest absolute difference over the largest absolute output.
        samples: Number of samples compared.
        batch_sizes: Batch sizes they were run in.
    """

    relative: float
    samples: int
    batch_sizes: tuple[int, ...]


def to_onnx(model: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """The model as ONNX in evaluation mode: input `input`, output `logits`, free first dimension `batch`.

    Node metadata keeps the module scopes that block names come from and loses everything that names local files.

    Args:
        model: A network with one tensor in and one tensor out, on the CPU.
        example: Two or more samples, [n, ...].

    Raises:
        InputError: PyTorch cannot export the model.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "torch.export"):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS)},),
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"PyTorch cannot export {type(model).__name__} to ONNX: {cause}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if program is None:
        raise InputError(f"PyTorch gave no ONNX program for {type(model).__name__}.")
    proto = program.model_proto
    if len(proto.graph.output) != 1:
        raise InputError(
            f"The model has {len(proto.graph.output)} outputs; a classifier with one is expected."
        )
    strip_metadata(proto)
    proto.producer_name, proto.producer_version = "lacoot-deploy", __version__
    proto.model_version = 0
    return proto


def export_module(
    model: nn.Module,
    example: torch.Tensor,
    manifest: Manifest,
    *,
    exported: onnx.ModelProto | None = None,
) -> tuple[onnx.ModelProto, Drift]:
    """An ONNX model with the manifest in it, found equal to PyTorch on the example and on random inputs.

    Args:
        model: The network, on the CPU.
        example: Real inputs, float32 [n, ...] with n >= 3.
        manifest: What to write into the model.
        exported: The result of `to_onnx` for this very model, to save exporting it again.

    Returns:
        The model and how far it was from PyTorch.

    Raises:
        VerificationError: The outputs differ by more than `TOLERANCE`.
        InputError: As for `to_onnx`.
    """
    proto = to_onnx(model, example[:2]) if exported is None else exported
    drift = check_against(model, proto, example)
    write_manifest(proto, manifest)
    return proto, drift


def check_against(
    model: nn.Module, proto: onnx.ModelProto, example: torch.Tensor, *, tolerance: float = TOLERANCE
) -> Drift:
    """Compare ONNX Runtime (CPU) with PyTorch on real and random inputs, in two batch sizes.

    Raises:
        VerificationError: They differ by more than the tolerance or the output is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(example.shape, generator=generator)
    batches = [example, noise, example[:1], noise[: max(len(noise) // 2, 1)]]
    worst = 0.0
    with _session(proto) as run, evaluating(model), torch.no_grad():
        for batch in batches:
            expected = model(batch).float().numpy()
            actual = run(batch.numpy())[OUTPUT_NAME]
            if actual.shape != expected.shape:
                raise VerificationError(
                    f"The exported model gives shape {list(actual.shape)} where PyTorch gives {list(expected.shape)}."
                )
            if not np.isfinite(expected).all():
                raise VerificationError("The model's output is not finite: the training has diverged.")
            worst = max(worst, float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12)))
    if not worst <= tolerance:
        raise VerificationError(
            f"The exported model differs from PyTorch by {worst:.2g} of the largest output (allowed {tolerance:g}); "
            f"nothing was written."
        )
    return Drift(worst, sum(map(len, batches)), tuple(sorted({len(batch) for batch in batches})))


def values_of(
    proto: onnx.ModelProto, names: Sequence[str], batch: NDArray[np.float32]
) -> Mapping[str, NDArray[Any]]:
    """Inner values of an ONNX model for one batch, by name, from ONNX Runtime on the CPU."""
    from lacoot_deploy.graph.model.expose import expose_values

    with _session(expose_values(proto, list(names))) as run:
        results = run(batch)
    return {name: results[name] for name in names}


class evaluating:  # noqa: N801 (reads as a verb in `with`)
    """Context in which a module is in evaluation mode; every submodule's own mode comes back afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self.modes = {module: module.training for module in model.modules()}
        self.model = model

    def __enter__(self) -> nn.Module:
        return self.model.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modes.items():
            module.training = training


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Remove in place every metadata entry and doc string but the module scopes of nodes."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    _strip_graph(proto.graph)
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for value in function.value_info:
            _strip(value)
        _strip_nodes(function.node)


def _strip_graph(graph: onnx.GraphProto) -> None:
    _strip(graph)
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            _strip(value)
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        node.doc_string = ""
        kept = [(e.key, e.value) for e in node.metadata_props if e.key in KEPT_METADATA]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip_graph(inner)


def _strip(record: Any) -> None:
    record.doc_string = ""
    del record.metadata_props[:]


class _session:  # noqa: N801 (reads as a noun in `with`)
    """ONNX Runtime on the CPU over a model in memory, or over a temporary file where it is too large for that."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto

    def __enter__(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        source: bytes | str
        if self.proto.ByteSize() < IN_MEMORY_BYTES:
            source = self.proto.SerializeToString()
        else:
            self.folder = tempfile.TemporaryDirectory()
            source = str(Path(self.folder.name) / "model.onnx")
            copy = onnx.ModelProto()
            copy.CopyFrom(self.proto)
            onnx.save(copy, source, save_as_external_data=True, location="model.onnx.data")
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(batch: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            return dict(zip(names, session.run(None, {INPUT_NAME: batch}), strict=True))

        return run

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            self.folder.cleanup()


class _quiet:  # noqa: N801 (reads as an adverb in `with`)
    """Context in which the named loggers only report errors."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
