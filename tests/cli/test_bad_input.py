"""Wrong input ends in one clear sentence, the designed exit code, and no output file."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from builders import residual_cnn
from lacoot_deploy_cli.main import run

from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.manifest import MANIFEST_KEY, Manifest, write_manifest


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "in put.onnx"
    save_model(residual_cnn(3)[0], path)
    return path


def fails(arguments, code, said, capsys):
    """Run a command and hold its failure to the rules; gives stderr."""
    assert run([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in captured.err
    return captured.err


def test_a_missing_file(tmp_path, capsys):
    for command in ("inspect", "collapse", "bench"):
        fails([command, tmp_path / "missing.onnx"], 3, "missing.onnx", capsys)


def test_a_file_that_is_no_onnx(tmp_path, capsys):
    path = tmp_path / "a.onnx"
    for content in (b"", b"hello, I am no model", os.urandom(5000)):
        path.write_bytes(content)
        fails(["inspect", path], 3, str(path), capsys)


def test_a_truncated_model_leaves_no_output(model, tmp_path, capsys):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-100])
    fails(["collapse", cut, "--count", "1", "--criterion", "random"], 3, "cut.onnx", capsys)
    assert sorted(os.listdir(tmp_path)) == ["cut.onnx", "in put.onnx"]


def test_an_unknown_block_name_suggests_the_nearest(model, tmp_path, capsys):
    from lacoot_deploy.workflow.inspecting import inspect

    name = inspect(model).blocks[0].name
    fails(["collapse", model, "--blocks", name + "x"], 2, name, capsys)
    assert os.listdir(tmp_path) == [model.name]


def test_data_whose_shape_does_not_fit(model, tmp_path, capsys):
    np.savez(tmp_path / "d.npz", image=np.zeros((10, 3, 9, 9), np.float32))
    said = fails(
        ["collapse", model, "--count", "1", "--data", f"npz:{tmp_path / 'd.npz'}", "-o", tmp_path / "o.onnx"],
        3,
        "[10, 3, 9, 9]",
        capsys,
    )
    assert "'image'" in said
    assert not (tmp_path / "o.onnx").exists()


def test_a_manifest_of_a_newer_version(model, tmp_path, capsys):
    proto = residual_cnn(3)[0]
    proto.metadata_props.add(key=MANIFEST_KEY, value=json.dumps({"schema_version": 99}))
    newer = tmp_path / "newer.onnx"
    newer.write_bytes(proto.SerializeToString())
    for command in (["inspect"], ["collapse", "--count", "1"]):
        fails([command[0], newer, *command[1:]], 3, "upgrade lacoot-deploy", capsys)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_an_output_folder_that_is_missing_or_cannot_be_written(model, tmp_path, capsys):
    options = ["--count", "1", "--criterion", "random"]
    fails(["collapse", model, *options, "-o", tmp_path / "no" / "o.onnx"], 3, "does not exist", capsys)
    fails(["collapse", model, *options, "-o", tmp_path], 3, "is a folder", capsys)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    fails(["collapse", model, *options, "-o", locked / "o.onnx"], 3, "cannot be written", capsys)


def test_a_count_above_what_can_go(model, capsys):
    fails(["collapse", model, "--count", "50", "--criterion", "random"], 5, "3 blocks", capsys)


def test_no_limit_and_no_recommended_plan(model, tmp_path, capsys):
    fails(["collapse", model], 2, "--max-drop", capsys)
    proto = residual_cnn(3)[0]
    write_manifest(proto, Manifest(producer="x"))
    bare = tmp_path / "bare.onnx"
    save_model(proto, bare)
    fails(["collapse", bare], 2, "no recommended plan", capsys)


def test_a_limit_that_needs_data_without_data(model, capsys):
    fails(["collapse", model, "--max-drop", "1"], 2, "give --data", capsys)
    fails(["collapse", model, "--count", "1", "--repair", "linear"], 2, "give --data", capsys)
    fails(["collapse", model, "--count", "1"], 3, "measure", capsys)


def test_two_limits_at_once(model, capsys):
    fails(["collapse", model, "--count", "1", "--max-drop", "1"], 2, "exactly one", capsys)


def test_the_input_is_never_the_output(model, capsys):
    before = model.read_bytes()
    fails(
        ["collapse", model, "--count", "1", "--criterion", "random", "-o", model],
        3,
        "never overwritten",
        capsys,
    )
    assert model.read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 9}', '{"steps": [{"block": 3}]}', "\x00"])
def test_a_plan_file_that_is_no_plan(model, tmp_path, capsys, content):
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    fails(["collapse", model, "--plan", plan], 3, "plan.json", capsys)


def test_a_plan_for_another_model(model, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    step = {"block": "nowhere", "input": "a", "output": "b", "form": "bypass"}
    plan.write_text(json.dumps({"steps": [step]}))
    fails(["collapse", model, "--plan", plan], 3, "'nowhere'", capsys)


def test_unknown_commands_options_and_settings(tmp_path, capsys):
    fails(["colapse", "x"], 2, "Did you mean 'collapse'", capsys)
    fails(["inspect", "--frobnicate", "x"], 2, "--frobnicate", capsys)
    fails(["train", "-o", tmp_path / "r", "--set", "epoch=3"], 2, "epoch", capsys)
    fails(["train", "-o", tmp_path / "r", "--set", "epochs"], 2, "key=value", capsys)
    assert not (tmp_path / "r").exists()


def test_an_unknown_or_broken_provider(model, capsys):
    fails(["bench", model, "--provider", "nonsense"], 7, "nonsense", capsys)


def test_a_failed_limit_of_compare_is_exit_4_after_the_figures(model, tmp_path, capsys):
    short = tmp_path / "s.onnx"
    assert run(["collapse", str(model), "--count", "2", "--criterion", "random", "-o", str(short), "-q"]) == 0
    np.savez(tmp_path / "d.npz", image=np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32))
    capsys.readouterr()
    arguments = [
        "compare",
        str(model),
        str(short),
        "--data",
        f"npz:{tmp_path / 'd.npz'}",
        "--max-abs",
        "1e-9",
        "--json",
    ]
    assert run(arguments) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["violations"]
    assert "error:" in captured.err


def test_models_with_different_signatures_are_not_compared(model, tmp_path, capsys):
    from builders import residual_mlp

    other = tmp_path / "mlp.onnx"
    save_model(residual_mlp(2)[0], other)
    np.savez(tmp_path / "d.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    fails(["compare", model, other, "--data", f"npz:{tmp_path / 'd.npz'}"], 3, "cannot be compared", capsys)
