"""Python processes of our own: work that must not take this process with it, or that must be measured apart."""

from __future__ import annotations

import os
import sys


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in a process of its own."""
    return [sys.executable, "-m", module, *arguments]


def python_environment() -> dict[str, str]:
    """The environment for it: the package is found as it is here, also where it was put on the path by hand."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
