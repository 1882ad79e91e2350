"""Which operators of a converted file still compute in float32, once ONNX Runtime has made its graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.reading import is_ort
from lacoot_deploy.runtime.sessions import open_session

_FLOAT = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "NhwcFusedConv")
"""Heavy operators as ONNX Runtime names them when they compute in floating point; with float32 weights, in float32."""


def fallbacks(path: Path, folder: Path, *, numbers: str | None, runtime: Runtime) -> list[str]:
    """What fell back, one sentence each: nodes on the CPU beside another provider, or float32 in a smaller type.

    Args:
        path: The file.
        folder: A folder for ONNX Runtime's optimised graph.
        numbers: Which numbers the file was converted to; None for float32.
        runtime: Where it runs.
    """
    found: list[str] = []
    if is_ort(path):
        return found
    optimised = folder / "optimised.onnx"
    session = open_session(
        path,
        runtime,
        configure=lambda options: setattr(options, "optimized_model_filepath", str(optimised)),
    )
    fallen = Counter(node.op for node in session.fallback_nodes())
    if fallen:
        found.append(f"on the CPU: {_counted(fallen)}")
    if numbers is None or not optimised.is_file():
        return found
    graph = onnx.load(str(optimised), load_external_data=False).graph
    wide = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    floats = Counter(node.op_type for node in graph.node if node.op_type in _FLOAT and wide & set(node.input))
    if floats:
        found.append(f"computed in float32: {_counted(floats)}")
    return found


def _counted(operators: Counter[str]) -> str:
    return ", ".join(f"{count} {op}" for op, count in sorted(operators.items()))
