"""What the system refuses - space, permission, a name of its own - ends in one sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import residual_cnn

from lacoot_deploy.files import STAGING_SUFFIX
from lacoot_deploy.graph.model.io import load_model

pytestmark = pytest.mark.skipif(os.name != "posix", reason="faults are made as on POSIX")
HERE = Path(__file__).resolve().parent
COUNT = ["--count", "1", "--criterion", "random"]


@pytest.fixture
def folder(tmp_path):
    model = residual_cnn(4, channels=16)[0]
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    np.savez(tmp_path / "d.npz", image=np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def command(
    *arguments: str, folder: Path, before: str = "", prefix: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, after some Python that prepares the process."""
    code = f"import sys\n{before}\nfrom lacoot_deploy_cli.main import main\nmain()"
    return subprocess.run(
        [*prefix, sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def small_files(size: int) -> str:
    """Files of this process may not grow beyond that: what a full disk looks like to it."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("size", "existed"),
    [(5000, True), pytest.param(0, True, marks=SLOW), pytest.param(20_000, False, marks=SLOW)],
)
def test_a_disk_that_is_full(folder, size, existed):
    if existed:
        assert command("collapse", "in.onnx", *COUNT, "-o", "out.onnx", folder=folder).returncode == 0
    before = contents(folder)
    for arguments in (
        ("collapse", "in.onnx", *COUNT, "-o", "out.onnx"),
        ("measure", "in.onnx", "--data", "npz:d.npz", "-o", "out.onnx"),
    ):
        ended = command(*arguments, folder=folder, before=small_files(size))
        assert ended.returncode == 3, ended.stderr
        assert ended.stdout == ""
        assert "error: " in ended.stderr
        assert "Traceback" not in ended.stderr
        assert contents(folder) == before


def test_a_plan_that_does_not_fit_on_the_disk(folder):
    before = contents(folder)
    arguments = ("collapse", "in.onnx", *COUNT, "--dry-run", "--plan-out", "plan.json")
    ended = command(*arguments, folder=folder, before=small_files(10))
    assert ended.returncode == 3
    assert "Cannot write plan.json" in ended.stderr
    assert contents(folder) == before


def test_results_that_cannot_be_printed(folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("the system has no /dev/full")
    for arguments in (["inspect", "in.onnx"], ["inspect", "in.onnx", "--json"]):
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "lacoot_deploy", *arguments],
                cwd=folder,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert ended.returncode == 3
        assert "No space left on device" in ended.stderr
        assert "Traceback" not in ended.stderr


SETTINGS = [
    *("--set", "model_args={widths=[4,4],blocks=[1,1]}", "--set", "epochs=1", "--set", "limit=100"),
    *("--set", "projections=4", "--set", "measure_samples=16", "--set", "device=cpu"),
]


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 3000, 12_000])
def test_a_training_whose_disk_is_full(tmp_path, size):
    pytest.importorskip("sklearn")
    ended = command("train", *SETTINGS, "-o", "run", folder=tmp_path, before=small_files(size))
    assert ended.returncode == 3, ended.stderr
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not [path for path in tmp_path.rglob("*") if STAGING_SUFFIX in path.name]
    # Nothing of it stands in the way once there is space, with or without a checkpoint.
    resume = ["--resume"] if (tmp_path / "run" / "checkpoint.safetensors").exists() else []
    again = command("train", *SETTINGS, "-o", "run", *resume, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    load_model(tmp_path / "run" / "model.onnx")


needs_permissions = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere"
)


def limited() -> list[str]:
    """What takes root's right to read and write anything from a process; nothing for other users."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and there is no setpriv to give that up")
    without = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]


def test_a_target_in_a_folder_that_cannot_be_written(folder):
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    before = contents(folder)
    for arguments in (
        ("collapse", "in.onnx", *COUNT, "-o", "locked/out.onnx"),
        ("collapse", "in.onnx", *COUNT, "--dry-run", "--plan-out", "locked/plan.json"),
        ("measure", "in.onnx", "--data", "npz:d.npz", "-o", "locked/out.onnx"),
        ("train", *SETTINGS, "-o", "locked/run"),
    ):
        ended = command(*arguments, folder=folder, prefix=limited())
        assert ended.returncode == 3, ended.stderr
        assert "cannot be" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert contents(folder) == before


def test_inputs_that_may_not_be_read(folder):
    for name in ("in.onnx", "w.bin", "d.npz"):
        (folder / name).chmod(0)
        arguments = ("measure", "in.onnx", "--data", "npz:d.npz", "-o", "/dev/shm/never.onnx")
        ended = command(*arguments, folder=folder, prefix=limited())
        (folder / name).chmod(0o644)
        assert ended.returncode in (2, 3), ended.stderr
        assert "Traceback" not in ended.stderr


def test_without_a_home_a_terminal_or_variables(folder):
    """As in a container or a cron job: an unwritable home, no terminal, hardly any environment, a read-only input."""
    for name in ("in.onnx", "w.bin"):
        (folder / name).chmod(0o444)
    bare = {
        "HOME": "/nonexistent",
        "TERM": "dumb",
        "XDG_CACHE_HOME": "/nonexistent",
        "NO_COLOR": "1",
        "LC_ALL": "C",
    }
    for arguments in (
        ("inspect", "in.onnx"),
        ("collapse", "in.onnx", *COUNT, "-o", "out.onnx"),
        ("measure", "in.onnx", "--data", "npz:d.npz", "-o", "measured.onnx"),
        ("compare", "in.onnx", "out.onnx", "--data", "npz:d.npz"),
        ("doctor",),
    ):
        ended = command(*arguments, folder=folder, **bare)
        assert ended.returncode == 0, ended.stderr
        assert "\x1b" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "name",
    [
        "-ünï-日本 quote'\" 😀",
        pytest.param("with space", marks=SLOW),
        pytest.param("new\nline %s{} e\u0301", marks=SLOW),
    ],
)
def test_names_of_files_and_folders(folder, name):
    place = folder / name
    place.mkdir()
    for item in ("in.onnx", "w.bin", "d.npz"):
        shutil.copy(folder / item, place / item)
    model, out = place / f"{name}.onnx", place / f"out {name}.onnx"
    (place / "in.onnx").rename(model)
    for arguments in (
        ("inspect", str(model), "--json"),
        ("collapse", str(model), "--json", *COUNT, "-o", str(out), "--plan-out", str(place / f"{name}.json")),
        ("measure", str(out), "--json", "--data", f"npz:{place / 'd.npz'}", "-o", str(place / "m.onnx")),
        ("compare", str(model), str(out), "--json", "--data", f"npz:{place / 'd.npz'}"),
    ):
        ended = command(*arguments, folder=folder)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["schema_version"] == 1
    ended = command("collapse", "--plan", f"{name}.json", "-o", "b.onnx", "--", f"{name}.onnx", folder=place)
    assert ended.returncode == 0, ended.stderr
    assert (place / "b.onnx.data").read_bytes() == (place / f"out {name}.onnx.data").read_bytes()


