"""A file is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from lacoot_deploy import files
from lacoot_deploy.errors import InputError
from lacoot_deploy.files import (
    STAGING_SUFFIX,
    atomic_path,
    atomic_write_text,
    check_target,
    one_at_a_time,
    sha256_file,
    staging_folder,
)


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "a file.txt"
    target.write_text("old")
    atomic_write_text(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a file.txt"]


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_halfway() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_or_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        atomic_write_text(tmp_path, "x")
    with pytest.raises(InputError, match="does not exist"):
        atomic_write_text(tmp_path / "missing" / "a.txt", "x")


def test_the_hash_is_that_of_the_bytes(tmp_path):
    import hashlib

    path = tmp_path / "a"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="devices and pipes are those of POSIX")
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for target in (tmp_path / "pipe", tmp_path / "link", "/dev/null"):
        with pytest.raises(InputError, match=r"no regular file|is a folder"):
            atomic_write_text(target, "x")
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "ä" * 200])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be written|Cannot write"):
        atomic_write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127, "name with spaces ü", ".hidden", "-o"])
def test_names_that_a_file_can_have(tmp_path, name):
    atomic_write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(not os.path.islink("/dev/stdout"), reason="the system has no such link")
def test_a_link_to_a_process_own_output_is_not_replaced(tmp_path, capfd):
    with pytest.raises(InputError, match="no regular file"):
        check_target("/dev/stdout")


def test_an_input_is_never_the_target(tmp_path):
    (tmp_path / "in").write_text("in")
    (tmp_path / "link").symlink_to("in")
    os.link(tmp_path / "in", tmp_path / "hard")
    for target in ("in", "link", "hard"):
        with pytest.raises(InputError, match="is an input of this very command"):
            check_target(tmp_path / target, inputs=[tmp_path / "other", tmp_path / "in"])
    check_target(tmp_path / "out", inputs=[tmp_path / "in", "no\0thing"])


STAGE_AND_DIE = """
import os, sys, signal
from pathlib import Path
from lacoot_deploy.files import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="processes are killed as on POSIX")
def test_what_a_killed_process_left_is_removed_by_the_next_of_the_same_target(tmp_path):
    targets = [tmp_path / "a.onnx", tmp_path / "a.onnx.data", tmp_path / "b.onnx"]
    for target in targets:
        subprocess.run([sys.executable, "-c", STAGE_AND_DIE, target], check=False)
    left = sorted(os.listdir(tmp_path))
    assert len(left) == 3
    assert all(name.startswith(".") and name.endswith(STAGING_SUFFIX) for name in left)
    atomic_write_text(targets[0], "new")
    others = [name for name in left if name.startswith((".a.onnx.data.", ".b.onnx."))]
    assert len(others) == 2
    assert sorted(os.listdir(tmp_path)) == sorted(["a.onnx", *others])
    for target in targets[1:]:
        atomic_write_text(target, "new")
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "a.onnx.data", "b.onnx"]


def test_what_a_living_process_is_writing_stays(tmp_path):
    target = tmp_path / "a.onnx"
    with staging_folder(target) as folder:
        (folder / "half").write_text("half")
        atomic_write_text(target, "other")
        assert (folder / "half").read_text() == "half"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_a_folder_that_was_taken_for_left_over_is_made_again(tmp_path, monkeypatch):
    made, locked = [], files._lock

    def lock(folder, *, wait):
        if not made:
            os.rmdir(folder)
        made.append(folder)
        return locked(folder, wait=wait)

    monkeypatch.setattr(files, "_lock", lock)
    with staging_folder(tmp_path / "a") as folder:
        assert folder.is_dir()
        assert len(made) == 2
        assert folder != made[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="locks are those of POSIX")
def test_one_at_a_time(tmp_path):
    order = []

    def second():
        with one_at_a_time(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with one_at_a_time(tmp_path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    atomic_write_text(tmp_path / "a", "x")
    with one_at_a_time(tmp_path):
        assert os.listdir(tmp_path) == ["a"]
