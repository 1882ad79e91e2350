"""Execution providers by their short names: which there are, which really run a model here, and how to mend them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lacoot_deploy.errors import ProviderError
from lacoot_deploy.runtime.libraries import driver_problem, required_libraries
from lacoot_deploy.runtime.messages import plain

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

PROVIDERS: Mapping[str, str] = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
"""Short name on the command line to ONNX Runtime's name."""

_PACKAGES = {
    CUDA: "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "DmlExecutionProvider": "onnxruntime-directml",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "ROCMExecutionProvider": "onnxruntime-rocm",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
}

_NVIDIA = {CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}

_BINARIES = {
    CUDA: "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}

_CUDA_MEND = (
    'pip install "onnxruntime-gpu[cuda,cudnn]" (or a PyTorch built for the same CUDA version) puts the missing '
    "libraries where they are found"
)


def full_name(provider: str) -> str:
    """ONNX Runtime's name of a provider given by its short or full name.

    Raises:
        ProviderError: There is no such provider.
    """
    wanted = provider.lower()
    for short, full in PROVIDERS.items():
        if wanted in (short, full.lower()):
            return full
    known = ", ".join(PROVIDERS)
    raise ProviderError(f"There is no execution provider {provider!r}; known are auto, {known}.")


def short_name(provider: str) -> str:
    """The short name of a provider, or ONNX Runtime's name where there is none."""
    return next((short for short, full in PROVIDERS.items() if full == provider), provider)


def listed_providers() -> tuple[str, ...]:
    """Short names of what ONNX Runtime lists as available; listed does not mean that it works."""
    import onnxruntime

    return tuple(short_name(name) for name in onnxruntime.get_available_providers())


@lru_cache(maxsize=1)
def quiet() -> None:
    """Keep ONNX Runtime's C++ log off stderr: every failure it has reaches Python as an exception or is checked for."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)


@lru_cache(maxsize=1)
def preload_cuda() -> None:
    """Let ONNX Runtime load the CUDA libraries that pip packages brought; what is missing shows when it is needed."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            onnxruntime.preload_dlls()


def provider_binary(provider: str) -> Path | None:
    """The shared library of a provider (Linux), or None where it is built in or unknown."""
    import onnxruntime

    name = _BINARIES.get(provider)
    if name is None:
        return None
    path = Path(os.path.dirname(onnxruntime.__file__)) / "capi" / name
    return path if path.is_file() else None


def explain(provider: str, error: str | None = None) -> tuple[str, str]:
    """Why a provider does not work here and how to mend it, as two sentences without full stops.

    Args:
        provider: ONNX Runtime's name.
        error: What ONNX Runtime said, if anything.
    """
    import onnxruntime

    name = short_name(provider)
    if provider not in onnxruntime.get_available_providers():
        package = _PACKAGES.get(provider)
        mend = (
            f"install {package} in place of onnxruntime"
            if package
            else f"install an ONNX Runtime built with {name}"
        )
        return f"this ONNX Runtime {onnxruntime.__version__} was built without {name}", mend
    if provider in _NVIDIA:
        preload_cuda()
        if driver_problem() is not None:
            reason = "no NVIDIA driver was found (libcuda cannot be loaded)"
            return (
                reason,
                "install the NVIDIA driver, and in a container start it with the GPU passed through",
            )
        binary = provider_binary(provider)
        missing = [lib.name for lib in required_libraries(binary) if lib.problem] if binary else []
        if missing:
            mend = "install TensorRT" if any("nvinfer" in lib for lib in missing) else _CUDA_MEND
            return f"these libraries cannot be loaded: {', '.join(missing)}", mend
    reason = plain(error) if error and error.strip() else "ONNX Runtime left it out without saying why"
    return reason, "see `lacoot-deploy doctor`, or choose another provider"
