"""A run cut by a plan goes on in PyTorch as the very network that `collapse` writes, and gets better."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from lacoot_deploy_cli.main import run as run_command

from lacoot_deploy.api import collapse
from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.graph.surgery.cuts import Refit, Repair
from lacoot_deploy.manifest import parse_plan, read_manifest, to_json
from lacoot_deploy.selection.matching import refit_records
from lacoot_deploy.selection.planning import Limit
from lacoot_deploy.training.finish import export_checkpoint
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.run import train
from lacoot_deploy.workflow.healing import HealRunResult, heal_run
from lacoot_deploy.workflow.inspecting import open_model

DENSE = Recipe(
    model_args={"widths": [8, 16], "blocks": [3, 3]},
    epochs=8,
    batch_size=64,
    penalty=0.0,
    measure_samples=64,
    device="cpu",
)
CUTS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(DENSE, tmp_path_factory.mktemp("runs") / "dense").folder


def plan_of(run: Path, folder: Path, repair: str = "linear", blocks: tuple[str, ...] = CUTS) -> Path:
    collapse(
        run / "model.onnx",
        folder / "cut.onnx",
        limit=Limit(blocks=blocks),
        data=DataOptions("digits"),
        repair=repair,
        plan_out=folder / "plan.json",
    )
    return folder / "plan.json"


@pytest.fixture(scope="module")
def healed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[HealRunResult, Path]:
    folder = tmp_path_factory.mktemp("healed")
    return heal_run(run, plan_of(run, folder), folder / "run"), folder


def logits_of(model: Path) -> tuple[np.ndarray, np.ndarray]:
    manifest = read_manifest(load_model(model))
    assert manifest is not None
    assert manifest.preprocessing is not None
    val = load_images("digits", "val")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": normalise(val.images, manifest.preprocessing)})[0], val.labels


def accuracy_of(model: Path) -> float:
    logits, labels = logits_of(model)
    return 100 * float((logits.argmax(1) == labels).mean())


def test_the_healed_network_beats_the_cut_one(healed: tuple[HealRunResult, Path], run: Path) -> None:
    summary, folder = healed
    assert summary.cut_val_accuracy == pytest.approx(accuracy_of(folder / "cut.onnx"))
    assert summary.dense_val_accuracy == pytest.approx(accuracy_of(run / "model.onnx"))
    assert summary.val_accuracy == pytest.approx(accuracy_of(folder / "run" / "model.onnx"))
    assert summary.val_accuracy > summary.cut_val_accuracy + 3
    assert summary.epochs == 3


def test_healing_costs_nothing_in_the_file(healed: tuple[HealRunResult, Path]) -> None:
    _, folder = healed
    cut, after = (load_model(folder / name) for name in ("cut.onnx", "run/model.onnx"))
    assert model_costs(after).macs == model_costs(cut).macs
    assert sorted(node.op_type for node in after.graph.node) == sorted(
        node.op_type for node in cut.graph.node
    )


def test_the_file_tells_its_history(healed: tuple[HealRunResult, Path], run: Path, tmp_path: Path) -> None:
    summary, folder = healed
    manifest = read_manifest(load_model(folder / "run" / "model.onnx"))
    assert manifest is not None
    (record,) = manifest.history
    assert record.plan_sha256 == parse_plan((folder / "plan.json").read_text()).digest()
    assert sorted(record.blocks) == sorted(CUTS)
    assert set(record.repairs.values()) == {"linear"}
    healed_accuracy = (record.accuracy_before, record.accuracy_after, record.accuracy_healed)
    assert healed_accuracy == (summary.dense_val_accuracy, summary.cut_val_accuracy, summary.val_accuracy)
    assert manifest.source is not None
    assert manifest.source.recipe is not None
    assert manifest.source.recipe["teacher"] == run.name, "no folder of this machine"
    assert [block.name for block in manifest.blocks] == ["layer1.2", "layer2.2"]
    export_checkpoint(folder / "run", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "run" / "model.onnx").read_bytes()


@pytest.mark.parametrize("repair", ["none", "affine"])
def test_every_repair_is_carried_over_exactly(repair: str, run: Path, tmp_path: Path) -> None:
    # `heal` itself refuses to begin where the cut network differs from the collapsed file by more than 1e-5.
    plan = plan_of(run, tmp_path, repair)
    summary = heal_run(run, plan, tmp_path / "run", overrides=("epochs=1", "lr=1e-9"))
    assert summary.cut_val_accuracy == pytest.approx(accuracy_of(tmp_path / "cut.onnx"))


@pytest.mark.parametrize("kind", ["affine", "linear"])
def test_refitted_blocks_are_carried_over_exactly(kind: str, run: Path, tmp_path: Path) -> None:
    plan = parse_plan(plan_of(run, tmp_path, "affine", ("layer1.0", "layer2.0")).read_text())
    recorded = {block.name: block for block in open_model(run / "model.onnx").blocks}
    generator = np.random.default_rng(0)
    plan.refits = []
    for name, width in (("layer1.2", 8), ("layer2.1", 16)):
        repair = Repair(
            axis=1,
            shift=generator.normal(size=width).astype(np.float32),
            scale=generator.normal(size=width).astype(np.float32) if kind == "affine" else None,
            matrix=generator.normal(size=(width, width)).astype(np.float32) if kind == "linear" else None,
        )
        plan.refits += refit_records([Refit(recorded[name], repair)])
    (tmp_path / "refits.json").write_text(to_json(plan))
    # `heal` itself compares with the collapsed file, refits and all.
    summary = heal_run(run, tmp_path / "refits.json", tmp_path / "run", overrides=("epochs=1",))
    manifest = read_manifest(load_model(summary.model))
    assert manifest is not None
    assert manifest.history[0].refits == ["layer1.2", "layer2.1"]
    export_checkpoint(tmp_path / "run", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == Path(summary.model).read_bytes()


def test_an_interrupted_healing_goes_on(
    healed: tuple[HealRunResult, Path], run: Path, tmp_path: Path
) -> None:
    from lacoot_deploy.training.run import Progress

    class Interrupt(Progress):
        def step(self, epoch: int, step: int, steps: int) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    summary, folder = healed
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        heal_run(run, folder / "plan.json", tmp_path / "run", progress=Interrupt())
    resumed = heal_run(run, folder / "plan.json", tmp_path / "run", resume=True)
    assert resumed.val_accuracy == summary.val_accuracy
    ours, theirs = (logits_of(path / "run" / "model.onnx")[0] for path in (tmp_path, folder))
    np.testing.assert_array_equal(ours, theirs)


def test_what_the_plan_decides_cannot_be_set(
    healed: tuple[HealRunResult, Path], run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="model_args is decided"):
        heal_run(run, healed[1] / "plan.json", tmp_path, overrides=("model_args.blocks=[1, 1]",))
    with pytest.raises(InputError, match="does not exist"):
        heal_run(tmp_path / "none", healed[1] / "plan.json", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_of_another_network_is_refused(run: Path, tmp_path: Path) -> None:
    plan = json.loads(plan_of(run, tmp_path, "none").read_text())
    plan["steps"][0] |= {"block": "layer9.0", "input": "a", "output": "b"}
    (tmp_path / "other.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="layer9"):
        heal_run(run, tmp_path / "other.json", tmp_path / "run")


def test_the_command_heals(
    healed: tuple[HealRunResult, Path], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = str(healed[1] / "plan.json")
    arguments = ["train", str(run), "--heal", plan, "-o", str(tmp_path / "run"), "--set", "epochs=1"]
    assert run_command([*arguments, "--json", "-q"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["blocks"]) == sorted(CUTS)
    assert run_command(["train", "--heal", plan, "-o", str(tmp_path / "x")]) == 2
    assert "run folder" in capsys.readouterr().err
