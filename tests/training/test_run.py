from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lacoot_deploy.data import ImageSet, load_images, normalise
from lacoot_deploy.errors import InputError, UsageError, VerificationError
from lacoot_deploy.files import sha256_file
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.manifest import MANIFEST_KEY, Manifest, PreprocessingRecord
from lacoot_deploy.selection.criteria import CRITERIA
from lacoot_deploy.training import session as session_module
from lacoot_deploy.training.blocks import TrackedBlock
from lacoot_deploy.training.checkpoint import Checkpoint, read_checkpoint
from lacoot_deploy.training.data_pipeline import DeviceImages
from lacoot_deploy.training.finish import export_checkpoint
from lacoot_deploy.training.loop import EpochReport
from lacoot_deploy.training.measure import measure_blocks
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run import Progress, Trained, train

SMALL = Recipe(
    model_args={"widths": [8, 16], "blocks": [2, 2]},
    epochs=2,
    batch_size=128,
    augment=("crop",),
    measure_samples=64,
    device="cpu",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(SMALL, tmp_path_factory.mktemp("runs") / "small")


def changed(**settings: object) -> Recipe:
    return Recipe.model_validate(SMALL.model_dump() | settings)


class InterruptAt(Progress):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def step(self, epoch: int, step: int, steps: int) -> None:
        if epoch == self.at and step == steps // 2:
            raise KeyboardInterrupt


class Record(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.reports: list[EpochReport] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, report: EpochReport) -> None:
        self.reports.append(report)


def test_a_run_leaves_metrics_checkpoint_and_model(finished: Trained) -> None:
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert lines[1]["remaining"] == 0
    assert all(line["penalty"] > 0 for line in lines)
    assert Recipe.model_validate_json((finished.folder / "recipe.json").read_text()) == SMALL
    assert not list(finished.folder.glob(".*"))


def test_the_manifest_travels_in_the_model(finished: Trained) -> None:
    session = onnxruntime.InferenceSession(str(finished.model), providers=["CPUExecutionProvider"])
    manifest = Manifest.model_validate_json(session.get_modelmeta().custom_metadata_map[MANIFEST_KEY])
    assert [block.name for block in manifest.blocks] == ["layer1.0", "layer1.1", "layer2.1"]
    for block in manifest.blocks:
        assert set(block.distances) == {"mswd", "mswd-ascent", "paired", "cosine"}
        sampled = block.distances["mswd"]
        assert sampled.floor is not None
        assert sampled.floor > 0
        assert (sampled.estimator, sampled.samples, sampled.split) == ("sampled", 64, "val")
        assert block.distances["mswd-ascent"].value >= sampled.value
    assert manifest.source is not None
    assert manifest.source.checkpoint_sha256 == sha256_file(finished.checkpoint)
    assert manifest.source.dataset == "digits"
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.size == (8, 8)
    assert manifest.plan is None


def test_every_criterion_that_is_a_distance_finds_it_in_the_manifest(finished: Trained) -> None:
    measured = {rule.distance for rule in CRITERIA.values()} - {None}
    for block in finished.manifest.blocks:
        assert measured == set(block.distances)


def test_recorded_values_are_values_of_the_exported_graph(finished: Trained) -> None:
    model = onnx.load(finished.model)
    produced = {name for node in model.graph.node for name in node.output}
    for block in finished.manifest.blocks:
        assert {block.input, block.output} <= produced


def test_the_model_takes_any_batch_and_agrees_with_the_reported_accuracy(finished: Trained) -> None:
    session = onnxruntime.InferenceSession(str(finished.model), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input"]
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert [value.name for value in session.get_outputs()] == ["logits"]
    val = load_images("digits", "val")
    assert finished.manifest.preprocessing is not None
    inputs = normalise(val.images, finished.manifest.preprocessing)
    logits = np.concatenate([session.run(None, {"input": part})[0] for part in (inputs[:1], inputs[1:])])
    accuracy = 100 * float((logits.argmax(1) == val.labels).mean())
    assert accuracy == pytest.approx(finished.epochs[-1].val_accuracy)


def test_nothing_of_this_machine_is_in_the_model(finished: Trained) -> None:
    data = finished.model.read_bytes()
    for trace in (
        b".py",
        b"site-packages",
        str(Path.home()).encode(),
        str(finished.folder).encode(),
        b"stack_trace",
    ):
        assert trace not in data
    model = onnx.load(finished.model)
    assert any(
        e.key == "pkg.torch.onnx.name_scopes" for node in model.graph.node for e in node.metadata_props
    )
    assert model.producer_name == "lacoot-deploy"


def test_exporting_the_checkpoint_gives_the_same_file(finished: Trained, tmp_path: Path) -> None:
    target = tmp_path / "again.onnx"
    manifest, drift = export_checkpoint(finished.folder, target)
    assert target.read_bytes() == finished.model.read_bytes()
    assert manifest == finished.manifest
    assert drift.relative < 1e-4


def test_an_interrupted_run_ends_with_the_same_weights(finished: Trained, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        train(SMALL, out, progress=InterruptAt(2))
    assert not (out / "model.onnx").exists()
    record = Record()
    resumed = train(SMALL, out, resume=True, progress=record)
    assert [report.epoch for report in record.reports] == [2]
    assert "Resumed after epoch 1 of 2." in record.notes
    ours, theirs = read_checkpoint(resumed.checkpoint), read_checkpoint(finished.checkpoint)
    assert all(torch.equal(ours.weights[name], value) for name, value in theirs.weights.items())
    assert str(ours.optimizer) == str(theirs.optimizer)
    assert [r.loss for r in resumed.epochs] == [r.loss for r in finished.epochs]


@pytest.mark.slow
def test_a_run_interrupted_in_its_first_epoch_can_be_resumed(finished: Trained, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path, progress=InterruptAt(1))
    resumed = train(SMALL, tmp_path, resume=True)
    assert [r.loss for r in resumed.epochs] == [r.loss for r in finished.epochs]


def test_a_checkpoint_that_could_not_be_written_loses_one_epoch_only(
    finished: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = session_module.save_checkpoint

    def failing(target: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.header.epoch == 2:
            raise KeyboardInterrupt
        real(target, checkpoint)

    monkeypatch.setattr(session_module, "save_checkpoint", failing)
    with pytest.raises(KeyboardInterrupt, match="keeps 1 of 2 epochs"):
        train(SMALL, tmp_path)
    monkeypatch.undo()
    resumed = train(SMALL, tmp_path, resume=True)
    assert [r.loss for r in resumed.epochs] == [r.loss for r in finished.epochs]


def test_a_folder_with_a_run_is_not_overwritten(finished: Trained) -> None:
    before = sha256_file(finished.checkpoint)
    with pytest.raises(UsageError, match="holds a run already; give --resume"):
        train(SMALL, finished.folder)
    assert sha256_file(finished.checkpoint) == before


def test_another_recipe_cannot_go_on_with_a_run(finished: Trained) -> None:
    with pytest.raises(UsageError, match=r"begun with lr = 0\.1, not 0\.05"):
        train(changed(lr=0.05), finished.folder, resume=True)


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        train(SMALL, tmp_path, resume=True)


def test_divergence_is_said(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="diverged in epoch 1"):
        train(changed(lr=1e9, warmup=0), tmp_path / "run")


def test_a_model_without_removable_blocks_cannot_be_penalised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="penalty=0"):
        train(changed(without=("layer1.0", "layer1.1", "layer2.1")), tmp_path / "run")
    with pytest.raises(UsageError, match=r"no block 'layer9'.*layer1\.0"):
        train(changed(penalty_blocks=("layer9",)), tmp_path / "other")
    assert not list(tmp_path.iterdir()), "what could not begin leaves nothing behind"


def test_the_penalty_brings_outputs_closer_to_inputs(tmp_path: Path) -> None:
    # Long enough for the running statistics of the norms, with which distances are measured, to settle.
    plain = train(changed(epochs=8, penalty=0.0), tmp_path / "plain")
    penalised = train(changed(epochs=8, penalty=5.0), tmp_path / "penalised")
    assert plain.epochs[-1].penalty is None
    for with_penalty, without in zip(penalised.manifest.blocks, plain.manifest.blocks, strict=True):
        assert with_penalty.distances["mswd"].value < 0.5 * without.distances["mswd"].value


NORM_FREE = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Dropout(DROPOUT))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.branch(x))

def build(*, classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), Block(), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )
"""


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network whose samples do not see each other, so that dividing a batch changes nothing."""
    for name, dropout in (("norm_free_net", 0.0), ("dropout_net", 0.2)):
        (tmp_path / f"{name}.py").write_text(NORM_FREE.replace("DROPOUT", str(dropout)))
    monkeypatch.syspath_prepend(tmp_path)
    return "python:norm_free_net:build"


def weights_of(result: Trained) -> dict[str, torch.Tensor]:
    return read_checkpoint(result.checkpoint).weights


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in b)


