"""`collapse --heal`: what the cut leaves is taught in the same go, and of several plans the best healed goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import residual_mlp
from lacoot_deploy_cli.main import run as run_command

from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.manifest import parse_plan, read_manifest
from lacoot_deploy.workflow.collapse_heal import _every_second, _in_a_row


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.onnx").write_bytes(residual_mlp(5)[0].SerializeToString())
    np.savez(folder / "data.npz", x=np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32))
    return folder


@pytest.mark.parametrize("candidates", [1, 3])
def test_the_best_plan_is_cut_and_healed(model, candidates, tmp_path, capsys):
    out, plan_file = tmp_path / "out.onnx", tmp_path / "plan.json"
    words = f"collapse {model / 'model.onnx'} --count 2 --repair none --data npz:{model / 'data.npz'} --heal -o {out}"
    more = f"--candidates {candidates} --steps 30 --device cpu --provider cpu --plan-out {plan_file} --json"
    assert run_command([*words.split(), *more.split()]) == 0
    document = json.loads(capsys.readouterr().out)
    healing = document["healing"]
    assert document["output"] == healing["output"] == str(out)
    assert healing["record"]["after"]["drift"] < healing["record"]["before"]["drift"]
    manifest, plan = read_manifest(load_model(out)), parse_plan(plan_file.read_text())
    assert manifest.history[-1].plan_sha256 == plan.digest()
    assert manifest.healed
    assert [step.block for step in plan.steps] == manifest.history[-1].blocks
    tried = plan.evidence.candidates
    if candidates == 1:
        assert tried is None
    else:
        assert 2 <= len(tried) <= 3
        assert [one.chosen for one in tried].count(True) == 1
        assert all(len(one.blocks) == 2 for one in tried)


def test_what_makes_no_sense_is_refused(model):
    words = ["collapse", str(model / "model.onnx"), "--count", "1"]
    assert run_command([*words, "--candidates", "2"]) == 2
    assert run_command([*words, "--heal"]) == 2


def test_patterns_of_blocks():
    names = [str(i) for i in range(8)]
    assert _every_second(names, 4) == ("0", "2", "4", "6")
    assert len(_every_second(names, 3)) == 3
    assert _in_a_row(names, 4) == ("2", "3", "4", "5")


def test_the_report_tells_of_the_healing(model, tmp_path, capsys):
    out, plan_file, page = tmp_path / "out.onnx", tmp_path / "plan.json", tmp_path / "page.html"
    words = f"collapse {model / 'model.onnx'} --count 1 --repair none --data npz:{model / 'data.npz'} --heal -o {out}"
    more = f"--steps 20 --device cpu --provider cpu --plan-out {plan_file} -q"
    assert run_command([*words.split(), *more.split()]) == 0
    assert (
        run_command(["report", str(model / "model.onnx"), str(out), str(plan_file), "-o", str(page), "-q"])
        == 0
    )
    text = page.read_text()
    assert "Healed: " in text
    assert "samples held back" in text
