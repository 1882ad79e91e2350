"""Files in ORT format: what ONNX Runtime alone can read of them."""

from __future__ import annotations

from pathlib import Path

from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session

SUFFIX = ".ort"


def ort_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file in ORT format, which carries that of the ONNX file it was made from.

    Raises:
        InputError: It cannot be loaded.
    """
    session = open_session(path, Runtime("cpu"))
    return dict(session.ort.get_modelmeta().custom_metadata_map)
