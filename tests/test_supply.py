"""What is installed is what is used: no dependency without an import, no import without a dependency."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "ml_dtypes": "ml-dtypes",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
    "onnxruntime": "onnxruntime-gpu",
    "sklearn": "scikit-learn",
}
OURS = {"lacoot_deploy", "lacoot_deploy_cli"}
NOT_IMPORTED = {
    "onnxruntime": "the same package for machines without CUDA wheels",
    "onnxscript": "torch.onnx.export needs it",
    "tomli": "tomllib of Python 3.10",
}


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(texts: list[str]) -> dict[str, Requirement]:
    return {key(Requirement(text).name): Requirement(text) for text in texts}


def imported() -> dict[str, set[str]]:
    """Distributions that the package imports, each with the files that do."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "lacoot_deploy").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - OURS - sys.stdlib_module_names:
                found.setdefault(key(DISTRIBUTIONS.get(name, name)), set()).add(path.name)
    return found


def test_every_import_is_declared():
    extras = PROJECT["optional-dependencies"]
    known = declared(
        PROJECT["dependencies"] + [text for name in extras if name != "dev" for text in extras[name]]
    )
    assert {name: files for name, files in imported().items() if name not in known and name != "tomli"} == {}


def test_every_dependency_is_imported():
    assert set(declared(PROJECT["dependencies"])) - set(imported()) - set(NOT_IMPORTED) == set()


def test_every_dependency_has_a_lower_bound():
    texts = PROJECT["dependencies"] + [
        t for extra in PROJECT["optional-dependencies"].values() for t in extra
    ]
    assert [text for text in texts if not any(s.operator == ">=" for s in Requirement(text).specifier)] == []


def test_the_pinned_versions_fit_the_declared_ones():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = declared([line for line in lines if line and not line.startswith("#")])
    assert all(len(list(pin.specifier)) == 1 and str(pin.specifier).startswith("==") for pin in pins.values())
    for name, wanted in declared(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]).items():
        if name in ("onnxruntime", "tomli"):
            continue
        assert name in pins, f"{name} is not pinned"
        version = str(pins[name].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), (
            f"{name} is pinned to {version}, which does not fit {wanted}"
        )


@pytest.mark.parametrize("word", ["eval", "exec", "compile", "__import__"])
def test_no_text_is_run(word):
    calls = [
        f"{path.name}:{node.lineno}"
        for path in [*(ROOT / "lacoot_deploy").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == word
    ]
    assert calls == []


def test_nothing_unpickles_but_what_is_bounded():
    """`pickle.load`, `torch.load` without `weights_only`, `np.load` with pickles and shells are used nowhere."""
    for path in [*(ROOT / "lacoot_deploy").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            place = f"{path.name}:{node.lineno}"
            assert (owner, node.func.attr) not in {
                ("pickle", "load"),
                ("pickle", "loads"),
                ("os", "system"),
            }, place
            if (owner, node.func.attr) == ("torch", "load"):
                assert given.get("weights_only") is True, place
            if (owner, node.func.attr) == ("np", "load"):
                assert given.get("allow_pickle") is False, place
            assert given.get("shell") is not True, place


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    there = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "lacoot_deploy").rglob("*.py")
    } | {"lacoot_deploy_cli"}
    assert there == set(settings["packages"])
