"""Tasks on the command line: found and named, recorded, believed or not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import residual_mlp
from builders import run as answers
from lacoot_deploy_cli.main import run

import lacoot_deploy as ld
from lacoot_deploy.graph.model.io import load_model, save_model
from lacoot_deploy.manifest import read_manifest


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbers(folder, **labels):
    """A network of eight numbers in and some out, with targets near what it tells."""
    model = residual_mlp(3, relu=False, stem_relu=False)[0]
    save_model(model, folder / "m.onnx")
    x = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)
    (told,) = answers(model, {"x": x})
    np.savez(folder / "d.npz", x=x, **{name: make(told) for name, make in labels.items()})
    return told


def test_a_regression_is_found_judged_in_its_unit_and_recorded(there, capsys):
    numbers(there, labels=lambda told: told + 0.01)
    assert run(["collapse", "m.onnx", "--count", "1", "--data", "npz:d.npz", "-o", "s.onnx"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Task: regression on " in said
    assert "Dense network: R2 " in said
    assert "R2 drops by" in said
    record = read_manifest(load_model(there / "s.onnx")).task
    assert (record.name, record.measure, record.unit) == ("regression", "R2", "points")
    assert (
        run(["compare", "m.onnx", "s.onnx", "--data", "npz:d.npz", "--task", "regression:MAE", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"]["metric"] == "MAE"
    assert found["accuracy"]["unit"] == "mean absolute error"
    assert found["accuracy"]["drop_points"] > 0


def test_labels_that_do_not_belong_end_with_three_and_are_trusted_on_demand(there, capsys):
    numbers(there, labels=lambda told: np.random.default_rng(1).standard_normal(told.shape))
    command = ["collapse", "m.onnx", "--count", "1", "--data", "npz:d.npz", "-o", "s.onnx"]
    assert run(command) == 3
    assert "do not seem to belong to the model" in capsys.readouterr().err
    assert not (there / "s.onnx").exists()
    assert run([*command, "--trust-labels"]) == 0


def test_tasks_measures_and_outputs_that_do_not_exist_are_named(there, capsys):
    numbers(there)
    command = ["compare", "m.onnx", "m.onnx", "--data", "npz:d.npz"]
    for options, code, words in (
        (["--task", "magic"], 2, "There is no task 'magic'; use one of detection, "),
        (["--task", "regression:AUC"], 2, "no measure 'AUC'; it has R2, MSE, MAE"),
        (["--outputs", "z"], 2, "There is no output 'z' to judge by"),
        (["--task", "segmentation"], 3, "The task segmentation does not fit: no output is a map of classes"),
        (["--sample-axis", "x=one"], 2, "the axis must be a number"),
    ):
        assert run([*command, *options]) == code
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_task_of_ones_own_is_searched_and_compared_by(there, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(there))
    told = numbers(there, labels=lambda told: told)
    (there / "my_heading.py").write_text(
        "import numpy as np\n"
        "class Heading:\n"
        "    unit = 'degrees'\n"
        "    higher = False\n"
        "    def costs(self, outputs, labels, dense):\n"
        "        y = next(iter(outputs.values()))\n"
        "        want = labels['labels'] if labels else next(iter(dense.values()))\n"
        "        return ((y - want) ** 2).sum(1)\n"
        "    def scores(self, outputs, labels, dense):\n"
        "        y, want = next(iter(outputs.values())), labels['labels'] if labels else next(iter(dense.values()))\n"
        "        size = np.linalg.norm(y, axis=1) * np.linalg.norm(want, axis=1)\n"
        "        return np.degrees(np.arccos(((y * want).sum(1) / size).clip(-1, 1)))\n"
    )
    data = ld.DataOptions("npz:d.npz", task=ld.TaskOptions("python:my_heading:Heading"))
    result = ld.collapse("m.onnx", "s.onnx", data=data, count=1)
    assert result.plan.task.name == "python"
    assert result.plan.task.settings == {"object": "python:my_heading:Heading"}
    found = ld.compare("m.onnx", "s.onnx", data).accuracy
    assert (found.metric, found.unit) == ("Heading", "degrees")
    assert found.a == pytest.approx(0, abs=0.1)
    assert found.drop_points == pytest.approx(found.b - found.a)
    assert told.shape[1] > 1
