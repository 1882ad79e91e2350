"""Weights of matrix products in 4 or 8 bits, activations in float32: for decoders, which wait for memory."""

from __future__ import annotations

from typing import ClassVar

import onnx

from lacoot_deploy.shipping.carry import load_whole
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly

BLOCK = 32
"""Entries of a weight that share a scale."""

INT8_ARITHMETIC = 4
"""ONNX Runtime's `accuracy_level` at which products are computed in int8."""


class _WeightOnly(Conversion):
    bits: ClassVar[int]

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        path = job.folder / f"weights{self.bits}.onnx"
        with quietly("ONNX Runtime's weight quantiser"):
            quantiser = MatMulNBitsQuantizer(
                load_whole(job.path),
                bits=self.bits,
                block_size=BLOCK,
                is_symmetric=True,
                accuracy_level=INT8_ARITHMETIC,
            )
            quantiser.process()
            model = quantiser.model.model
            onnx.save(model, str(path))
        made = sum(node.op_type == "MatMulNBits" for node in model.graph.node)
        if not made:
            raise CannotConvertError("it has no matrix product (MatMul) with a constant weight")
        return Converted(path, {"bits": self.bits, "block": BLOCK, "products": made})


class Weights4(_WeightOnly):
    """Weights of matrix products in 4 bits, a scale for every 32 of them."""

    name = "weights4"
    summary = "4-bit weights of matrix products (decoders)"
    bits = 4


class Weights8(_WeightOnly):
    """Weights of matrix products in 8 bits, a scale for every 32 of them."""

    name = "weights8"
    summary = "8-bit weights of matrix products (decoders)"
    bits = 8
