"""Bytes from strangers end well or in one of our errors: what fuzzing has found, and a short round of it every time.

The long round is guided by coverage: `python tests/fuzz/run.py all`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from targets import TARGETS

from lacoot_deploy.errors import LacootError

HERE = Path(__file__).resolve().parent
FOUND = sorted((HERE / "corpus").glob("*/*"))
SECONDS = 5


def run(name: str, data: bytes, folder: Path) -> None:
    seconds = 0.0
    for _ in range(2):  # the first time may be the one that imports
        began = time.perf_counter()
        with contextlib.suppress(LacootError):
            TARGETS[name].run(data, folder)
        seconds = time.perf_counter() - began
        if seconds < SECONDS:
            break
    assert seconds < SECONDS


def damaged(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Bytes with a few of them changed, taken out, doubled or replaced by another input's."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(changed) + 1), chance.choice((1, 1, 2, 4, 8, 64))
        kind = chance.randrange(6)
        if kind == 0:
            changed[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            del changed[place : place + length]
        elif kind == 2:
            changed[place:place] = changed[place : place + length]
        elif kind == 3:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            changed[place : place + length] = other[start : start + length]
        elif kind == 4:
            changed[place : place + 1] = chance.choice((b"\0", b"\xff", b"\x80", b"\x7f", b"-", b"9", b"{"))
        else:
            del changed[place:]
    return bytes(changed)


@pytest.mark.parametrize("path", FOUND, ids=[f"{path.parent.name}/{path.name}" for path in FOUND])
def test_what_was_found_stays_mended(path, tmp_path):
    run(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_round(name, tmp_path):
    target = TARGETS[name]
    seeds, chance = target.seeds(), random.Random(name)
    for seed in seeds:
        run(name, seed, tmp_path)
    for _ in range(target.short):
        run(name, damaged(chance.choice(seeds), chance, seeds), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", TARGETS)
def test_a_long_round(name, tmp_path, capsys):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install atheris (Linux and macOS, Python up to 3.13)")
    command = [sys.executable, HERE / "run.py", name, "--found", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    with capsys.disabled():
        print("\n" + ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(re.search(r"(\d+) executions", ended.stdout)[1]) >= TARGETS[name].runs
