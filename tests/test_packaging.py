"""What ships: wheel and sdist hold all that is needed and nothing else, and work outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {"lacoot_deploy": "lacoot_deploy", "cli": "lacoot_deploy_cli"}


def sources() -> set[str]:
    """Files that an installation holds, by the names that they have there."""
    found = set()
    for folder, package in PACKAGES.items():
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(f"{package}/{path.relative_to(REPOSITORY / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, built without network from a copy of the tree, so that the checkout stays as it is."""
    pytest.importorskip(
        "setuptools", minversion="77", reason="needs the setuptools that the project is built with"
    )
    import shutil

    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for folder in ("lacoot_deploy", "cli", "tests"):
        shutil.copytree(REPOSITORY / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree / name)
    code = (
        "import sys; from setuptools import build_meta as b; out = sys.argv[1]; "
        "print(b.build_sdist(out)); print(b.build_wheel(out))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_every_module_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "lacoot-deploy = lacoot_deploy_cli.main:main" in archive.read(entry).decode()
        (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert names == sources()
    assert "License-Expression: Apache-2.0" in text
    assert "# lacoot-deploy" in text


def test_the_sdist_can_be_built_from(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert {
        f"lacoot_deploy/{n.split('/', 1)[1]}" for n in sources() if n.startswith("lacoot_deploy/")
    } <= names
    assert {f"cli/{n.split('/', 1)[1]}" for n in sources() if n.startswith("lacoot_deploy_cli/")} <= names


def test_what_is_installed_works_outside_of_the_checkout(built, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # The libraries are those of this environment, by path; lacoot-deploy itself is the wheel's.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install"),
            *("--no-deps", "--no-index", "--quiet", str(built[0])),
        ],
        check=True,
        capture_output=True,
    )
    import click

    Path(site, "libraries.pth").write_text(str(Path(click.__file__).parents[1]) + "\n")
    script = python.parent / ("lacoot-deploy.exe" if os.name == "nt" else "lacoot-deploy")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [str(a) for a in arguments], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = run(
        python,
        "-c",
        "import lacoot_deploy, lacoot_deploy_cli as c; print(lacoot_deploy.__file__, c.__file__)",
    )
    assert all(str(environment) in path for path in where.split())
    assert "0.1.0" in run(script, "--version")
    from builders import residual_cnn

    from lacoot_deploy.graph.model.io import save_model

    save_model(residual_cnn(3)[0], tmp_path / "model.onnx")
    assert "3 blocks, 3 can go" in run(script, "inspect", "model.onnx")
    run(script, "collapse", "model.onnx", "--count", "1", "--criterion", "random", "-o", "short.onnx")
    run(script, "report", "model.onnx", "short.onnx", "-o", "report.html")
    assert "1 of 3" in (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
