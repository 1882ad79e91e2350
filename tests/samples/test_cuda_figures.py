"""The program that takes the GPU's figures, as far as a machine without one can tell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "samples" / "benchmarks"

PRETENDED = """
import json, sys, time
stage, target = sys.argv[1], sys.argv[sys.argv.index("-o") + 1]
json.dump({f"{stage} case": {"seconds": 1}}, open(target, "w"))
if stage == "latency":
    sys.exit("CUDA ran out of memory")
if stage == "step":
    time.sleep(600)
"""
"""A stage that takes one figure; `latency` then fails and `step` never ends."""


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cuda_figures

    return cuda_figures


def test_the_stages_share_the_minutes_given(figures, capsys):
    assert figures.main(["--list", "--minutes", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [stage.name for stage in figures.STAGES]
    assert sum(int(line.split()[1]) for line in lines) == pytest.approx(600, abs=3)


def test_every_stage_is_one_that_can_be_run(figures):
    import cuda_stages

    assert [stage.name for stage in figures.STAGES] == list(cuda_stages.STAGES)


def test_an_unknown_stage_is_refused(figures, capsys):
    with pytest.raises(SystemExit) as refused:
        figures.main(["--only", "nothing"])
    assert refused.value.code == 2
    assert "latency" in capsys.readouterr().err


def test_without_a_gpu_nothing_is_measured(figures, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(figures, "cuda_problem", lambda: "no NVIDIA driver was found")
    assert figures.main(["-o", str(tmp_path / "f.json")]) == 7
    assert "CUDA does not work here: no NVIDIA driver" in capsys.readouterr().err
    assert not (tmp_path / "f.json").exists()


def test_a_stage_that_fails_or_never_ends_says_why_and_the_next_one_runs(
    figures, monkeypatch, tmp_path, capsys
):
    script = tmp_path / "stages.py"
    script.write_text(PRETENDED)
    monkeypatch.setattr(figures, "STAGES_SCRIPT", script)
    real = figures.run_stage
    monkeypatch.setattr(figures, "run_stage", lambda stage, limit, given: real(stage, min(limit, 0.5), given))
    monkeypatch.setattr(figures, "GRACE", 0.5)
    output = tmp_path / "f.json"
    output.write_text(json.dumps({"stages": {"ready": {"figures": {"of an earlier run": 7}}}}))
    options = ["--device", "cpu", "--folder", str(tmp_path), "-o", str(output)]
    assert figures.main([*options, "--only", "ready", "latency", "step", "search"]) == 1
    stages = json.loads(output.read_text())["stages"]
    assert {name: entry["status"] for name, entry in stages.items()} == {
        "ready": "done", "latency": "failed", "step": "out of time", "search": "done",
    }  # fmt: skip
    assert stages["latency"]["why"] == "CUDA ran out of memory"
    assert set(stages["ready"]["figures"]) == {"of an earlier run", "ready case"}
    assert stages["step"]["figures"] == {"step case": {"seconds": 1}}
    assert "latency (failed: CUDA ran out of memory)" in capsys.readouterr().err


def test_a_case_that_fails_leaves_the_others(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cuda_stages

    def stage(job):
        job.take("first", lambda: 1 / 0)
        job.take("second", lambda: {"ms": 2.0})
        job.take("third", lambda: {"ms": 3.0}, needs=1e6)

    monkeypatch.setitem(cuda_stages.STAGES, "step", stage)
    target = tmp_path / "s.json"
    assert cuda_stages.main(["step", "--folder", str(tmp_path), "-o", str(target)]) == 1
    found = json.loads(target.read_text())
    assert found["first"]["failed"].startswith("ZeroDivisionError")
    assert found["second"] == {"ms": 2.0}
    assert "s needed" in found["third"]["not reached"]


def test_a_stage_in_very_little(monkeypatch, tmp_path):
    """The one with most of the tool in it, in this process: pairs, what blocks take, what was realised."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cuda_stages
    from builders import residual_cnn

    from lacoot_deploy.graph.model.io import save_model

    save_model(residual_cnn(4)[0], tmp_path / "resnet50.onnx")
    monkeypatch.setattr(
        cuda_stages, "cases", lambda job: [cuda_stages.Case("resnet50", "half", 1, "float32", False)]
    )
    target = tmp_path / "l.json"
    options = ["--device", "cpu", "--small", "--folder", str(tmp_path), "--models", str(tmp_path)]
    assert cuda_stages.main(["latency", *options, "-o", str(target)]) == 0
    (figure,) = json.loads(target.read_text()).values()
    assert len(figure["removed"]) == round(figure["collapsible"] / 2)
    assert figure["speedup"] > 0
    assert figure["provider"] == "cpu"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_stage_runs_in_little_without_a_gpu(figures, tmp_path):
    output = tmp_path / "f.json"
    options = ["--device", "cpu", "--small", "--minutes", "20", "--folder", str(tmp_path), "-o", str(output)]
    code = figures.main(options)
    stages = json.loads(output.read_text())["stages"]
    assert code == 0, {name: entry["why"] for name, entry in stages.items()}
    assert set(stages) == {stage.name for stage in figures.STAGES}
    assert all(entry["figures"] for entry in stages.values())
    assert stages["recipe"]["figures"]["healed"]["accuracy"]["b"] > 0


