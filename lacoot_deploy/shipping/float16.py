"""float16: half the bytes; what must stay float32 is found by running the network, not by a list of operators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.evaluate import fixed_batch, padded_batches
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.shipping.carry import load_whole
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly
from lacoot_deploy.shipping.preprocess import name_nodes
from lacoot_deploy.shipping.trials import distance

if TYPE_CHECKING:
    from lacoot_deploy.shipping.trials import Outputs

TOLERANCE = 0.01
"""Relative RMS by which float16 may move the answers; rounding alone moves them by a tenth of that."""

LARGEST = float(np.finfo(np.float16).max) / 2
"""Values beyond this keep their nodes in float32: half of what float16 holds, for samples that were not seen."""

BATCH = 8
"""Samples in a run that gives every inner value."""


class Float16(Conversion):
    """Weights and arithmetic in float16; inputs and outputs stay float32.

    Nodes that read or give values beyond float16's range stay float32: every value is looked at in a run on the
    choosing samples, since a processor that computes float16 in float32 would not show the overflow. If the rest then
    does not load, or drifts by more than the tolerance, every operator is tried as the only one in float16, and those
    stay float32 that fail alone; then those that drift most, one after the other, until the whole holds.
    """

    name = "fp16"
    summary = "float16 weights and arithmetic; what it breaks stays float32"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        model = load_whole(job.path)
        if not any(t.data_type == onnx.TensorProto.FLOAT for t in _tensors(model)):
            raise CannotConvertError("it holds no float32 weights")
        name_nodes(model)
        trial = _Trial(job, model, tuple(_beyond(job, model)), job.trials.outputs(job.path))
        operators = sorted({node.op_type for node in model.graph.node})
        kept: list[str] = []
        path, drift, problem = trial.without(kept)
        if drift > TOLERANCE:
            alone = {op: trial.without(set(operators) - {op})[1] for op in operators}
            kept = [op for op in operators if alone[op] > TOLERANCE]
            rest = sorted(set(operators) - set(kept), key=lambda op: -alone[op])
            path, drift, problem = trial.without(kept)
            while drift > TOLERANCE and rest:
                kept.append(rest.pop(0))
                path, drift, problem = trial.without(kept)
        if drift > TOLERANCE or len(kept) == len(operators):
            reason = problem or f"answers drift by {drift:.2g} (relative RMS) whatever stays float32"
            raise CannotConvertError(f"float16 does not hold: {reason}")
        settings = {"drift": drift, "inputs_and_outputs": "float32"}
        return Converted(path, settings, (*sorted(kept), *trial.nodes), notes=_notes(kept, trial.nodes))


def _notes(operators: list[str], nodes: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if nodes:
        notes.append(f"{len(nodes)} nodes stay float32, whose values leave float16's range.")
    if operators:
        notes.append(
            f"Operators that stay float32, since float16 breaks them: {', '.join(sorted(operators))}."
        )
    return tuple(notes)


def _tensors(model: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _join_casts(graph: onnx.GraphProto) -> None:
    """Let neighbours that stay float32 hand their values on as they are.

    The converter casts behind every such node and again before the next one, which would force between the two what
    float16 cannot hold.
    """
    narrowed = {n.output[0]: n.input[0] for n in graph.node if _casts_to(n, onnx.TensorProto.FLOAT16)}
    widened = {
        n.output[0]: narrowed[n.input[0]]
        for n in graph.node
        if _casts_to(n, onnx.TensorProto.FLOAT) and n.input[0] in narrowed
    }
    for node in graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = widened.get(name, name)
    for made in (widened, narrowed):
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        for place in range(len(graph.node) - 1, -1, -1):
            node = graph.node[place]
            if node.op_type == "Cast" and node.output[0] in made and node.output[0] not in read:
                del graph.node[place]


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def _beyond(job: Job, model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that read or give values beyond float16's range on the choosing samples."""
    sizes = {
        tensor.name: float(np.abs(array).max())
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and (array := onnx.numpy_helper.to_array(tensor)).size
    }
    inner = [name for node in model.graph.node for name in node.output if name]
    session = ExposedSession(model, inner, runtime=job.trials.runtime)
    fixed = fixed_batch(session.session.inputs)
    for _, _, feeds in padded_batches(job.trials.samples, BATCH, fixed):
        for name, values in session.run(feeds).items():
            array = np.asarray(values)
            if array.dtype == np.float32 and array.size:
                sizes[name] = max(sizes.get(name, 0.0), float(np.abs(array).max()))
    return [
        node.name
        for node in model.graph.node
        if any(sizes.get(name, 0.0) > LARGEST for name in (*node.input, *node.output))
    ]


@dataclass(frozen=True)
class _Trial:
    """Converts one model in several ways and says how far its answers move."""

    job: Job
    model: onnx.ModelProto
    nodes: tuple[str, ...]
    reference: Outputs

    def without(self, operators: Iterable[str]) -> tuple[Path, float, str | None]:
        """All in float16 but these operators: the file, its drift, and why it does not run at all."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        path = self.job.folder / "float16.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        try:
            with quietly("The float16 converter"):
                converted = convert_float_to_float16(
                    copy,
                    keep_io_types=True,
                    op_block_list=list(operators),
                    node_block_list=list(self.nodes),
                )
                _join_casts(converted.graph)
                onnx.save(converted, str(path))
            outputs = self.job.trials.outputs(path)
        except InputError as error:
            return path, float("inf"), str(error)
        return path, distance(outputs, self.reference), None
