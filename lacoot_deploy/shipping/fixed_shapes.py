"""Fixed input shapes and batch: what accelerators need, and what lets memory be planned ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from lacoot_deploy.runtime.feeds import model_inputs
from lacoot_deploy.shipping.carry import load_whole
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly

if TYPE_CHECKING:
    from lacoot_deploy.data.types import InputInfo


class FixedShapes(Conversion):
    """Every free axis of the inputs fixed: the first to the batch, the others to the size of the samples."""

    name = "fixed"
    summary = "fixed input shapes: the first axis is the batch, the others as in the samples"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        from onnxruntime.tools.onnx_model_utils import (
            fix_output_shapes,
            make_dim_param_fixed,
            make_input_shape_fixed,
        )

        model = load_whole(job.path)
        inputs = model_inputs(model)
        free = [info for info in inputs if not all(isinstance(dim, int) for dim in info.shape)]
        if not free:
            raise CannotConvertError("its input shapes are fixed already")
        named, shapes = _sizes(inputs, job)
        path = job.folder / "fixed.onnx"
        with quietly("ONNX Runtime's tool for fixed shapes"):
            for name, size in named.items():
                make_dim_param_fixed(model.graph, name, size)
            for info in model_inputs(model):
                if not all(isinstance(dim, int) for dim in info.shape):
                    make_input_shape_fixed(model.graph, info.name, shapes[info.name])
            fix_output_shapes(model)
            onnx.save(model, str(path))
        return Converted(path, {"shapes": shapes})


def _sizes(inputs: tuple[InputInfo, ...], job: Job) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Sizes of named free axes, and the whole shape of every input."""
    named: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for info in inputs:
        array = job.calibration.feeds[info.name]
        shape = list(array.shape)
        if info.shape and info.name not in job.calibration.shared:
            shape[0] = info.shape[0] if isinstance(info.shape[0], int) else job.batch
        for dim, size in zip(info.shape, shape, strict=True):
            if isinstance(dim, str) and named.setdefault(dim, size) != size:
                raise CannotConvertError(
                    f"axis {dim!r} has two sizes in the samples, {named[dim]} and {size}, so it cannot be fixed"
                )
        shapes[info.name] = shape
    return named, shapes
