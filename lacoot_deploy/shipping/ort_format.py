"""ORT format: loads without the ONNX parser, with the list of operators that a reduced build needs."""

from __future__ import annotations

from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly


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
        return Converted(made[0], {"platform": job.target.platform}, beside=tuple(lists))
