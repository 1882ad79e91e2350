"""What must be the same whatever the operator set, the run and the way in which shapes are settled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy.graph.discovery import find_blocks, survey
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.workflow.inspecting import open_model

OPSETS = range(11, onnx.defs.onnx_opset_version() + 1)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("build", [residual_mlp, residual_cnn])
def test_every_operator_set_from_11_to_the_newest(opset, build):
    model, written = build(2)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    model.ir_version = max(8, onnx.helper.find_min_ir_version_for(model.opset_import, True))
    found = find_blocks(model)
    assert [(block.output, block.forms) for block in found] == [
        (block.output, (Form.BYPASS, Form.SHORTCUT)) for block in written
    ]
    result = collapse_blocks(model, [Cut(found[1], Form.BYPASS)])
    onnx.checker.check_model(result, full_check=True)
    assert result.opset_import == model.opset_import
    newest_that_runs = 21
    if opset <= newest_that_runs:
        feeds = random_feeds(model)
        theirs = run(cut_by_hand(model, [(found[1], Form.BYPASS)]), feeds)
        np.testing.assert_array_equal(run(result, feeds)[0], theirs[0])


def unnamed() -> onnx.ModelProto:
    """Two towers of blocks whose nodes have no names and whose weights say nothing: names are derived and numbered."""
    g = GraphBuilder()
    x = g.input("x", ["N", 8])
    for _ in range(4):
        a = g.op("Tanh", g.op("MatMul", x, g.normal(8, 8)))
        x = g.op("Add", g.op("MatMul", a, g.normal(8, 8)), x)
    model = g.model({x: ["N", 8]})
    for node in model.graph.node:
        node.name = "add" if node.op_type == "Add" else ""
    return model


def test_names_are_the_same_on_every_run(tmp_path: Path):
    """In processes that hash texts differently; equal wishes are told apart in graph order."""
    path = tmp_path / "model.onnx"
    onnx.save(unnamed(), path)
    documents = []
    for seed in ("0", "1", "12345"):
        done = subprocess.run(
            [sys.executable, "-m", "lacoot_deploy", "inspect", str(path), "--json"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        )
        documents.append(done.stdout)
    assert len(set(documents)) == 1
    names = [block["name"] for block in json.loads(documents[0])["blocks"]]
    assert names == ["add", "add_2", "add_3", "add_4"]


def only_running_tells() -> onnx.ModelProto:
    """A block whose branch is reshaped to sizes that are computed from values, not from shapes."""
    g = GraphBuilder(opset=18)
    x = g.input("x", ["N", 8])
    ones = g.op("Cast", g.op("ReduceMax", g.op("Clip", x, g.weight(1.0), g.weight(1.0)), keepdims=0), to=7)
    size = g.op("Mul", g.op("Reshape", ones, g.weight([1], dtype=np.int64)), g.op("Shape", x))
    inner = g.op("MatMul", g.op("Tanh", g.op("MatMul", x, g.normal(8, 8))), g.normal(8, 8))
    g.op("Add", x, g.op("Reshape", inner, size), output="sum")
    g.op("Neg", "sum", output="y")
    return g.model({"y": ["N", 8]})


class TestProbe:
    def test_a_run_decides_what_nothing_else_does(self, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(only_running_tells(), path)
        assert survey(onnx.load(path)).undecided
        opened = open_model(path)
        assert [block.forms for block in opened.blocks] == [(Form.BYPASS, Form.SHORTCUT)]
        assert "settled by a probe run" in opened.notes[0]

    def test_without_a_probe_it_stays_open(self, tmp_path, monkeypatch):
        path = tmp_path / "model.onnx"
        onnx.save(only_running_tells(), path)

        def never(*args, **options):
            raise AssertionError("the model was run")

        monkeypatch.setattr("lacoot_deploy.runtime.probe.probe_shapes", never)
        (block,) = open_model(path, probe=False).blocks
        assert block.reason is not None
        assert (block.reason.code, block.forms) == ("shape_unknown", ())

    def test_the_command_line_forbids_it_too(self, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(only_running_tells(), path)
        code = (
            "import sys; from lacoot_deploy_cli.main import cli\n"
            "cli(sys.argv[1:], standalone_mode=False)\n"
            "assert 'onnxruntime' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "inspect", str(path), "--json", "--no-probe"],
            capture_output=True,
            check=True,
            text=True,
        )
        (block,) = json.loads(done.stdout)["blocks"]
        assert block["reason"]["code"] == "shape_unknown"
