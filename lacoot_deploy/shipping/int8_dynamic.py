"""int8 whose activations are measured at every run: no calibration; for transformers and other matrix products."""

from __future__ import annotations

import onnx

from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly
from lacoot_deploy.shipping.preprocess import prepared

PRODUCTS = ("MatMul", "Gemm", "Attention", "LSTM", "Gather", "EmbedLayerNormalization")
"""What becomes int8. Convolutions are left out: their dynamic kernels are slower than float32."""


class DynamicInt8(Conversion):
    """Weights of matrix products in 8 bits; the ranges of activations are taken at every run."""

    name = "int8-dynamic"
    summary = "8-bit weights of matrix products, activations measured at every run (transformers)"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = prepared(job)
        constants = {tensor.name for tensor in model.graph.initializer}
        able = [n for n in model.graph.node if n.op_type in PRODUCTS and set(n.input) & constants]
        if not any(node.op_type in ("MatMul", "Attention", "LSTM") for node in able):
            raise CannotConvertError(
                "it has no matrix product but its last layers; dynamic int8 is for transformers"
            )
        source, path = job.folder / "prepared.onnx", job.folder / "dynamic.onnx"
        onnx.save(model, str(source))
        with quietly("ONNX Runtime's dynamic quantiser"):
            quantize_dynamic(
                str(source),
                str(path),
                op_types_to_quantize=list(PRODUCTS),
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        return Converted(path, {"weights": "int8", "activations": "uint8, at every run", "per_channel": True})
