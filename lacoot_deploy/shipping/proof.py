"""Runs a shipped file in a fresh process, by ONNX Runtime and by OpenVINO, with nothing of ours but a small program."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.processes import python_environment
from lacoot_deploy.shipping.scripts import onnxruntime_script, openvino_script
from lacoot_deploy.shipping.trials import Outputs, distance

SECONDS = 300
"""A file that has not answered by then is taken for one that does not run."""

AGREES = 0.05
"""Relative RMS within which another engine's answers count as the same: it may fuse, and so round, otherwise."""


@dataclass(frozen=True)
class Proof:
    """Whether a file runs in a fresh process.

    Attributes:
        engine: `onnxruntime` or `openvino`.
        runs: Whether it loaded, ran and agreed.
        drift: Relative RMS difference of its answers from those expected; None where it did not run.
        reason: Why it does not run or does not agree; None where it does.
    """

    engine: str
    runs: bool
    drift: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Prover:
    """Runs files on a few samples in processes of their own.

    Attributes:
        folder: A folder for its programs and arrays.
        feeds: The samples.
    """

    folder: Path
    feeds: Mapping[str, NDArray[Any]]

    def onnxruntime(self, path: Path, expected: Outputs) -> Proof:
        """By ONNX Runtime on the CPU."""
        return self._prove("onnxruntime", onnxruntime_script("cpu"), path, expected)

    def openvino(self, path: Path, expected: Outputs) -> Proof:
        """By OpenVINO on the CPU."""
        if path.suffix == ".ort":
            return Proof("openvino", False, reason="OpenVINO does not read ORT format")
        if importlib.util.find_spec("openvino") is None:
            return Proof(
                "openvino", False, reason="OpenVINO is not installed (pip install 'lacoot-deploy[openvino]')"
            )
        return self._prove("openvino", openvino_script(), path, expected)

    def _prove(self, engine: str, script: str, path: Path, expected: Outputs) -> Proof:
        program, answers = self.folder / f"run_{engine}.py", self.folder / "answers.npz"
        inputs = self.folder / "inputs.npz"
        if not inputs.is_file():
            save_arrays(inputs, self.feeds)
        program.write_text(script, encoding="utf-8")
        answers.unlink(missing_ok=True)
        command = [
            sys.executable,
            str(program),
            str(path),
            "--inputs",
            str(inputs),
            "--outputs",
            str(answers),
        ]
        try:
            ended = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
                env=python_environment(),
            )
        except subprocess.TimeoutExpired:
            return Proof(engine, False, reason=f"it did not answer within {SECONDS} seconds")
        if ended.returncode != 0 or not answers.is_file():
            return Proof(engine, False, reason=_last_line(ended.stderr, ended.returncode))
        with np.load(answers, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        drift = distance(found, expected)
        if drift > AGREES:
            return Proof(engine, False, drift, f"its answers differ by {drift:.2g} (relative RMS)")
        return Proof(engine, True, drift)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name to an .npz file; texts as NumPy's own, so that nothing is pickled."""
    named: dict[str, Any] = {n: a.astype(str) if a.dtype.kind == "O" else a for n, a in arrays.items()}
    np.savez(path, **named)


def _last_line(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"the process ended with code {code}"
