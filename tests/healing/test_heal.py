"""A cut file is taught what the dense one answers; it is never made worse, and what stops it leaves a whole file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from builders import GraphBuilder, own_answers, residual_cnn, residual_mlp
from lacoot_deploy_cli.main import run as run_command

from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError, UsageError, VerificationError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.healing import course, equality
from lacoot_deploy.healing.options import HealOptions
from lacoot_deploy.healing.schedule import Average, Clip, one_cycle, rates
from lacoot_deploy.healing.supply import Supply, split_held_back, vary
from lacoot_deploy.healing.verdict import improves
from lacoot_deploy.manifest import read_manifest
from lacoot_deploy.tasks import Quality
from lacoot_deploy.workflow.healing_files import heal

SHORT = HealOptions(steps=60, minutes=None, batch=32, rate=1e-2, device="cpu")


def write_pair(folder, model, gone=(1,)):
    blocks = find_blocks(model)
    cut = collapse_blocks(model, [Cut(blocks[i], Form.BYPASS) for i in gone])
    for name, one in (("dense", model), ("cut", cut)):
        (folder / f"{name}.onnx").write_bytes(one.SerializeToString())
    rng = np.random.default_rng(3)
    shape = [d.dim_value or 160 for d in model.graph.input[0].type.tensor_type.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    np.savez(folder / "data.npz", **{model.graph.input[0].name: rng.normal(size=shape).astype(kind)})
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"), residual_mlp(4)[0])


def healed(pair, out, options=SHORT, **more):
    data = f"npz:{pair / 'data.npz'}"
    return heal(pair / "dense.onnx", pair / "cut.onnx", out, data=data, options=options, **more)


def test_healing_brings_the_cut_file_nearer_and_changes_nothing_else(pair, tmp_path):
    result = healed(pair, tmp_path / "out.onnx")
    record = result.record
    assert result.healed
    assert result.stopped == "steps"
    assert record.after.drift < 0.7 * record.before.drift
    assert record.gain_ci95[0] <= record.gain <= record.gain_ci95[1]
    assert any("few" in note for note in result.notes)
    cut, out = load_model(pair / "cut.onnx"), load_model(tmp_path / "out.onnx")
    assert read_manifest(out).healed[-1].steps == 60
    assert not (tmp_path / "out.onnx.unfinished").exists()
    changed = [a.name for a, b in zip(cut.graph.initializer, out.graph.initializer, strict=True) if a != b]
    assert len(changed) == record.weights
    assert "head.w" not in changed
    del out.metadata_props[:], cut.graph.initializer[:], out.graph.initializer[:]
    assert cut == out


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (lambda: residual_cnn(3)[0], {"augment": ("flip", "crop")}),
        (lambda: residual_mlp(4, dtype=np.float16)[0], {}),
        (lambda: residual_mlp(6)[0], {"train": "near"}),
        (
            lambda: residual_mlp(4)[0],
            {"bf16": True, "head": True, "answers": 1.0, "ends": 0.0, "features": 0.0},
        ),
        (lambda: residual_mlp(4)[0], {"match": ("layer3.sum",)}),
    ],
)
def test_ways_of_healing(network, options, tmp_path):
    write_pair(tmp_path, network(), gone=(1,) if options.get("train") is None else (4,))
    choices = {"steps": 40, "minutes": None, "batch": 32, "rate": 1e-2, "device": "cpu", **options}
    result = healed(tmp_path, tmp_path / "out.onnx", HealOptions(**choices))
    assert result.record.after.drift < result.record.before.drift
    if options.get("train") == "near":
        assert result.record.weights == 4


def test_the_frozen_part_is_run_by_onnx_runtime_alone(tmp_path):
    from lacoot_deploy.healing.lesson import prepare
    from lacoot_deploy.healing.network import Network

    write_pair(tmp_path, residual_mlp(6)[0], gone=(4,))
    dense, cut = (Network.read(tmp_path / f"{name}.onnx") for name in ("dense", "cut"))
    with np.load(tmp_path / "data.npz") as arrays:
        samples = Samples(dict(arrays))
    lesson = prepare(dense, cut, samples, HealOptions(train="near", device="cpu"))
    assert lesson.prefix is not None
    assert {step.node.op for step in lesson.distance.network._program.steps} <= {"MatMul", "Relu", "Add"}
    assert len(lesson.distance.network._program.steps) < len(cut.graph.nodes) // 2


def test_a_network_that_gets_no_better_is_left_as_it_was(pair, tmp_path):
    wild = HealOptions(steps=3, minutes=None, rate=50.0, device="cpu")
    result = healed(pair, tmp_path / "out.onnx", wild)
    assert not result.healed
    assert (tmp_path / "out.onnx").read_bytes() == (pair / "cut.onnx").read_bytes()
    assert any("no better" in note for note in result.notes)
    assert result.record.gain == 0


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_best(pair, tmp_path, monkeypatch):
    lengths = iter([1.0] * 40 + [float("nan")])
    monkeypatch.setattr(course.Clip, "__call__", lambda self, weights: next(lengths))
    result = healed(pair, tmp_path / "out.onnx")
    assert result.stopped == "not finite"
    assert result.record.steps == 40
    assert any("step 41" in note for note in result.notes)
    assert (tmp_path / "out.onnx").exists()


def test_an_interrupted_healing_keeps_the_best_and_goes_on(pair, tmp_path, monkeypatch):
    whole = healed(pair, tmp_path / "whole.onnx").record
    step, seen = course.Course._step, iter(range(100))

    def interrupted(self, supply, done):
        if next(seen) == 35:
            raise KeyboardInterrupt
        return step(self, supply, done)

    monkeypatch.setattr(course.Course, "_step", interrupted)
    first = healed(pair, tmp_path / "out.onnx")
    assert first.stopped == "interrupted"
    assert first.healed
    assert (tmp_path / "out.onnx.unfinished").exists()
    with pytest.raises(InputError, match="other options"):
        healed(pair, tmp_path / "out.onnx", HealOptions(steps=61, device="cpu"), resume=True)
    monkeypatch.setattr(course.Course, "_step", step)
    second = healed(pair, tmp_path / "out.onnx", resume=True)
    assert second.record.steps == 60
    assert second.record.after.drift == pytest.approx(whole.after.drift, rel=0.2)
    assert not (tmp_path / "out.onnx.unfinished").exists()


def test_time_ends_it(pair, tmp_path):
    result = healed(pair, tmp_path / "out.onnx", HealOptions(steps=10**6, minutes=0.01, device="cpu"))
    assert result.stopped == "minutes"
    assert any("time limit" in note for note in result.notes)


def test_a_source_without_end(pair, tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text(
        "import numpy as np\n"
        "def more():\n"
        "    rng = np.random.default_rng(0)\n"
        "    while True:\n"
        "        yield {'x': rng.normal(size=(50, 8)).astype(np.float32)}\n"
    )
    monkeypatch.chdir(tmp_path)
    result = heal(
        pair / "dense.onnx", pair / "cut.onnx", "out.onnx", data="python:endless:more", options=SHORT
    )
    assert result.record.after.drift < result.record.before.drift
    assert result.record.samples + result.record.held_back == 1000


def test_labels_join_in(pair, tmp_path):
    with np.load(pair / "data.npz") as arrays:
        x = arrays["x"]
    by_chance = np.random.default_rng(0).integers(0, 3, len(x))
    np.savez(tmp_path / "data.npz", x=x, labels=by_chance)
    options = HealOptions(steps=40, batch=32, rate=1e-2, labels=1.0, device="cpu")
    with pytest.raises(InputError, match="do not seem to belong to the model"):
        heal(pair / "dense.onnx", pair / "cut.onnx", data=f"npz:{tmp_path / 'data.npz'}", options=options)
    told = own_answers(onnx.load(pair / "dense.onnx"), x=x)
    np.savez(tmp_path / "data.npz", x=x, labels=told)
    result = heal(
        pair / "dense.onnx",
        pair / "cut.onnx",
        tmp_path / "o.onnx",
        data=f"npz:{tmp_path / 'data.npz'}",
        options=options,
    )
    assert "accuracy" in result.record.measure
    assert result.notes[0].startswith("Dense network: accuracy 100.00 %")


def test_what_cannot_be_healed_is_refused(pair, tmp_path):
    data = f"npz:{pair / 'data.npz'}"
    g = GraphBuilder()
    y = g.op("Tanh", g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, 3), output="o"), output="logits")
    (tmp_path / "other.onnx").write_bytes(g.model({y: ["N", 3]}).SerializeToString())
    with pytest.raises(InputError, match=r"no cut of .*relative RMS\). Use --force"):
        heal(pair / "dense.onnx", tmp_path / "other.onnx", data=data, options=SHORT)
    forced = heal(
        pair / "dense.onnx",
        tmp_path / "other.onnx",
        data=data,
        options=HealOptions(steps=5, force=True, device="cpu"),
    )
    assert any("outputs alone" in note for note in forced.notes)
    g = GraphBuilder()
    y = g.op("Gemm", g.input("x", ["N", 8]), g.normal(8, 3), output="else")
    (tmp_path / "named.onnx").write_bytes(g.model({y: ["N", 3]}).SerializeToString())
    with pytest.raises(InputError, match=r"their outputs differ \(else; logits\)"):
        heal(pair / "dense.onnx", tmp_path / "named.onnx", data=data, options=SHORT)
    g = GraphBuilder()
    y = g.op("Relu", g.input("x", ["N", 8]), output="logits")
    (tmp_path / "bare.onnx").write_bytes(g.model({y: ["N", 8]}).SerializeToString())
    with pytest.raises(InputError, match="no weight that can be trained"):
        heal(pair / "dense.onnx", tmp_path / "bare.onnx", data=data, options=SHORT)


def test_samples_that_are_too_few_or_not_finite_are_refused(pair, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    np.savez(tmp_path / "few.npz", x=x[:20])
    with pytest.raises(InputError, match=r"at least 32 samples.*there are 20"):
        heal(pair / "dense.onnx", pair / "cut.onnx", tmp_path / "o.onnx", data=f"npz:{tmp_path / 'few.npz'}")
    x[7, 2] = np.nan
    np.savez(tmp_path / "nan.npz", x=x)
    with pytest.raises(InputError, match=r"sample 7 of input x holds NaN"):
        heal(pair / "dense.onnx", pair / "cut.onnx", tmp_path / "o.onnx", data=f"npz:{tmp_path / 'nan.npz'}")


def test_nothing_is_trained_where_pytorch_gives_something_else(pair, tmp_path, monkeypatch):
    from lacoot_deploy.healing.operators.base import TABLE, Operator

    monkeypatch.setitem(TABLE, ("", "Relu"), Operator(lambda call: torch.tanh))
    with pytest.raises(VerificationError, match=r"It begins at Relu \(Relu_stem_relu\). Nothing was trained"):
        healed(pair, tmp_path / "out.onnx")
    assert equality.difference(np.ones(2), np.ones(3)) == float("inf")


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"minutes": 0}, {"held_back": 1}, {"rate": 0}, {"augment": ("turn",)}, {"ends": -1}],
)
def test_options_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        HealOptions(**wrong)


def test_the_command(pair, tmp_path, capsys):
    words = ["heal", str(pair / "dense.onnx"), str(pair / "cut.onnx"), "--data", f"npz:{pair / 'data.npz'}"]
    out = tmp_path / "out.onnx"
    assert (
        run_command([*words, "-o", str(out), "--steps", "30", "--rate", "0.01", "--device", "cpu", "--json"])
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert document["record"]["steps"] == 30
    assert run_command([*words, "-o", str(out), "--steps", "5", "--device", "cpu"]) == 0
    assert "samples held back" in capsys.readouterr().out.replace("\n  ", " ")
    assert run_command([*words, "-o", str(pair / "cut.onnx")]) == 3


def quality(agreement, drift, samples=100):
    return Quality(samples, drift, 0.0, agreement, None, None, "accuracy")


def test_a_state_must_be_better_in_one_and_worse_in_neither():
    start = quality(90, 0.5)
    assert improves(quality(92, 0.4), start)
    assert improves(quality(89, 0.4), start)
    assert not improves(quality(80, 0.4), start)
    assert not improves(quality(95, 0.6), start)
    assert not improves(quality(90, 0.5), start)
    assert not improves(quality(95, float("nan")), start)


def test_the_course_rises_and_falls():
    shares = [one_cycle(i / 20) for i in range(21)]
    assert max(shares) == pytest.approx(1.0)
    assert shares[0] < 0.1
    assert shares[-1] < 1e-3


def test_uneven_tensors_get_rates_of_their_own():
    def tensor(size):
        return torch.nn.Parameter(size * torch.ones(2, 2))

    even = {"a": tensor(1.0), "b": tensor(0.1)}
    assert set(rates(even, 3e-3).values()) == {3e-3}
    found = rates(even | {"c": tensor(0.001)}, 3e-3)
    assert found["a"] == pytest.approx(0.003)
    assert found["b"] == pytest.approx(0.0003)


def test_the_average_follows_and_gradients_are_held_back():
    weight = torch.nn.Parameter(torch.zeros(3))
    average, clip = Average([weight], span=4), Clip()
    for _ in range(50):
        with torch.no_grad():
            weight.fill_(1.0)
        average.update()
    assert torch.allclose(average.values[0], torch.ones(3), atol=1e-3)
    weight.grad = torch.ones(3)
    clip([weight])
    weight.grad = 100 * torch.ones(3)
    clip([weight])
    assert float(weight.grad.norm()) < 10


def test_batches_go_through_all_samples_and_images_are_varied_one_by_one():
    samples = Samples({"x": np.arange(10, dtype=np.float32)[:, None]})
    supply = Supply(samples, batch=4, seed=0)
    seen = np.concatenate([supply.draw().where for _ in range(5)])
    assert np.bincount(seen).tolist() == [2] * 10
    images = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
    varied = vary(images, ("flip", "crop"), np.random.default_rng(0))
    assert varied.shape == images.shape
    assert not np.array_equal(varied, images)
    with pytest.raises(InputError, match="for images"):
        Supply(samples, batch=4, seed=0, augment=("flip",))
    train, held = split_held_back(Samples({"x": np.zeros((100, 1))}), 0.2, 0)
    assert (len(train), len(held)) == (80, 20)


@pytest.mark.slow
def test_two_processes_heal_together(pair, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = ["heal", str(pair / "dense.onnx"), str(pair / "cut.onnx"), "--data", f"npz:{pair / 'data.npz'}"]
    words += ["-o", str(tmp_path / "out.onnx"), "--steps", "40", "--device", "cpu", "--json"]
    started = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        ways = os.environ | own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "lacoot_deploy", *words]
        started.append(subprocess.Popen(command, env=ways, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said[1] == ""
    record = json.loads(said[0])["record"]
    assert record["after"]["drift"] < record["before"]["drift"]
    assert read_manifest(load_model(tmp_path / "out.onnx")).healed
