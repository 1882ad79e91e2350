"""Pairs of texts that belong together, from what is installed anyway: a docstring's first sentence and next paragraph.

Run as `python samples/benchmarks/docstring_pairs.py pairs.tsv`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

MODULES = [
    "numpy",
    "numpy.linalg",
    "numpy.random",
    "numpy.ma",
    "torch",
    "torch.nn",
    "torch.optim",
    "torch.distributions",
    "torch.nn.functional",
    "sklearn.linear_model",
    "sklearn.cluster",
    "sklearn.decomposition",
    "sklearn.ensemble",
    "sklearn.metrics",
    "sklearn.preprocessing",
    "sklearn.model_selection",
    "sklearn.manifold",
    "sklearn.datasets",
    "scipy.stats",
    "scipy.signal",
    "scipy.optimize",
    "scipy.linalg",
    "scipy.special",
    "scipy.ndimage",
    "scipy.interpolate",
    "matplotlib.pyplot",
    "collections",
    "itertools",
    "os",
    "pathlib",
    "asyncio",
    "unittest",
    "logging",
    "email",
    "http",
    "subprocess",
]
NO_PROSE = (".. ", ">>>", "Parameters", "Args", "Returns", "Note", "[")


def paragraphs(text: str) -> list[str]:
    """The prose of a docstring, markup removed."""
    parts = [re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n")]
    parts = [re.sub(r":\w+:`~?([^`<]*)[^`]*`|`+", r"\1", part) for part in parts]
    return [part for part in parts if part and not part.startswith(NO_PROSE) and "(" not in part[:30]]


def pairs_of(module: ModuleType) -> dict[str, str]:
    """First sentence and next paragraph of every public callable that has both."""
    found = {}
    for name in sorted(vars(module)):
        value = getattr(module, name, None)
        if name.startswith("_") or not callable(value):
            continue
        parts = paragraphs(inspect.getdoc(value) or "")
        if len(parts) < 2 or "---" in parts[1]:
            continue
        if 25 < len(parts[0]) < 160 and 60 < len(parts[1]) < 600:
            found.setdefault(parts[0], parts[1])
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    pairs: dict[str, str] = {}
    for name in MODULES:
        for first, second in pairs_of(importlib.import_module(name)).items():
            pairs.setdefault(first, second)
    Path(sys.argv[1]).write_text("".join(f"{a}\t{b}\n" for a, b in pairs.items()), encoding="utf-8")
    print(f"{len(pairs)} pairs")


if __name__ == "__main__":
    main()
