"""lacoot-deploy: makes trained networks shallower and proves what it cost and gained.

The functions mirror the commands; each returns what the command prints with `--json`. Importing the package imports
neither torch nor onnxruntime: what a function needs is imported when it is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lacoot_deploy.errors import LacootError
from lacoot_deploy.version import __version__ as __version__

if TYPE_CHECKING:
    from lacoot_deploy.api import collapse, ship
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.healing.files import save_weights, torch_module
    from lacoot_deploy.healing.options import HealOptions
    from lacoot_deploy.manifest import Manifest, Plan
    from lacoot_deploy.runtime.doctor import diagnose as doctor
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.selection.options import LineariseOptions, SearchOptions
    from lacoot_deploy.selection.planning import Limit
    from lacoot_deploy.workflow.benching import benchmark
    from lacoot_deploy.workflow.comparing import compare
    from lacoot_deploy.workflow.healing import heal_run
    from lacoot_deploy.workflow.healing_files import heal
    from lacoot_deploy.workflow.inspecting import inspect
    from lacoot_deploy.workflow.measuring import measure
    from lacoot_deploy.workflow.reporting import report
    from lacoot_deploy.workflow.training import export, train


_PLACES = {
    "BenchOptions": ("lacoot_deploy.bench.options", "BenchOptions"),
    "SearchOptions": ("lacoot_deploy.selection.options", "SearchOptions"),
    "Runtime": ("lacoot_deploy.runtime.options", "Runtime"),
    "DataOptions": ("lacoot_deploy.data.options", "DataOptions"),
    "LineariseOptions": ("lacoot_deploy.selection.options", "LineariseOptions"),
    "Limit": ("lacoot_deploy.selection.planning", "Limit"),
    "Manifest": ("lacoot_deploy.manifest", "Manifest"),
    "Plan": ("lacoot_deploy.manifest", "Plan"),
    "benchmark": ("lacoot_deploy.workflow.benching", "benchmark"),
    "collapse": ("lacoot_deploy.api", "collapse"),
    "compare": ("lacoot_deploy.workflow.comparing", "compare"),
    "doctor": ("lacoot_deploy.runtime.doctor", "diagnose"),
    "export": ("lacoot_deploy.workflow.training", "export"),
    "HealOptions": ("lacoot_deploy.healing.options", "HealOptions"),
    "heal": ("lacoot_deploy.workflow.healing_files", "heal"),
    "heal_run": ("lacoot_deploy.workflow.healing", "heal_run"),
    "save_weights": ("lacoot_deploy.healing.files", "save_weights"),
    "torch_module": ("lacoot_deploy.healing.files", "torch_module"),
    "inspect": ("lacoot_deploy.workflow.inspecting", "inspect"),
    "measure": ("lacoot_deploy.workflow.measuring", "measure"),
    "report": ("lacoot_deploy.workflow.reporting", "report"),
    "ship": ("lacoot_deploy.api", "ship"),
    "train": ("lacoot_deploy.workflow.training", "train"),
}

__all__ = [
    "BenchOptions",
    "DataOptions",
    "HealOptions",
    "LacootError",
    "Limit",
    "LineariseOptions",
    "Manifest",
    "Plan",
    "Runtime",
    "SearchOptions",
    "benchmark",
    "collapse",
    "compare",
    "doctor",
    "export",
    "heal",
    "heal_run",
    "inspect",
    "measure",
    "report",
    "save_weights",
    "ship",
    "torch_module",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
