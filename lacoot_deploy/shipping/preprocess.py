"""A model as quantisers want it: constants folded, shapes noted, every node named, fresh notes of shapes only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from lacoot_deploy.shipping.carry import load_whole
from lacoot_deploy.shipping.conversion import CannotConvertError, quietly

if TYPE_CHECKING:
    from lacoot_deploy.shipping.conversion import Job


_INTEGER = ("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "MatMulNBits")


def prepared(job: Job) -> onnx.ModelProto:
    """The model of a job after ONNX Runtime's own preparation, with names for all nodes.

    Notes of shapes are made anew: those that describe a weight would contradict what a quantiser makes of it.

    Raises:
        CannotConvertError: The preparation failed, or the model is quantised already.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, target = job.folder / "whole.onnx", job.folder / "folded.onnx"
    whole = load_whole(job.path)
    if any("Quantize" in node.op_type or node.op_type in _INTEGER for node in whole.graph.node):
        raise CannotConvertError("it is quantised already; give the float32 network that it was made from")
    onnx.save(whole, str(source))
    with quietly("The preparation for quantising"):
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        model = onnx.load(str(target))
    del model.graph.value_info[:]
    name_nodes(model)
    return model


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node of the main graph a name, as tools address them by it."""
    taken = {node.name for node in model.graph.node}
    for number, node in enumerate(model.graph.node):
        if not node.name:
            wish = f"{node.op_type}_{number}"
            while wish in taken:
                wish += "_"
            node.name = wish
            taken.add(wish)
