"""float16: half the bytes; operators that must stay float32 are found by trying each, not by a list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.shipping.carry import load_whole
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly
from lacoot_deploy.shipping.trials import distance

if TYPE_CHECKING:
    from lacoot_deploy.shipping.trials import Outputs

TOLERANCE = 0.01
"""Relative RMS by which float16 may move the answers; rounding alone moves them by a tenth of that."""


class Float16(Conversion):
    """Weights and arithmetic in float16; inputs and outputs stay float32.

    Everything is converted first. Where the result does not load, gives no numbers or drifts by more than the
    tolerance, every operator that the model uses is tried as the only one in float16, and those stay float32 that fail
    alone; then those that drift most, one after the other, until the whole holds.
    """

    name = "fp16"
    summary = "float16 weights and arithmetic; operators that it breaks stay float32"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        model = load_whole(job.path)
        if not any(t.data_type == onnx.TensorProto.FLOAT for t in _floats(model)):
            raise CannotConvertError("it holds no float32 weights")
        reference = job.trials.outputs(job.path)
        operators = sorted({node.op_type for node in model.graph.node})
        kept: list[str] = []
        path, drift, problem = _try(job, model, kept, reference)
        if drift > TOLERANCE:
            alone = {op: _try(job, model, set(operators) - {op}, reference)[1] for op in operators}
            kept = [op for op in operators if alone[op] > TOLERANCE]
            rest = sorted(set(operators) - set(kept), key=lambda op: -alone[op])
            path, drift, problem = _try(job, model, kept, reference)
            while drift > TOLERANCE and rest:
                kept.append(rest.pop(0))
                path, drift, problem = _try(job, model, kept, reference)
        if drift > TOLERANCE or len(kept) == len(operators):
            reason = problem or f"answers drift by {drift:.2g} (relative RMS) whatever stays float32"
            raise CannotConvertError(f"float16 does not hold: {reason}")
        return Converted(path, {"drift": drift, "inputs_and_outputs": "float32"}, tuple(sorted(kept)))


def _floats(model: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _try(
    job: Job, model: onnx.ModelProto, blocked: Iterable[str], reference: Outputs
) -> tuple[Path, float, str | None]:
    """The model with all but the blocked operators in float16: its file, its drift, and why it does not run at all."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = job.folder / "float16.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with quietly("The float16 converter"):
            converted = convert_float_to_float16(copy, keep_io_types=True, op_block_list=list(blocked))
            onnx.save(converted, str(path))
        outputs = job.trials.outputs(path)
    except InputError as error:
        return path, float("inf"), str(error)
    return path, distance(outputs, reference), None
