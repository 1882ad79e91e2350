"""The devices that files are shipped to: which conversions make sense there, and why."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from lacoot_deploy.errors import UsageError

Calibration = Literal["minmax", "entropy", "percentile"]


@dataclass(frozen=True)
class Int8:
    """The kind of 8-bit numbers that a device computes with.

    Attributes:
        signed_activations: Whether activations are int8; uint8 else.
        symmetric_activations: Whether the zero of activations lies in the middle, as kernels without zero points need.
        signed_weights: Whether weights are int8; uint8 else.
        per_channel: Whether every output channel of a weight has a scale of its own.
        calibration: How ranges are taken from activations.
    """

    signed_activations: bool = False
    symmetric_activations: bool = False
    signed_weights: bool = True
    per_channel: bool = True
    calibration: Calibration = "minmax"


@dataclass(frozen=True)
class Target:
    """A device, with the conversions that are worth making for it.

    Attributes:
        name: As `--target` knows it.
        summary: What it is, in a few words.
        chains: Conversions, each a chain of names in the order in which they are applied.
        why: One sentence on why these.
        provider: Short name of ONNX Runtime's provider that runs files there; None where another engine does.
        int8: Its kind of 8-bit numbers.
        platform: The processors that ORT format is optimised for, as ONNX Runtime's tool calls them.
        openvino: Whether OpenVINO is the engine that runs files there.
    """

    name: str
    summary: str
    chains: tuple[str, ...]
    why: str
    provider: str | None = "cpu"
    int8: Int8 = field(default_factory=Int8)
    platform: Literal["arm", "amd64"] = "amd64"
    openvino: bool = False


_SYMMETRIC = Int8(signed_activations=True, symmetric_activations=True)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "cpu",
            "a server or desktop processor with ONNX Runtime",
            ("int8", "int8-dynamic", "fp16"),
            "Integer kernels (uint8 activations, int8 weights per channel) are what makes such a processor faster; "
            "float16 halves the file and seldom the time, since it is computed in float32.",
        ),
        Target(
            "mobile",
            "a phone's or a board's ARM processor with ONNX Runtime",
            ("fixed+int8+ort", "fixed+ort", "fixed+fp16"),
            "Fixed shapes and a batch of one let everything be planned ahead; ORT format loads without the ONNX "
            "parser, and its operator list is what a reduced build is made with.",
            platform="arm",
        ),
        Target(
            "cuda",
            "an NVIDIA GPU with ONNX Runtime",
            ("fp16",),
            "Tensor cores compute in float16; ONNX Runtime has no integer kernels for convolutions on CUDA.",
            provider="cuda",
        ),
        Target(
            "tensorrt",
            "an NVIDIA GPU with TensorRT",
            ("fp16", "int8"),
            "TensorRT takes explicit Q/DQ pairs with symmetric int8 activations and weights, without zero points.",
            provider="tensorrt",
            int8=_SYMMETRIC,
        ),
        Target(
            "openvino",
            "an Intel processor with OpenVINO",
            ("int8", "fp16"),
            "OpenVINO reads ONNX with Q/DQ pairs (uint8 activations, symmetric int8 weights) and compresses to "
            "float16 itself where the device likes that.",
            openvino=True,
        ),
        Target(
            "qnn",
            "a Qualcomm accelerator with ONNX Runtime",
            ("fixed+int8",),
            "The accelerator runs fixed shapes and Q/DQ pairs with uint8 activations and weights only.",
            provider="qnn",
            int8=Int8(signed_weights=False, per_channel=False),
            platform="arm",
        ),
        Target(
            "coreml",
            "an Apple device with ONNX Runtime",
            ("fixed+fp16", "fixed"),
            "Core ML programs want fixed shapes; the Neural Engine computes in float16.",
            provider="coreml",
            platform="arm",
        ),
    )
}


def get_target(name: str) -> Target:
    """The named target.

    Args:
        name: As `--target` knows it.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in TARGETS:
        near = difflib.get_close_matches(name, TARGETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"There is no target {name!r}; choose one of {', '.join(TARGETS)}.{hint}")
    return TARGETS[name]
