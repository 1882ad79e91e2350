"""ORT format: loads without the ONNX parser, with the list of operators that a reduced build needs."""

from __future__ import annotations

from pathlib import Path

import onnx

from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly

WIDENED = 1.5
"""How many times as large a file is at least whose float16 weights became float32."""


class OrtFormat(Conversion):
    """ONNX Runtime's own format, optimised for the target's processors, with its list of operators beside it."""

    name = "ort"
    summary = "ORT format for small builds, with its operator list"
    suffix = ".ort"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

        folder = job.folder / "made"
        with quietly("ONNX Runtime's tool for ORT format"):
            convert_onnx_models_to_ort(
                job.path, folder, [OptimizationStyle.Fixed], target_platform=job.target.platform
            )
        made = sorted(folder.glob("*.ort"))
        lists = sorted(folder.glob("*.config"))
        if len(made) != 1:
            raise CannotConvertError("ONNX Runtime's tool wrote no file in ORT format")
        if _half(job.path) and made[0].stat().st_size > WIDENED * job.path.stat().st_size:
            raise CannotConvertError(
                "on this machine ONNX Runtime's tool widens float16 to float32, for which the processor has kernels; "
                "ship the ONNX file"
            )
        return Converted(made[0], {"platform": job.target.platform}, beside=tuple(lists))


def _half(path: Path) -> bool:
    model = onnx.load(str(path), load_external_data=False)
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
