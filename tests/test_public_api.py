"""The public names: all there, all documented, none more."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import lacoot_deploy


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


def test_importing_the_package_imports_neither_torch_nor_onnx_runtime():
    code = (
        "import sys, lacoot_deploy; assert not {'torch', 'onnxruntime', 'onnx', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
