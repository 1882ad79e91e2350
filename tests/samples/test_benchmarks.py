"""Every benchmark can be imported with what the project offers now, and says how it is called."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "samples" / "benchmarks"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported_and_says_how_it_is_called(name, monkeypatch):
    for package in ("onnxsim", "ot", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module(name)
    assert module.__doc__
    if name not in ("common", "docstring_pairs"):
        assert f"samples/benchmarks/{name}.py" in module.__doc__


def test_functions_timed_in_turns_are_paired_and_each_comes_first_as_often_as_the_others(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common

    calls: list[str] = []
    kinds = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    found = common.in_turns(kinds, rounds=6, warm=1)
    assert {len(times) for by in found.values() for times in by.values()} == {6}
    firsts = calls[3::3]
    assert sorted(firsts) == sorted("abc" * 2)
    middle, low, high = common.paired_ratio(found["wall"]["a"], found["wall"]["a"])
    assert (middle, low, high) == (1.0, 1.0, 1.0)