def test_accumulating_parts_is_the_whole_batch(own_network: str, tmp_path: Path) -> None:
    settings = {"model": own_network, "model_args": {}, "epochs": 1, "penalty": 0.0, "batch_size": 100}
    whole = train(changed(**settings), tmp_path / "whole")
    parts = train(changed(**settings, accumulate=4), tmp_path / "parts")
    assert farthest(weights_of(parts), weights_of(whole)) < 1e-5


def test_dropout_is_resumed_too(own_network: str, tmp_path: Path) -> None:
    recipe = changed(model="python:dropout_net:build", model_args={}, penalty=0.5)
    straight = train(recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", progress=InterruptAt(2))
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert farthest(weights_of(resumed), weights_of(straight)) == 0


def test_frozen_parts_stay_and_the_rest_learns_from_given_weights(finished: Trained, tmp_path: Path) -> None:
    start = weights_of(finished)
    recipe = changed(weights=str(finished.checkpoint), freeze=("stem", "layer1"), epochs=1, lr=0.01)
    result = train(recipe, tmp_path / "tuned")
    after = weights_of(result)
    for name, value in after.items():
        if name.startswith(("stem", "layer1")):
            assert torch.equal(value, start[name]), name
    assert not torch.equal(after["head.weight"], start["head.weight"])
    assert result.epochs[0].loss < finished.epochs[0].loss
    assert result.manifest.source is not None
    assert result.manifest.source.recipe is not None
    assert result.manifest.source.recipe["weights"] == "checkpoint.safetensors"


def test_a_teacher_is_learned_from_and_leaves_no_folder_behind(finished: Trained, tmp_path: Path) -> None:
    recipe = changed(
        teacher=str(finished.folder), distill=1.0, weights=str(finished.checkpoint), epochs=1, lr=1e-4
    )
    result = train(recipe, tmp_path / "student")
    # Beginning as its teacher, with nothing but the teacher to learn from, it stays where it is.
    learned, start = weights_of(result), weights_of(finished)
    assert torch.allclose(learned["head.weight"], start["head.weight"], atol=0.02)
    assert result.epochs[0].val_accuracy == pytest.approx(finished.epochs[-1].val_accuracy, abs=5)
    assert result.manifest.source is not None
    assert result.manifest.source.recipe is not None
    assert result.manifest.source.recipe["teacher"] == finished.folder.name


def test_a_teacher_of_other_inputs_is_refused(finished: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differently normalised"):
        train(changed(teacher=str(finished.folder), val_fraction=0.3), tmp_path / "student")


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"channels_last": False, "optimizer": "adamw", "lr": 3e-3},
        {"accumulate": 2, "clip": 1.0, "label_smoothing": 0.1, "estimator": "ascent", "projections": 10},
    ],
    ids=["bf16", "adamw", "ascent"],
)
def test_every_way_of_training_learns(settings: dict[str, object], tmp_path: Path) -> None:
    result = train(changed(**settings), tmp_path / "run")
    assert result.epochs[1].loss < result.epochs[0].loss
    assert result.epochs[1].penalty is not None


