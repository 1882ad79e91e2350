"""The public names: all there, all documented, none more."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import lacoot_deploy
from lacoot_deploy import api

STUB = Path(lacoot_deploy.__file__).with_suffix(".pyi")


@pytest.mark.parametrize("name", lacoot_deploy.__all__)
def test_every_public_name_exists_and_is_documented(name):
    member = getattr(lacoot_deploy, name)
    text = inspect.getdoc(member) or ""
    assert text.splitlines()
    if inspect.isfunction(member):
        parameters = [p for p in inspect.signature(member).parameters.values() if p.kind is not p.VAR_KEYWORD]
        if parameters:
            assert "Args:" in text
            assert all(f"{p.name}:" in text for p in parameters)
            assert "Raises:" in text


def test_the_list_is_sorted_and_complete():
    assert lacoot_deploy.__all__ == sorted(lacoot_deploy.__all__)
    assert set(lacoot_deploy.__all__) <= set(dir(lacoot_deploy))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lacoot_deploy.nothing


def test_the_stub_is_the_one_list_of_names():
    """Every name stands once, under its own name, and is what the type checker is told."""
    lines = [line for line in STUB.read_text().splitlines() if line.startswith("from ")]
    names = [line.rpartition(" as ")[2] for line in lines]
    assert sorted(names) == sorted({*lacoot_deploy.__all__, "__version__"})
    assert all(f"import {name} as " in line for name, line in zip(names, lines, strict=True))


def test_results_and_options_end_alike():
    for name in lacoot_deploy.__all__:
        member = getattr(lacoot_deploy, name)
        if inspect.isfunction(member) and name not in ("read_plan", "save_weights", "torch_module"):
            result = inspect.signature(member).return_annotation
            assert str(result) in lacoot_deploy.__all__ or str(result) == "ShipResult", (name, result)
            assert str(result).endswith("Result") or str(result) == "ShipResult"


def test_no_public_function_takes_anything_at_all():
    for name in lacoot_deploy.__all__:
        member = getattr(lacoot_deploy, name)
        for parameter in inspect.signature(member).parameters.values() if inspect.isfunction(member) else ():
            assert str(parameter.annotation) not in ("Any", "inspect._empty"), (name, parameter)
            if parameter.kind is parameter.VAR_KEYWORD:
                assert str(parameter.annotation).startswith("Unpack[")


def test_plain_keywords_are_the_fields_of_the_objects():
    assert set(api.LimitKeywords.__annotations__) == {f.name for f in fields(lacoot_deploy.Limit)}
    assert set(api.SearchKeywords.__annotations__) == {f.name for f in fields(lacoot_deploy.SearchOptions)}


def test_plain_keywords_make_the_objects(monkeypatch):
    asked = []
    monkeypatch.setattr(api, "run_collapse", lambda request, *, progress: asked.append((request, progress)))
    lacoot_deploy.collapse("m.onnx", "short.onnx", data="npz:calib.npz", max_drop=1)
    lacoot_deploy.collapse(
        "m.onnx", count=2, repair="none", data=lacoot_deploy.DataOptions("digits", seed=3), progress=print
    )
    (first, _), (second, told) = asked
    assert first.limit == lacoot_deploy.Limit(max_drop=1)
    assert (first.data.spec, first.target) == ("npz:calib.npz", Path("short.onnx"))
    assert second.search == lacoot_deploy.SearchOptions(repair="none", seed=3)
    assert told is print
    with pytest.raises(lacoot_deploy.UsageError, match="either limit or max_drop"):
        lacoot_deploy.collapse("m.onnx", limit=lacoot_deploy.Limit(count=1), max_drop=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_dorp'"):
        lacoot_deploy.collapse("m.onnx", max_dorp=1)


def test_importing_the_package_imports_neither_torch_nor_onnx_runtime():
    code = (
        "import sys, lacoot_deploy; assert not {'torch', 'onnxruntime', 'onnx', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
