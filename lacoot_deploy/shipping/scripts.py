"""The small program that runs shipped files: it stands alone, needs NumPy and one engine, and knows nothing of us."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lacoot_deploy.shipping.targets import Target

_HEAD = '''#!/usr/bin/env python3
"""Runs a shipped model on the arrays of an .npz file, {where}.

    python run.py MODEL [--inputs samples.npz] [--outputs answers.npz] [--threads N]
    python run.py --check

The first prints the shape of every output and the fastest of ten runs; the second runs every file of this folder on
samples.npz and holds the answers to expected.npz. Needs: pip install numpy {package}
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
TOLERANCE = 0.02
"""Relative RMS by which another processor or version may round differently."""

'''

_ONNX_RUNTIME = '''
def open_model(path, threads):
    """A function from inputs to outputs, both by name, and the batch that the file is fixed to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    wanted = [{providers}]
    there = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(str(path), options, providers=[p for p in wanted if p in there])
    names = [value.name for value in session.get_outputs()]
    first = [value.shape[0] for value in session.get_inputs() if value.shape]
    fixed = next((size for size in first if isinstance(size, int)), None)
    return lambda feeds: dict(zip(names, session.run(names, feeds))), fixed

'''

_OPENVINO = '''
def open_model(path, threads):
    """A function from inputs to outputs, both by name, and the batch that the file is fixed to."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    shapes = [value.partial_shape for value in compiled.inputs if value.partial_shape.rank.get_length()]
    fixed = next((s[0].get_length() for s in shapes if s[0].is_static), None)

    def run(feeds):
        given = {value: feeds[next(n for n in value.names if n in feeds)] for value in compiled.inputs}
        found = compiled(given)
        return {name: np.array(found[value]) for value in compiled.outputs for name in value.names}

    return run, fixed

'''

_TAIL = '''
def run_all(run, fixed, feeds):
    """All samples, in pieces of the fixed batch where there is one; a short last piece repeats its last sample."""
    count = max((len(a) for a in feeds.values() if a.ndim), default=1)
    if not fixed or fixed == count:
        return run(feeds)
    pieces = []
    for start in range(0, count, fixed):
        places = np.minimum(np.arange(start, start + fixed), count - 1)
        part = {name: a[places] if a.ndim and len(a) == count else a for name, a in feeds.items()}
        pieces.append(run(part))
    return {name: np.concatenate([piece[name] for piece in pieces])[:count] for name in pieces[0]}


def read(path):
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def check(threads):
    """Run every file of the folder and compare with what it answered when it was made."""
    feeds, expected = read(HERE / "samples.npz"), read(HERE / "expected.npz")
    wrong = 0
    files = [entry["file"] for entry in json.loads((HERE / "ship.json").read_text())["files"] if entry["file"]]
    for file in files:
        try:
            answers = run_all(*open_model(HERE / file, threads), feeds)
        except Exception as error:
            print(f"{file}: does not run here: {str(error).splitlines()[0][:200]}")
            wrong += 1
            continue
        worst = 0.0
        for key, want in expected.items():
            owner, _, name = key.partition("|")
            if owner == file and want.dtype.kind == "f":
                error = np.sqrt(np.mean((answers[name].astype(np.float64) - want) ** 2))
                worst = max(worst, float(error / (np.sqrt(np.mean(want.astype(np.float64) ** 2)) or 1.0)))
        wrong += worst > TOLERANCE
        print(f"{file}: {'differs' if worst > TOLERANCE else 'as expected'} (relative RMS {worst:.2g})")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--inputs", type=Path, default=HERE / "samples.npz")
    parser.add_argument("--outputs", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        return check(given.threads)
    if given.model is None:
        parser.error("name a model of this folder, or give --check")
    run, fixed = open_model(given.model, given.threads)
    feeds = read(given.inputs)
    answers = run_all(run, fixed, feeds)
    if given.outputs:
        np.savez(given.outputs, **answers)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        run_all(run, fixed, feeds)
        times.append(time.perf_counter() - start)
    for name, values in answers.items():
        print(f"{name}: {values.dtype} {list(values.shape)}")
    print(f"fastest of ten runs: {min(times) * 1e3:.3f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
'''

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "qnn": ("QNNExecutionProvider", "CPUExecutionProvider"),
    "coreml": ("CoreMLExecutionProvider", "CPUExecutionProvider"),
}
_PACKAGES = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "qnn": "onnxruntime-qnn"}


def run_script(target: Target) -> str:
    """The program for the folder of a target."""
    return openvino_script() if target.openvino else onnxruntime_script(target.provider or "cpu")


def onnxruntime_script(provider: str = "cpu") -> str:
    """The program that runs files by ONNX Runtime, on the first of the provider's kind that is there."""
    providers = ", ".join(repr(name) for name in _PROVIDERS[provider])
    package = _PACKAGES.get(provider, "onnxruntime")
    head = _HEAD.replace("{where}", f"by ONNX Runtime ({provider})").replace("{package}", package)
    return head + _ONNX_RUNTIME.replace("{providers}", providers) + _TAIL


def openvino_script() -> str:
    """The program that runs files by OpenVINO."""
    head = _HEAD.replace("{where}", "by OpenVINO").replace("{package}", "openvino")
    return head + _OPENVINO + _TAIL
