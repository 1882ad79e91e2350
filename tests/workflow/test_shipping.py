"""`ship` as a whole: the folder, its account, its program, and what happens to what fails."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from builders import residual_cnn
from lacoot_deploy_cli.main import run

from lacoot_deploy.api import collapse
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import InputError, UsageError, VerificationError
from lacoot_deploy.graph.model.io import save_model
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.shipping.account import ShipResult
from lacoot_deploy.shipping.carry import manifest_of
from lacoot_deploy.shipping.proof import Proof, Prover
from lacoot_deploy.shipping.trials import CPU
from lacoot_deploy.workflow.inspecting import inspect
from lacoot_deploy.workflow.ship_request import ShipRequest
from lacoot_deploy.workflow.shipping import require, run_ship


@pytest.fixture(scope="module", autouse=True)
def one_engine():
    """ONNX Runtime alone: starting a second engine for every file takes seconds; tests/shipping/test_proof.py does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Prover, "openvino", lambda *_: Proof("openvino", False, reason="not tried here"))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dense network, the same without a block, and labelled samples on which the dense one is always right."""
    folder = tmp_path_factory.mktemp("ship")
    dense, short, data = folder / "model.onnx", folder / "short.onnx", folder / "data.npz"
    save_model(residual_cnn(3, channels=8)[0], dense)
    collapse(dense, short, count=1, criterion="random", repair="none")
    images = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    labels = open_session(dense, CPU).run({"image": images})["logits"].argmax(axis=1)
    np.savez(data, image=images, labels=labels)
    return dense, short, data


def request(files, output, **changes):
    dense, short, data = files
    options = {
        "models": (dense, short),
        "output": output,
        "data": DataOptions(f"npz:{data}"),
        "conversions": ("int8", "fixed+ort"),
        "max_drop": 100.0,
        "bench": None,
    }
    return ShipRequest(**{**options, **changes})


@pytest.fixture(scope="module")
def shipped(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "device"
    return folder, run_ship(request(files, folder))


def test_the_folder_holds_every_file_and_its_papers(shipped):
    folder, account = shipped
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "SHA256SUMS", "run.py", "ship.json", "report.html", "samples.npz"} <= names
    models = {"model.onnx", "short.onnx", "model.int8.onnx", "short.int8.onnx", "model.fixed.ort"}
    assert models <= names
    assert json.loads((folder / "ship.json").read_text()) == account.model_dump(mode="json")
    assert account.schema_version == 1
    assert [line.role for line in account.files] == 3 * ["dense"] + 3 * ["collapsed"]
    for line in account.files:
        assert line.sha256 == hashlib.sha256((folder / line.file).read_bytes()).hexdigest()
        assert line.proven
    assert account.files[0].score.drop == 0
    assert account.files[0].agreement == 100
    assert "Files that ship" in (folder / "report.html").read_text()


def test_the_readme_says_how_to_feed_run_and_verify(shipped):
    text = (shipped[0] / "README.md").read_text()
    assert "- input `image`: float32, N x 3 x 8 x 8" in text
    assert "- output `logits`: float32, N x 3" in text
    assert "python run.py --check" in text
    assert "lacoot-deploy compare model.onnx model.int8.onnx" in text
    for line in (shipped[0] / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((shipped[0] / name).read_bytes()).hexdigest()
        assert line in text


def test_run_py_stands_alone_and_notices_a_damaged_file(shipped, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(shipped[0], copy)
    command = [sys.executable, "-I", str(copy / "run.py")]
    ended = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("as expected") == 6
    (copy / "short.onnx").write_bytes((copy / "model.onnx").read_bytes())
    ended = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "short.onnx: differs" in ended.stdout


def test_manifest_and_history_are_in_every_file(shipped):
    folder, account = shipped
    for line in account.files:
        manifest = manifest_of(folder / line.file)
        blocks = [record.blocks for record in manifest.history] if manifest else []
        assert bool(blocks) == (line.role == "collapsed")
        names = [record.conversion for record in manifest.conversions] if manifest else []
        assert names == ([] if line.conversion == "float32" else line.conversion.split("+"))
        notes = inspect(folder / line.file).notes
        assert sum("Converted" in note for note in notes) == len(names)


def test_an_earlier_folder_is_replaced_and_nothing_else_is(files, tmp_path):
    folder = tmp_path / "out"
    quick = {"models": files[:1], "conversions": ("fixed",)}
    folder.mkdir()
    run_ship(request(files, folder, **quick))
    before = (folder / "ship.json").read_text()
    run_ship(request(files, folder, **quick))
    assert (folder / "ship.json").read_text() == before
    other = tmp_path / "mine"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run_ship(request(files, other, **quick))
    assert [path.name for path in other.iterdir()] == ["precious.txt"]
    with pytest.raises(InputError, match="does not exist"):
        run_ship(request(files, tmp_path / "no" / "where", **quick))
    inside = request(files, folder, models=(folder / "model.onnx",), conversions=("fixed",))
    with pytest.raises(InputError, match="is an input"):
        run_ship(inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_what_fails_is_reported_and_left_out(files, tmp_path):
    account = run_ship(
        request(files, tmp_path / "out", models=files[:1], conversions=("weights4", "fixed"), max_drop=None)
    )
    assert [line.verdict for line in account.files] == ["shipped", "failed", "shipped"]
    assert "MatMul" in account.files[1].reason
    require(account, ("fixed",))
    with pytest.raises(VerificationError, match="weights4 is not in the folder"):
        require(account, ("weights4", "fixed"))
    assert "Not here: model weights4 (failed)" in (tmp_path / "out" / "README.md").read_text()


def test_an_interruption_leaves_nothing(files, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lacoot_deploy.workflow.shipping.write_papers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_ship(request(files, tmp_path / "out", models=files[:1], conversions=("fixed",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ()}, "at least one model"),
        ({"target": "toaster"}, "no target"),
        ({"conversions": ("int7",)}, "no conversion"),
        ({"conversions": ("opset",)}, "--opset"),
        ({"max_drop": -1.0}, "0 or more"),
    ],
)
def test_requests_that_make_no_sense(files, tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        request(files, tmp_path / "out", **changes)


def test_the_command_ends_with_4_where_a_named_conversion_is_left_out(files, tmp_path, capsys):
    dense, short, data = map(str, files)
    options = ["--data", f"npz:{data}", "-o", str(tmp_path / "out"), "--no-bench", "--json"]
    code = run(["ship", dense, short, "--convert", "fixed", "--max-drop", "0", *options])
    document = json.loads(capsys.readouterr().out)
    account = ShipResult.model_validate(document)
    drop = account.files[2].score.drop
    assert code == (4 if drop > 0 else 0)
    assert [line.verdict for line in account.files[2:]] == ["shipped", "left out" if drop > 0 else "shipped"]
    assert not (tmp_path / "out" / "short.fixed.onnx").exists() or drop <= 0


@pytest.mark.slow
def test_latencies_are_those_of_one_run(files, tmp_path):
    account = run_ship(
        request(files, tmp_path / "out", conversions=("int8",), bench=BenchOptions(min_time=1.0))
    )
    assert all(line.latency is not None and line.latency.ms > 0 for line in account.files)
    assert account.files[0].latency.speedup == 1
    gain = account.gains[0]
    assert (gain.cut, gain.converted, gain.both) == ("short float32", "model int8", "short int8")
    low, high = gain.over_cut[1:]
    assert low <= gain.over_cut[0] <= high


def test_weights_in_files_of_their_own_go_along(files, tmp_path):
    import onnx

    whole, apart = onnx.load(files[0]), tmp_path / "apart.onnx"
    onnx.save(whole, apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    account = run_ship(request(files, tmp_path / "out", models=(apart,), conversions=("int8",)))
    plain, int8 = account.files
    assert plain.beside == ["apart.onnx.data"]
    assert plain.bytes == sum(
        (tmp_path / "out" / name).stat().st_size for name in (plain.file, *plain.beside)
    )
    assert (int8.verdict, int8.beside) == ("shipped", [])
