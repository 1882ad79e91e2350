"""A file is written whole or not at all."""

from __future__ import annotations

import os

import pytest

from lacoot_deploy.errors import InputError
from lacoot_deploy.files import atomic_path, atomic_write_text, sha256_file


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