@pytest.fixture
def travel(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cuda_travel

    return cuda_travel


@pytest.fixture
def luggage(tmp_path):
    for name, size in (
        ("wheels/a.whl", 3_000_017),
        ("wheels/b.whl", 5),
        ("wheels/empty.whl", 0),
        ("c.zip", 2_500_000),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    return tmp_path


def test_what_travels_arrives_whole_in_parts_of_the_size_allowed(travel, luggage, capsys):
    options = ["--wheels", str(luggage / "wheels"), "--data", str(luggage / "c.zip"), "--megabytes", "1"]
    assert travel.main(["pack", *options, "-o", str(luggage / "parts")]) == 0
    parts = sorted((luggage / "parts").glob("part-*"))
    assert len(parts) == 6
    assert all(part.stat().st_size <= 1_000_000 for part in parts)
    made = travel.unpack(luggage / "parts", luggage / "there")
    assert [path.relative_to(luggage / "there").as_posix() for path in made] == [
        "wheels/a.whl", "wheels/b.whl", "wheels/empty.whl", "data/c.zip",
    ]  # fmt: skip
    assert (luggage / "there/wheels/a.whl").read_bytes() == (luggage / "wheels/a.whl").read_bytes()
    assert travel.LIMIT == 58_000_000


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_part_that_is_not_what_was_packed_is_refused(travel, luggage, harm):
    travel.pack(travel.what_travels(luggage / "wheels", None, None), luggage / "parts", 1_000_000)
    part = luggage / "parts" / "part-001"
    part.unlink() if harm == "missing" else part.write_bytes(part.read_bytes()[::-1])
    with pytest.raises(SystemExit, match="part-001 is missing or damaged"):
        travel.unpack(luggage / "parts", luggage / "there")


def test_a_name_that_leads_out_of_the_folder_is_refused(travel, luggage):
    travel.pack([("../out", luggage / "c.zip")], luggage / "parts")
    with pytest.raises(SystemExit, match="leads out of"):
        travel.unpack(luggage / "parts", luggage / "there")


def test_networks_travel_without_their_weights_and_get_others_of_the_same_spread(travel):
    import numpy as np
    import onnx
    from builders import residual_cnn
    from onnx import numpy_helper

    model = residual_cnn(2, channels=32)[0]
    light = travel.without_weights(model)
    assert light.ByteSize() < model.ByteSize() / 3
    again = travel.with_weights(light)
    onnx.checker.check_model(again)
    for old, new in zip(model.graph.initializer, again.graph.initializer, strict=True):
        a, b = numpy_helper.to_array(old), numpy_helper.to_array(new)
        assert a.shape == b.shape
        assert np.std(b) == pytest.approx(np.std(a), rel=0.1, abs=1e-6)


@pytest.mark.slow
def test_wheels_are_installed_without_a_network(travel, tmp_path):
    import zipfile

    (tmp_path / "parts").mkdir()
    wheel = tmp_path / "wheels" / "here-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("here.py", "answer = 42\n")
        archive.writestr("here-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: here\nVersion: 1.0\n")
        archive.writestr(
            "here-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("here-1.0.dist-info/RECORD", "")
    travel.pack(travel.what_travels(wheel.parent, None, None), tmp_path / "parts")
    travel.arrive(tmp_path / "parts", tmp_path / "there")
    import subprocess

    python = tmp_path / "there" / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = subprocess.run(
        [python, "-c", "import here; print(here.answer)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "42"
