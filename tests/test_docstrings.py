"""Docstrings say what the code does: held to the signature, for every public function of every module."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import lacoot_deploy

ROOT = Path(lacoot_deploy.__file__).parent


def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages([str(ROOT)], "lacoot_deploy.")]
    return ["lacoot_deploy", *(name for name in found if not name.endswith("__main__"))]


def tree_of(name: str) -> ast.Module:
    path = ROOT.joinpath(*name.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Public functions and public methods of public classes, with their dotted names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def sections(text: str) -> dict[str, list[str]]:
    """The names listed under each section of a google-style docstring."""
    found: dict[str, list[str]] = {}
    current = None
    for line in inspect.cleandoc(text).splitlines():
        heading = re.fullmatch(r"(Args|Arguments|Returns|Yields|Raises|Attributes|Source):", line)
        if heading:
            current = found.setdefault(heading.group(1), [])
        elif line and not line.startswith(" "):
            current = None
        elif current is not None:
            entry = re.match(r"    ([\w*.]+(?:, [\w*.]+)*)(?: \([^)]*\))?:(?: |$)", line)
            if entry:
                current += [name.lstrip("*") for name in entry.group(1).split(", ")]
    return found


def parameters(node: ast.FunctionDef) -> set[str]:
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return {argument.arg for argument in every} - {"self", "cls"}


@pytest.mark.parametrize("name", modules())
def test_every_module_and_every_public_name_in_it_is_documented(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree), f"{name} has no docstring"
    nameless = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not nameless


@pytest.mark.parametrize("name", modules())
def test_arguments_in_docstrings_are_those_of_the_signature(name):
    wrong = []
    for dotted, node in functions(tree_of(name)):
        listed = sections(ast.get_docstring(node) or "").get("Args")
        if listed is None:
            continue
        if set(listed) != parameters(node):
            wrong.append(f"{dotted}: {sorted(set(listed) ^ parameters(node))}")
    assert not wrong


@pytest.mark.parametrize("name", modules())
def test_errors_that_a_function_raises_itself_stand_in_its_docstring(name):
    known = {e for e in vars(importlib.import_module("lacoot_deploy.errors")) if e.endswith("Error")}
    wrong = []
    for dotted, node in functions(tree_of(name)):
        raised = {
            inner.exc.func.id
            for inner in ast.walk(node)
            if isinstance(inner, ast.Raise)
            and isinstance(inner.exc, ast.Call)
            and isinstance(inner.exc.func, ast.Name)
            and inner.exc.func.id in known
        }
        said = ast.get_docstring(node) or ""
        missing = [error for error in raised if error not in sections(said).get("Raises", [])]
        if missing:
            wrong.append(f"{dotted}: {missing}")
    assert not wrong


def lists_names(name: str) -> bool:
    """Whether a module has an `__all__`, told without importing it."""
    targets = (t for node in tree_of(name).body if isinstance(node, ast.Assign) for t in node.targets)
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


@pytest.mark.parametrize("name", filter(lists_names, modules()))
def test_exported_functions_say_everything(name):
    """All arguments, and a first line that says what comes out; annotated throughout."""
    module = importlib.import_module(name)
    for public in module.__all__:
        member = getattr(module, public)
        assert inspect.getdoc(member), f"{public} has no docstring"
        if not inspect.isroutine(member):
            continue
        function = inspect.unwrap(member)
        signature, said = inspect.signature(function), inspect.getdoc(function) or ""
        assert set(sections(said).get("Args", [])) == set(signature.parameters), public
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
        assert signature.return_annotation is not inspect.Signature.empty
        assert said.splitlines()[0].endswith((".", "`")), f"{public}: the first line is a sentence"
