"""Every sample runs, in little and as it stands, each in an empty folder."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from builders import own_answers, residual_cnn

from lacoot_deploy.graph.model.io import save_model

SAMPLES = Path(__file__).parents[2] / "samples"

RUNS = {
    "02_any_onnx.py": (["--epochs", "6", "--max-drop", "5"], ("gone: ", "times as fast")),
    "05_detection.py": (["--steps", "150", "--max-drift", "0.3"], ("gone: ", "boxes found: ")),
    "04_finetune.py": (["--epochs", "2"], ("fine-tuned: ",)),
    "03_own_model.py": (["--epochs", "4"], ()),
    "08_tasks.py": (["regression", "--steps", "60", "--count", "1"], ("1 blocks gone, R2",)),
    "06_transformer.py": (["--steps", "60", "--max-drop", "5"], ("8 residual units", "gone: ")),
    "09_train_stranger.py": (["--steps", "60"], ("parameters: ", "right on new labels: ")),
}
"""Arguments that keep a sample short, and what it says."""


@dataclass(frozen=True)
class Ended:
    """How a sample ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def sample(name: str, *arguments: object, folder: Path) -> Ended:
    """Run a sample in this process, as `python samples/NAME ARGUMENTS` would in the folder."""
    said, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(SAMPLES / name), *map(str, arguments)])
        patch.syspath_prepend(str(SAMPLES))
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            try:
                runpy.run_path(str(SAMPLES / name), run_name="__main__")
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return Ended(code, said.getvalue(), complained.getvalue())


def test_every_sample_is_run_here():
    here = {*RUNS, "01_quickstart.py", "07_ci_gate.py"}
    assert {path.name for path in SAMPLES.glob("*.py")} == here


TRAINING = ("02_any_onnx.py", "03_own_model.py", "04_finetune.py", "08_tasks.py")
"""Samples that train for so long, even in little, that only the long tests run them."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in TRAINING else []) for name in RUNS]
)
def test_a_sample_in_little(name, tmp_path):
    arguments, says = RUNS[name]
    done = sample(name, *arguments, "-o", "out", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert all(words in done.stdout for words in says), done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"out"}, "everything lands in the folder asked for"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_sample_as_it_stands(name, tmp_path):
    done = sample(name, "-o", "out", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_every_task_has_a_network_that_is_cut(tmp_path):
    done = sample("08_tasks.py", "all", "--steps", "150", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for words in ("R2 ", "mean IoU ", "rank correlation ", "perplexity ", "denoising error "):
        assert words in done.stdout


@pytest.mark.slow
def test_the_quickstart(tmp_path):
    done = sample("01_quickstart.py", "-o", "demo", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "from scratch" in done.stdout


def test_any_onnx_takes_a_file_of_ones_own(tmp_path):
    model = residual_cnn(4)[0]
    save_model(model, tmp_path / "mine.onnx")
    images = np.random.default_rng(0).standard_normal((80, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", image=images, labels=own_answers(model, image=images))
    options = ["--model", "mine.onnx", "--data", "npz:d.npz", "--max-drop", "100", "-o", "out"]
    done = sample("02_any_onnx.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "gone: " in done.stdout
    assert sample("02_any_onnx.py", *options[:2], folder=tmp_path).returncode == 2


@pytest.fixture
def pair(tmp_path):
    from lacoot_deploy import DataOptions, Limit, collapse

    model = residual_cnn(8, channels=16, size=16)[0]
    save_model(model, tmp_path / "dense.onnx")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((60, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "t.npz", image=images, labels=own_answers(model, image=images))
    collapse(
        tmp_path / "dense.onnx",
        tmp_path / "short.onnx",
        limit=Limit(count=6),
        data=DataOptions(f"npz:{tmp_path / 't.npz'}"),
    )
    return tmp_path


def test_the_gate_lets_a_faster_network_pass_and_writes_its_report(pair):
    options = ["--data", "npz:t.npz", "--max-drop", "100", "--min-time", "0.5", "--report", "gate.html"]
    done = sample("07_ci_gate.py", "dense.onnx", "short.onnx", *options, folder=pair)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "times as fast" in done.stdout
    assert "6 of 8" in (pair / "gate.html").read_text().replace("\N{NO-BREAK SPACE}", " ")


def test_the_gate_stops_a_slower_one_and_one_that_is_wrong(pair):
    slower = sample("07_ci_gate.py", "short.onnx", "dense.onnx", "--min-time", "0.5", folder=pair)
    assert (slower.returncode, "FAILED" in slower.stdout) == (6, True), slower.stderr[-2000:]
    wrong = ["dense.onnx", "short.onnx", "--data", "npz:t.npz", "--max-drop", "-200"]
    assert sample("07_ci_gate.py", *wrong, folder=pair).returncode == 4
