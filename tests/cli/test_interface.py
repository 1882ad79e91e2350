"""The fixed interface: commands, help, JSON on stdout alone, and start-up without heavy imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from builders import residual_cnn
from lacoot_deploy_cli.main import COMMANDS, run

from lacoot_deploy.graph.model.io import save_model


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    save_model(residual_cnn(3)[0], path)
    return path


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_80_columns_and_has_an_example(command, capsys):
    assert run([command, "--help"] if command else ["--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "lacoot-deploy " + (command or "inspect") in text


def test_collapse_shows_its_options_under_headings(capsys):
    run(["collapse", "--help"])
    headings = [line[:-1] for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[A-Z].*:", line)]
    assert headings == [
        "How far to go", "Choosing", "Putting in place", "Activations", "Healing", "Data", "Task", "Runtime",
        "Output",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_common_options(command, capsys):
    run([command, "--help"])
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--verbose" in text
    assert "--quiet" in text


def test_inspect_json_has_the_documented_fields(model, capsys):
    assert run(["inspect", str(model), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= {"schema_version", "model", "blocks"}
    assert set(document["model"]) == {"path", "nodes", "parameters", "macs", "opset"}
    assert [set(block) for block in document["blocks"]] == 3 * [
        {
            "name", "input", "output", "units", "forms", "shape", "dtype", "nodes", "parameters", "macs",
            "collapsible", "reason", "distance",
        }
    ]  # fmt: skip


def test_collapse_and_its_dry_run(model, tmp_path, capsys):
    options = ["--count", "2", "--criterion", "random", "--json"]
    assert run(["collapse", str(model), *options, "--dry-run"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert dry["output"] is None
    assert not (tmp_path / "model.collapsed.onnx").exists()
    assert run(["collapse", str(model), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == str(tmp_path / "model.collapsed.onnx")
    assert document["plan"] == dry["plan"]
    assert document["after"]["nodes"] < document["before"]["nodes"]


def test_the_module_is_the_command_and_stdout_holds_one_json_document(model, tmp_path):
    done = python("-m", "lacoot_deploy", "inspect", model, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema_version"] == 1


def test_doctor_says_which_providers_work(capsys):
    assert run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"name": "cpu", "works": True, "problem": None} in document["providers"]
    assert document["auto"] in ("cpu", "cuda")


def test_bench_json_has_the_documented_fields(model, capsys):
    assert run(["bench", str(model), str(model), "--min-time", "0.3", "--rounds", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= {
        "a", "b", "speedup", "ci95", "noise_floor", "verdict", "pairs", "environment", "samples",
    }  # fmt: skip
    assert document["verdict"] in ("faster", "slower", "no detectable difference")


def test_the_package_and_inspect_import_neither_torch_nor_onnx_runtime(model):
    code = (
        "import sys, lacoot_deploy\n"
        "from lacoot_deploy_cli.main import run\n"
        "assert run(['inspect', sys.argv[1], '-q']) == 0\n"
        "heavy = {'torch', 'onnxruntime', 'onnxscript', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", code, model)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_but_click():
    code = (
        "import sys\n"
        "from lacoot_deploy_cli.main import run\n"
        "run(['--help'])\n"
        "heavy = {'numpy', 'onnx', 'pydantic', 'torch', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_no_error(model):
    done = subprocess.run(
        f'"{sys.executable}" -m lacoot_deploy inspect "{model}" --json | head -c 1',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_colour_only_on_a_terminal(model):
    done = python("-m", "lacoot_deploy", "inspect", model)
    assert "\x1b[" not in done.stdout + done.stderr
    done = python("-m", "lacoot_deploy", "inspect", "missing.onnx")
    assert "\x1b[" not in done.stderr