@pytest.mark.slow
def test_a_compiled_model_trains_like_an_eager_one(finished: Trained, tmp_path: Path) -> None:
    compiled = train(changed(compile=True), tmp_path / "run")
    assert compiled.epochs[0].loss == pytest.approx(finished.epochs[0].loss, rel=0.02)
    assert compiled.epochs[0].penalty == pytest.approx(finished.epochs[0].penalty, rel=0.05)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{'logits': y}", "gives a dict, not one tensor"),
        ("y[:, :3]", r"gives \[4, 3\] for 4 images of 10 classes"),
    ],
)
def test_a_network_that_answers_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, message: str
) -> None:
    (tmp_path / f"net{len(answer)}.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def forward(self, x):\n"
        f"        y = super().forward(x)\n        return {answer}\n"
        "def build(*, classes, channels):\n    return Net(nn.Flatten(), nn.Linear(64 * channels, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = changed(model=f"python:net{len(answer)}:build", model_args={}, penalty=0.0)
    with pytest.raises(InputError, match=message):
        train(recipe, tmp_path / "run")


def test_distances_are_measured_on_images_of_every_class() -> None:
    class Label(torch.nn.Module):
        """Gives the first pixel back, which here is the label."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend((x[:, 0, 0, 0] * 255).round().int().tolist())
            return x

    seen: list[int] = []
    labels = np.repeat(np.arange(10), 20)
    pixels = np.broadcast_to(labels[:, None, None, None], (200, 1, 2, 2)).astype(np.uint8)
    record = PreprocessingRecord(mean=[0.0], std=[1.0], size=(2, 2), channels=1)
    source = DeviceImages(ImageSet(pixels, labels, ()), record, device=torch.device("cpu"))
    model = torch.nn.Sequential(Label())
    block = Block("0", "a", "b", (), (Form.BYPASS,), (None, 1, 2, 2), (None, 1, 2, 2), "float32", (), 0, 0)
    (measured,) = measure_blocks(model, [TrackedBlock(block, model[0])], source, changed(measure_samples=60))
    assert len(seen) == 60
    assert set(seen) == set(range(10))
    assert measured.distances["mswd"].value == 0
    assert measured.distances["paired"].value == 0
