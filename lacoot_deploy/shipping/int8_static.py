"""int8 with ranges taken from samples: Q/DQ pairs, weights per channel; what hurts too much stays float32."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from lacoot_deploy.runtime.feeds import model_inputs
from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job, quietly
from lacoot_deploy.shipping.mixed import Mixed, hold_drop
from lacoot_deploy.shipping.preprocess import prepared
from lacoot_deploy.shipping.trials import distance

if TYPE_CHECKING:
    from lacoot_deploy.shipping.targets import Int8

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators whose arithmetic int8 makes faster; those that can be kept in float32 one by one."""


class StaticInt8(Conversion):
    """Activations and weights in 8 bits, with ranges taken from the calibration samples.

    Where the score then drops by more than the limit on the choosing samples, the layers that int8 moves most, each
    quantised alone, stay float32: as few as the limit needs.
    """

    name = "int8"
    summary = "8-bit activations and weights (Q/DQ, calibrated); layers that it costs most stay float32"

    def convert(self, job: Job) -> Converted:
        """See `Conversion.convert`."""
        model = prepared(job)
        layers = [node.name for node in model.graph.node if node.op_type in HEAVY]
        if not layers:
            raise CannotConvertError(f"it has no operator that int8 makes faster ({', '.join(HEAVY)})")
        quantiser = _Quantiser(job, model)
        own = job.trials.drop(quantiser.float_outputs)
        if job.max_drop is not None and own > job.max_drop:
            raise CannotConvertError(
                f"before it is converted its score is {own:.2f} below the dense network's on the choosing samples, "
                f"more than the limit of {job.max_drop:g}"
            )
        mixed = hold_drop(job.trials, layers, quantiser, job.max_drop) if job.max_drop is not None else None
        path = quantiser.without(()) if mixed is None else mixed.path
        kind = job.target.int8
        settings: dict[str, Any] = {
            "activations": "int8" if kind.signed_activations else "uint8",
            "symmetric_activations": kind.symmetric_activations,
            "weights": "int8" if kind.signed_weights else "uint8",
            "per_channel": kind.per_channel,
            "calibration": kind.calibration,
            "calibration_samples": len(job.calibration),
        }
        return Converted(
            path, settings, () if mixed is None else mixed.kept, notes=_notes(mixed, len(layers))
        )


def _notes(mixed: Mixed | None, layers: int) -> tuple[str, ...]:
    if mixed is None or not mixed.kept:
        return ()
    return (
        f"{len(mixed.kept)} of {layers} layers stay float32: in int8 throughout the score drops by "
        f"{mixed.drop_before:.2f} on the choosing samples, so by {mixed.drop:.2f}.",
    )


@dataclass
class _Quantiser:
    """Quantises one prepared model in several ways; activations are measured once."""

    job: Job
    model: onnx.ModelProto

    def __post_init__(self) -> None:
        self.source = self.job.folder / "prepared.onnx"
        onnx.save(self.model, str(self.source))
        self.reader_inputs = model_inputs(self.model)
        self.float_outputs = self.job.trials.outputs(self.source)

    def without(self, kept: Collection[str]) -> Path:
        """Everything in int8 but these nodes."""
        return self._write("int8.onnx", exclude=sorted(kept))

    def alone(self, layer: str) -> float:
        """How far the answers move where this layer alone is int8: relative RMS."""
        path = self._write("alone.onnx", only=[layer])
        return distance(self.job.trials.outputs(path), self.float_outputs)

    def _write(self, name: str, *, exclude: list[str] | None = None, only: list[str] | None = None) -> Path:
        from onnxruntime.quantization import QuantFormat, quantize_static

        from lacoot_deploy.shipping.calibration import Reader

        path = self.job.folder / name
        kind = self.job.target.int8
        with quietly("ONNX Runtime's quantiser"):
            quantize_static(
                str(self.source),
                str(path),
                Reader(self.job.calibration, self.reader_inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=kind.per_channel,
                nodes_to_exclude=exclude or [],
                nodes_to_quantize=only or [],
                calibration_cache_path=str(self.job.folder / "ranges.json"),
                **quantiser_options(kind),
            )
        return path


def quantiser_options(kind: Int8) -> dict[str, Any]:
    """The target's kind of 8-bit numbers in the words of ONNX Runtime's quantiser."""
    from onnxruntime.quantization import CalibrationMethod, QuantType

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    return {
        "activation_type": QuantType.QInt8 if kind.signed_activations else QuantType.QUInt8,
        "weight_type": QuantType.QInt8 if kind.signed_weights else QuantType.QUInt8,
        "calibrate_method": methods[kind.calibration],
        "extra_options": {
            "ActivationSymmetric": kind.symmetric_activations,
            "WeightSymmetric": True,
            "CalibTensorRangeSymmetric": kind.symmetric_activations,
        },
    }
