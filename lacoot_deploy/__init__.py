"""lacoot-deploy: makes trained networks shallower and proves what it cost and gained.

The functions mirror the commands; each returns what the command prints with `--json`. Importing the package imports
neither torch nor onnxruntime: what a name needs is imported when it is first used. The names stand in `__init__.pyi`.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

from lacoot_deploy.version import __version__ as __version__

_PLACES = {
    alias.asname or alias.name: (node.module, alias.name)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module is not None
    for alias in node.names
}

__all__ = sorted(name for name in _PLACES if not name.startswith("_"))


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
