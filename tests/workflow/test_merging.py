"""`train` with a method of rounds: what became linear is merged, checked against PyTorch and noted in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lacoot_deploy_cli.main import run

from lacoot_deploy.api import collapse
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import UsageError, VerificationError
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.io import fingerprint, load_model
from lacoot_deploy.manifest import read_manifest
from lacoot_deploy.selection.planning import Limit
from lacoot_deploy.training import export as export_module
from lacoot_deploy.training.checkpoint import read_checkpoint
from lacoot_deploy.training.finish import restore_run
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.workflow.healing import heal_run
from lacoot_deploy.workflow.training import TrainResult, train

RECIPE = Recipe(
    method="easier",
    model="mlp",
    model_args={"pixels": 64, "hidden": [64, 48, 64]},
    limit=400,
    val_fraction=0.2,
    epochs=2,
    round_epochs=1,
    rounds=3,
    max_drop=100,
    warmup=0,
    measure_samples=32,
    device="cpu",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(RECIPE, tmp_path_factory.mktemp("runs") / "mlp")


def logits(path: str | Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def test_the_file_is_smaller_and_the_same(finished: TrainResult) -> None:
    merge = finished.merge
    assert merge is not None
    assert len(merge.linear) == 3
    model, unmerged = onnx.load(finished.model), onnx.load(merge.unmerged)
    # Four linear layers in a row are one: 64 -> 10.
    assert [n.op_type for n in unmerged.graph.node].count("Gemm") == 4
    assert [n.op_type for n in model.graph.node].count("Gemm") == 1
    assert merge.after.parameters == model_costs(model).parameters == 64 * 10 + 10
    assert merge.before.parameters == sum(t.numel() for t in restored(finished)[0].parameters())
    assert len(merge.merged) == 3
    network, example = restored(finished)
    with torch.no_grad():
        expected = network(example).numpy()
    for path in (finished.model, merge.unmerged):
        assert logits(path, example.numpy()) == pytest.approx(expected, abs=1e-5)


def restored(finished: TrainResult) -> tuple[torch.nn.Module, torch.Tensor]:
    return restore_run(read_checkpoint(Path(finished.checkpoint)))


def test_history_and_rounds_travel_in_the_file(finished: TrainResult) -> None:
    manifest = read_manifest(load_model(finished.model))
    assert manifest is not None
    (record,) = manifest.history
    assert finished.merge is not None
    assert record.linearised == finished.merge.linear
    assert record.merged == finished.merge.merged
    assert record.model_sha256_before == fingerprint(load_model(finished.merge.unmerged))
    assert record.accuracy_before == finished.dense_val_accuracy
    assert record.accuracy_after == finished.val_accuracy
    assert manifest.source is not None
    assert [r.round for r in manifest.source.rounds] == [0, 1, 2, 3]
    assert manifest.source.stopped == "3 rounds are done"


def test_a_merge_that_differs_leaves_the_unmerged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export_module.check_against
    calls = []

    def strict(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) > 1:
            raise VerificationError("The exported model differs.")
        return real(*args, **options)

    monkeypatch.setattr(export_module, "check_against", strict)
    with pytest.raises(VerificationError):
        train(RECIPE.model_copy(update={"rounds": 1}), tmp_path / "run")
    assert (tmp_path / "run" / "model.onnx").read_bytes() == (tmp_path / "run" / "unmerged.onnx").read_bytes()
    monkeypatch.undo()
    # And resuming the run merges it.
    done = train(RECIPE.model_copy(update={"rounds": 1}), tmp_path / "run", resume=True)
    assert done.merge is not None
    assert Path(done.model).read_bytes() != Path(done.merge.unmerged).read_bytes()


def test_merging_can_be_left_out(tmp_path: Path) -> None:
    done = train(
        Recipe.model_validate(RECIPE.model_dump() | {"rounds": 1, "merge": "never"}), tmp_path / "run"
    )
    assert done.merge is not None
    assert done.merge.merged == []
    assert done.merge.before == done.merge.after


def test_such_a_run_is_not_healed(finished: TrainResult, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps(
            {"schema_version": 1, "steps": [{"block": "a", "input": "x", "output": "y", "form": "bypass"}]}
        )
    )
    with pytest.raises(UsageError, match="method easier"):
        heal_run(finished.run, plan, tmp_path / "healed")


def test_the_command_tells_what_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "easier.toml", str(tmp_path / "run")
    recipe.write_text(
        'method = "easier"\nmodel = "mlp"\nlimit = 400\nval_fraction = 0.2\nepochs = 1\nrounds = 2\nmax_drop = 100\n'
        "warmup = 0\n[model_args]\npixels = 64\nhidden = [64, 48]\n"
    )
    assert run(["train", str(recipe), "-o", out, "-q"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 activations are linear (layers." in said
    assert "2 pairs of operators merged: parameters" in said
    assert "stopped: 2 rounds are done." in said
    assert run(["train", str(recipe), "-o", out, "--resume", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["merge"]["after"]["parameters"] == 650
    assert [r["round"] for r in document["rounds"]] == [0, 1, 2]
    assert run(["train", str(recipe), "-o", str(tmp_path / "b"), "--set", "zeta=0.2"]) == 3
    assert "zeta belongs to nepenthe, and the method is easier." in capsys.readouterr().err


@pytest.mark.slow
def test_both_families_one_after_the_other_leave_one_history(tmp_path: Path) -> None:
    dense = Recipe(
        model_args={"widths": [4, 8], "blocks": [2, 2]}, epochs=2, val_fraction=0.2, warmup=0, measure_samples=32,
        penalty=0.0, device="cpu",
    )  # fmt: skip
    train(dense, tmp_path / "dense")
    digits = DataOptions("digits", split="val")
    plan = tmp_path / "plan.json"
    collapse(
        tmp_path / "dense" / "model.onnx",
        limit=Limit(count=1),
        data=digits,
        dry_run=True,
        plan_out=plan,
        repair="none",
    )
    # Blocks first, then activations, in PyTorch.
    overrides = ("method=easier", "epochs=1", "round_epochs=1", "rounds=2", "max_drop=100")
    healed = heal_run(tmp_path / "dense", plan, tmp_path / "healed", overrides=overrides)
    assert healed.merge is not None
    assert len(healed.merge.linear) == 2
    # And a further block out of what that left, in ONNX.
    collapse(healed.model, tmp_path / "short.onnx", limit=Limit(count=1), data=digits)
    manifest = read_manifest(load_model(tmp_path / "short.onnx"))
    assert manifest is not None
    assert [(len(r.blocks), len(r.linearised)) for r in manifest.history] == [(1, 0), (0, 2), (1, 0)]
    assert logits(tmp_path / "short.onnx", np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 10)
