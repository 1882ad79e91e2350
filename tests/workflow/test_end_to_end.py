"""From a recipe to a collapsed file: the ONNX result is what PyTorch gives with those modules replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lacoot_deploy.api import collapse
from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.options import DataOptions, TaskOptions
from lacoot_deploy.manifest import read_manifest
from lacoot_deploy.selection.planning import Limit
from lacoot_deploy.workflow.comparing import compare
from lacoot_deploy.workflow.inspecting import inspect, open_model
from lacoot_deploy.workflow.measuring import measure
from lacoot_deploy.workflow.training import export, train

pytest.importorskip("sklearn")

TRUSTED = TaskOptions(trust_labels=True)
"""The run of these tests is too short to be better than guessing on so few images for certain."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("a run")
    settings = ("epochs=4", "model_args.widths=[8, 16]", "penalty=3", "max_drop=30", "seed=3")
    return train(None, out / "run", overrides=settings)


@pytest.fixture(scope="module")
def torch_model(run):
    from lacoot_deploy.training.checkpoint import read_checkpoint
    from lacoot_deploy.training.models import build_model

    def load():
        recorded = read_checkpoint(Path(run.checkpoint))
        model = build_model(recorded.recipe, classes=10, channels=1)
        model.load_state_dict(recorded.weights)
        return model.eval()

    return load


def images(model_path):
    manifest = open_model(model_path).manifest
    part = load_images("digits", "test")
    return normalise(part.images, manifest.preprocessing)


def outputs(path, values):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": values})[0]


def test_training_leaves_a_model_with_distances_and_a_plan(run):
    manifest = open_model(run.model).manifest
    assert run.plan is not None
    assert manifest.plan == run.plan
    assert {"layer1.0", "layer2.1"} <= {block.name for block in manifest.blocks}
    distances = manifest.block("layer1.0").distances
    assert {"mswd", "paired", "cosine"} <= set(distances)
    assert distances["mswd"].floor is not None
    assert manifest.source.dataset == "digits"


def test_collapse_without_options_applies_the_recommended_plan(run, tmp_path):
    result = collapse(run.model, tmp_path / "short.onnx")
    gone = {step.block for step in run.plan.steps}
    left = {block.name for block in inspect(tmp_path / "short.onnx").blocks}
    assert left == {block.name for block in inspect(run.model).blocks} - gone
    assert result.after.macs < result.before.macs
    manifest = open_model(tmp_path / "short.onnx").manifest
    assert manifest.plan is None
    assert manifest.history[-1].plan_sha256 == run.plan.digest()
    assert set(manifest.history[-1].blocks) == gone
    assert manifest.preprocessing == open_model(run.model).manifest.preprocessing


