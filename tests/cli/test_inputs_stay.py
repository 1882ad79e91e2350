"""No command writes over what it reads, whatever option names it; what a stranger's file says steers no terminal."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest
from builders import residual_cnn
from lacoot_deploy_cli import main as entry
from lacoot_deploy_cli.main import run
from lacoot_deploy_cli.render import print_json, printable

from lacoot_deploy.graph.model.io import save_model

COUNT = ["--count", "1", "--criterion", "random"]


@pytest.fixture
def folder(tmp_path):
    model = residual_cnn(3)[0]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    images = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", image=images)
    step = {"block": "layer0", "input": "stem_relu", "output": "layer0.out", "form": "bypass"}
    (tmp_path / "plan.json").write_text(json.dumps({"steps": [step]}))
    (tmp_path / "link.json").symlink_to("m.onnx")
    return tmp_path


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["collapse", "m.onnx", *COUNT, "-o", "m.onnx"],
        ["collapse", "m.onnx", *COUNT, "--plan-out", "m.onnx"],
        ["collapse", "m.onnx", *COUNT, "--plan-out", "./../{}/m.onnx"],
        ["collapse", "m.onnx", *COUNT, "--plan-out", "link.json"],
        ["collapse", "m.onnx", *COUNT, "--plan-out", "w.bin"],
        ["collapse", "m.onnx", *COUNT, "--dry-run", "--plan-out", "w.bin"],
        ["collapse", "m.onnx", *COUNT, "-o", "w.bin"],
        ["collapse", "m.onnx", *COUNT, "-o", "o.onnx", "--plan-out", "o.onnx"],
        ["collapse", "m.onnx", *COUNT, "--data", "npz:d.npz", "-o", "d.npz"],
        ["collapse", "m.onnx", *COUNT, "--data", "npz:d.npz", "--plan-out", "d.npz"],
        ["collapse", "m.onnx", "--plan", "plan.json", "-o", "plan.json"],
        ["collapse", "m.onnx", "--plan", "plan.json", "--plan-out", "plan.json"],
        ["measure", "m.onnx", "--data", "npz:d.npz", "-o", "m.onnx"],
        ["measure", "m.onnx", "--data", "npz:d.npz", "-o", "d.npz"],
        ["measure", "m.onnx", "--data", "npz:d.npz", "-o", "w.bin"],
    ],
)
def test_an_output_that_is_an_input(folder, arguments, monkeypatch, capsys):
    if arguments[0] == "measure":
        pytest.importorskip("torch")
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert run([argument.format(folder.name) for argument in arguments]) == 3
    assert "overwritten" in capsys.readouterr().err
    assert contents(folder) == before


def test_an_export_over_its_checkpoint(tmp_path, capsys):
    pytest.importorskip("torch")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"weights")
    for source in (tmp_path, tmp_path / "checkpoint.safetensors"):
        assert run(["export", str(source), "-o", str(tmp_path / "checkpoint.safetensors")]) == 3
        assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device", "x")])
def test_what_the_system_cannot_give(monkeypatch, capsys, error):
    def fail(**options):
        raise error

    monkeypatch.setattr(entry.cli, "main", fail)
    assert run(["inspect", "x"]) == 3
    assert capsys.readouterr().err.startswith("error: ")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\r\nx"


def test_names_that_steer_a_terminal(tmp_path, capsys):
    model, _ = residual_cnn(2)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("layer0.out", f"layer0.out{HOSTILE}") for name in names]
        node.name = node.name.replace("layer0.out", f"layer0.out{HOSTILE}")
    del model.graph.value_info[:]
    path = tmp_path / "hostile.onnx"
    save_model(model, path)
    assert run(["inspect", str(path)]) == 0
    assert run(["collapse", str(path), "--blocks", "\x1b[2Jnone"]) == 2
    assert (
        run(["collapse", str(path), "--count", "1", "--criterion", "random", "-o", str(tmp_path / "o.onnx")])
        == 0
    )
    captured = capsys.readouterr()
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(captured.out + captured.err)
    assert run(["inspect", str(path), "--json"]) == 0
    names = [block["name"] for block in json.loads(capsys.readouterr().out)["blocks"]]
    assert len(names) == 2


def test_printable():
    assert printable("plain ä 日本 😀\n\ttext") == "plain ä 日本 😀\n\ttext"
    assert printable("\x1b[2J\u202e\x00\udcff") == "\\x1b[2J\\u202e\\x00\\udcff"


@pytest.mark.skipif(os.name != "posix", reason="names of other systems are text")
def test_json_of_a_name_that_is_no_text(capfdbinary):
    print_json({"path": os.fsdecode(b"caf\xe9 \xc3\xa4")})
    assert b'"caf\xe9 \xc3\xa4"' in capfdbinary.readouterr().out