def test_a_name_that_is_no_text(folder):
    name = os.fsdecode(b"caf\xe9.onnx")
    shutil.copy(folder / "in.onnx", folder / name)
    for arguments in (
        ("inspect", name),
        ("inspect", name, "--json"),
        ("collapse", name, *COUNT, "-o", f"out {name}"),
        ("collapse", name, *COUNT, "-o", f"out {name}", "--json"),
    ):
        code = "import sys; from lacoot_deploy_cli.main import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert b"Traceback" not in ended.stderr


COLLAPSE_OFTEN = """
import sys
from lacoot_deploy import Limit, collapse
for _ in range(int(sys.argv[4])):
    collapse(sys.argv[1], sys.argv[2], limit=Limit(blocks=(sys.argv[3],)))
"""


def test_several_processes_with_one_target(folder):
    """The model and the data that are left belong together and are of one of them."""

    def started(target: str, block: str, times: int) -> subprocess.Popen[bytes]:
        arguments = ["in.onnx", target, block, str(times)]
        return subprocess.Popen([sys.executable, "-c", COLLAPSE_OFTEN, *arguments], cwd=folder)

    blocks = ("layer0", "layer1", "layer2")
    assert [process.wait() for process in [started(f"{block}.onnx", block, 1) for block in blocks]] == [0] * 3
    results = {(folder / f"{block}.onnx.data").read_bytes(): block for block in blocks}
    assert len(results) == 3
    assert [process.wait() for process in [started("one.onnx", block, 12) for block in blocks]] == [0] * 3
    weights = {tensor.name.split(".")[0] for tensor in load_model(folder / "one.onnx").graph.initializer}
    assert results[(folder / "one.onnx.data").read_bytes()] not in weights
    assert len(weights & {"layer0", "layer1", "layer2", "layer3"}) == 3
    assert not [name for name in os.listdir(folder) if STAGING_SUFFIX in name]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_two_hundred_moments(capsys):
    ended = subprocess.run(
        [sys.executable, HERE / "kills.py", "--moments", "200"], capture_output=True, text=True, check=False
    )
    with capsys.disabled():
        print("\n" + ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_killed_at_a_few_moments():
    arguments = ["--moments", "3", "--only", "collapse again", "--seed", "9"]
    ended = subprocess.run(
        [sys.executable, HERE / "kills.py", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def rounds(folder: Path, count: int, *, warm: int) -> tuple[int, int]:
    """Growth of open files and of resident memory over that many rounds of commands in this process."""
    from lacoot_deploy import DataOptions, Limit, collapse, compare, inspect, measure
    from lacoot_deploy.errors import InputError

    data = DataOptions(f"npz:{folder / 'd.npz'}")
    (folder / "broken.onnx").write_bytes((folder / "in.onnx").read_bytes()[:-50])
    files = memory = 0
    for number in range(count + warm):
        if number == warm:
            files, memory = open_files(), resident()
        inspect(folder / "in.onnx")
        collapse(folder / "in.onnx", folder / "out.onnx", limit=Limit(count=2), criterion="random")
        if number % 5 == 0:
            compare(folder / "in.onnx", folder / "out.onnx", data)
            measure(folder / "in.onnx", folder / "m.onnx", data, latency=False)
        with pytest.raises(InputError):
            collapse(folder / "broken.onnx", folder / "b.onnx", limit=Limit(count=1))
    return open_files() - files, resident() - memory


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted as on Linux")
@pytest.mark.parametrize(
    ("count", "warm", "megabytes"), [(8, 5, 30), pytest.param(500, 50, 30, marks=pytest.mark.slow)]
)
def test_nothing_is_left_open_or_grows(folder, tmp_path_factory, count, warm, megabytes, monkeypatch, capsys):
    own = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    files, memory = rounds(folder, count, warm=warm)
    with capsys.disabled():
        print(f"\n{count} rounds: {files} more open files, {memory / 1e6:.1f} MB more memory")
    assert files <= 0
    assert memory < megabytes * 1e6
    assert os.listdir(own) == []
    known = {"in.onnx", "w.bin", "d.npz", "out.onnx", "out.onnx.data", "m.onnx", "m.onnx.data", "broken.onnx"}
    assert set(os.listdir(folder)) == known