@pytest.mark.parametrize(
    "names", [("layer1.1",), ("layer1.0", "layer1.1"), ("layer2.0",), ("layer1.2", "layer2.2")]
)
def test_collapsed_onnx_equals_pytorch_with_the_modules_replaced(run, torch_model, tmp_path, names):
    import torch

    from lacoot_deploy.training.removal import remove_block

    short = tmp_path / "short.onnx"
    collapse(run.model, short, limit=Limit(blocks=names))
    model, values = torch_model(), images(run.model)
    for name in names:
        remove_block(model, name)
    with torch.no_grad():
        expected = model(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(outputs(short, values), expected, atol=1e-5 * np.abs(expected).max())


def test_a_repaired_model_equals_pytorch_with_the_map_in_place_of_the_module(run, torch_model, tmp_path):
    import torch
    from torch import nn

    short = tmp_path / "short.onnx"
    result = collapse(
        run.model,
        short,
        limit=Limit(blocks=("layer2.1",)),
        repair="affine",
        data=DataOptions("digits", split="val", task=TRUSTED),
    )
    record = result.plan.steps[0].repair

    class Map(nn.Module):
        def forward(self, x):
            shape = (1, -1, 1, 1)
            scale, shift = (torch.from_numpy(a.unpack()).view(shape) for a in (record.scale, record.shift))
            return torch.relu(x * scale + shift)

    model, values = torch_model(), images(run.model)
    model.get_submodule("layer2")[1] = Map()
    with torch.no_grad():
        expected = model(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(outputs(short, values), expected, atol=1e-5 * np.abs(expected).max())


def test_a_written_plan_replays_to_the_same_bytes(run, tmp_path):
    data = DataOptions("digits", split="val", task=TRUSTED)
    options = {"limit": Limit(count=2), "data": data, "plan_out": tmp_path / "plan.json"}
    collapse(run.model, tmp_path / "one.onnx", **options)
    collapse(run.model, tmp_path / "two.onnx", plan_file=tmp_path / "plan.json")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_a_collapsed_model_can_be_collapsed_again_and_keeps_its_history(run, tmp_path):
    collapse(run.model, tmp_path / "one.onnx", limit=Limit(blocks=("layer1.1",)))
    collapse(tmp_path / "one.onnx", tmp_path / "two.onnx", limit=Limit(blocks=("layer1.2",)))
    collapse(run.model, tmp_path / "both.onnx", limit=Limit(blocks=("layer1.1", "layer1.2")))
    values = images(run.model)
    np.testing.assert_array_equal(
        outputs(tmp_path / "two.onnx", values), outputs(tmp_path / "both.onnx", values)
    )
    history = open_model(tmp_path / "two.onnx").manifest.history
    assert [record.blocks for record in history] == [["layer1.1"], ["layer1.2"]]


def test_export_writes_the_same_model_again(run, tmp_path):
    summary = export(run.run, tmp_path / "again.onnx")
    assert summary.export_drift < 1e-4
    values = images(run.model)
    np.testing.assert_array_equal(outputs(tmp_path / "again.onnx", values), outputs(run.model, values))


def test_measuring_in_onnx_runtime_agrees_with_training_and_leaves_the_input_alone(run, tmp_path):
    before = Path(run.model).read_bytes()
    measured = measure(run.model, tmp_path / "m.onnx", DataOptions("digits", split="val"))
    assert Path(run.model).read_bytes() == before
    recorded = {block.name: block for block in open_model(run.model).manifest.blocks}
    for block in measured.blocks:
        if block.name in recorded:
            ours = recorded[block.name].distances["paired"].value
            assert block.distance["paired"].value == pytest.approx(ours, rel=1e-3)


def test_measuring_records_latency_and_activations_until_the_network_changes(run, tmp_path):
    measured = tmp_path / "m.onnx"
    measure(run.model, measured, DataOptions("digits", split="val"))
    records = open_model(measured).manifest.blocks
    assert all(0 < record.latency.share < 1 and record.latency.ms > 0 for record in records)
    assert sum(record.latency.share for record in records) < 1
    ends = [record.statistics[end] for record in records for end in ("input", "output")]
    assert all(end.minimum <= end.mean <= end.maximum and end.std > 0 for end in ends)
    assert any(end.minimum == 0 and end.zeros > 0 for end in ends), "these blocks end in a ReLU"
    collapse(measured, tmp_path / "short.onnx")
    after = open_model(tmp_path / "short.onnx").manifest.blocks
    assert all(record.latency is None and not record.statistics for record in after)
    measure(run.model, measured, DataOptions("digits", split="val"), latency=False)
    assert all(record.latency is None for record in open_model(measured).manifest.blocks)


def test_compare_counts_what_the_labels_say(run, tmp_path):
    collapse(run.model, tmp_path / "short.onnx")
    comparison = compare(run.model, tmp_path / "short.onnx", DataOptions("digits"))
    labels, values = load_images("digits", "test").labels, images(run.model)
    right = [
        100 * np.mean(outputs(p, values).argmax(1) == labels) for p in (run.model, tmp_path / "short.onnx")
    ]
    assert comparison.accuracy.a == pytest.approx(right[0])
    assert comparison.accuracy.b == pytest.approx(right[1])
    assert comparison.samples == 359


def test_nothing_in_the_file_names_a_path_of_this_machine(run):
    raw = Path(run.model).read_bytes()
    assert b"site-packages" not in raw
    assert b"/home/" not in raw
    assert run.run.encode() not in raw
    json.loads(
        next(p.value for p in open_model(run.model).model.metadata_props if p.key == "lacoot.manifest")
    )
    assert read_manifest(open_model(run.model).model) is not None
