"""What this machine can do: versions, providers that really run a model, CUDA libraries, and how to mend the rest."""

from __future__ import annotations

import importlib.metadata
import platform

import numpy as np
from pydantic import BaseModel

from lacoot_deploy.errors import LacootError
from lacoot_deploy.machine import Machine, describe_machine
from lacoot_deploy.runtime.libraries import driver_problem, required_libraries
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.providers import CUDA, full_name, listed_providers, preload_cuda, provider_binary
from lacoot_deploy.runtime.sessions import open_session

PACKAGES = (
    "lacoot-deploy",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnx",
    "onnx-graphsurgeon",
    "onnxscript",
    "torch",
    "torchvision",
    "numpy",
)


class ProviderReport(BaseModel):
    """One execution provider.

    Attributes:
        name: Its short name.
        works: Whether it really ran a small model.
        problem: Why not, and how to mend it; None where it works.
    """

    name: str
    works: bool
    problem: str | None = None


class LibraryReport(BaseModel):
    """One shared library that CUDA needs: found, or why not."""

    name: str
    found: bool
    problem: str | None = None


class DoctorResult(BaseModel):
    """What `doctor` found.

    Attributes:
        python: Python's version.
        versions: Versions of the packages that matter, by name; only those installed.
        providers: Those that ONNX Runtime lists, each tried.
        auto: The provider that `auto` would choose.
        cuda_driver: Why the NVIDIA driver cannot be loaded; None where it can.
        cuda_libraries: What ONNX Runtime's CUDA provider needs (Linux only).
        machine: Processors and memory.
    """

    schema_version: int = 1
    python: str
    versions: dict[str, str]
    providers: list[ProviderReport]
    auto: str
    cuda_driver: str | None
    cuda_libraries: list[LibraryReport]
    machine: Machine


def doctor() -> DoctorResult:
    """Try every provider that ONNX Runtime lists on a small model, and describe the machine."""
    preload_cuda()
    providers = [_try(name) for name in listed_providers()]
    binary = provider_binary(CUDA)
    libraries = required_libraries(binary) if binary else ()
    works = {report.name for report in providers if report.works}
    return DoctorResult(
        python=platform.python_version(),
        versions=_versions(),
        providers=providers,
        auto="cuda" if "cuda" in works else "cpu",
        cuda_driver=driver_problem(),
        cuda_libraries=[
            LibraryReport(name=lib.name, found=lib.problem is None, problem=lib.problem) for lib in libraries
        ],
        machine=describe_machine(),
    )


def _try(provider: str) -> ProviderReport:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "r"], ["y"])]
    values = {name: [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4])] for name in ("x", "y")}
    graph = helper.make_graph(nodes, "doctor", values["x"], values["y"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    try:
        session = open_session(model, Runtime(full_name(provider)), label="A small test model")
        answer = session.run({"x": np.eye(4, dtype=np.float32)})["y"]
    except LacootError as error:
        return ProviderReport(name=provider, works=False, problem=str(error))
    if not np.allclose(answer, np.eye(4)):
        return ProviderReport(
            name=provider, works=False, problem="it runs the test model but computes it wrongly"
        )
    return ProviderReport(name=provider, works=True)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
