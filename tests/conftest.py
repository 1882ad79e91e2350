"""Shared fixtures: helpers on the import path, fixed seeds, where the sample data and the light models are."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent

for folder in (TESTS / "fuzz", TESTS / "graph", TESTS):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes never become a test's name: a time stamp within them would differ between the workers of one run."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the sample data sets; the test is skipped where it is not there."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the sample data in {folder}")
    return folder


@pytest.fixture(scope="session")
def onnx_light() -> Path:
    """The folder with the light models (weights left out) that the onnx package ships."""
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    if not folder.is_dir():
        pytest.skip("the installed onnx package ships no light models")
    return folder
