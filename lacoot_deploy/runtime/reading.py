"""Models of any kind that ONNX Runtime itself can read, as ONNX: files in its own format come through it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.foreign import ORT_MAGIC
from lacoot_deploy.graph.model.io import TEXT_SUFFIXES, checked, load_model, model_file


def read_model(path: str | Path) -> onnx.ModelProto:
    """Read a model: ONNX, ONNX in text, or ONNX Runtime's own format (ORT).

    Raises:
        InputError: The file cannot be used; see `load_model`.
    """
    path = model_file(path)
    return checked(_from_ort(path), path) if is_ort(path) else load_model(path)


def is_ort(path: Path) -> bool:
    """Whether a file is in ONNX Runtime's own format."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == ORT_MAGIC
    except (OSError, ValueError):
        return False


def runnable(path: str | Path, model: onnx.ModelProto) -> Path | onnx.ModelProto:
    """What a session is opened from: the file itself where ONNX Runtime reads it, else the model."""
    file = model_file(path)
    return model if file.suffix in TEXT_SUFFIXES else file


def _from_ort(path: Path) -> onnx.ModelProto:
    """The model in a file in ONNX Runtime's own format, its operators as they are there, its metadata included."""
    import onnxruntime

    from lacoot_deploy.runtime.providers import quiet

    quiet()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 4
        options.add_session_config_entry("session.save_model_format", "ONNX")

        def opened() -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        try:
            try:
                session = opened()
            except RuntimeError:
                # A process whose sessions share their threads takes only sessions that do.
                options.use_per_session_threads = False
                session = opened()
        except Exception as error:  # ONNX Runtime raises several unrelated types
            problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(
                f"{path} is in ONNX Runtime's own format and cannot be read: {problem}"
            ) from error
        model = onnx.load(written)
        known = {entry.key for entry in model.metadata_props}
        for key, value in session.get_modelmeta().custom_metadata_map.items():
            if key not in known:
                model.metadata_props.add(key=key, value=value)
    return model
