"""Another version of ONNX's operators, for a runtime that is older or newer."""

from __future__ import annotations

import onnx

from lacoot_deploy.errors import UsageError
from lacoot_deploy.shipping.carry import load_whole
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly


class Opset(Conversion):
    """The model in another version of ONNX's own operators, by ONNX's converter."""

    name = "opset"
    summary = "another version of ONNX's operators (--opset)"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`.

        Raises:
            UsageError: The version was not given.
            CannotConvertError: It is in that version already, or the converter failed.
        """
        if job.opset is None:
            raise UsageError("The conversion 'opset' needs the version: give --opset.")
        model = load_whole(job.path)
        before = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
        if before == job.opset:
            raise CannotConvertError(f"it is in opset {before} already")
        with quietly("ONNX's version converter"):
            converted = onnx.version_converter.convert_version(model, job.opset)
            onnx.checker.check_model(converted, full_check=True)
        path = job.folder / "opset.onnx"
        onnx.save(converted, str(path))
        return Converted(path, {"from": before, "to": job.opset})
