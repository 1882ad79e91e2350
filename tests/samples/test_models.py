"""The network and the pictures that the demo's second half starts from: whole, small, and what they are said to be."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

import lacoot_deploy as ld

MODELS = Path(__file__).resolve().parents[2] / "samples" / "models"
CONTENTS = json.loads((MODELS / "contents.json").read_text(encoding="utf-8"))


def test_the_files_are_those_that_were_made_and_small():
    for name, wanted in CONTENTS["sha256"].items():
        assert hashlib.sha256((MODELS / name).read_bytes()).hexdigest() == wanted, name
    assert sum(path.stat().st_size for path in MODELS.iterdir() if path.is_file()) <= 2_000_000
    assert (MODELS.parents[1] / CONTENTS["recipe"]).is_file()


def test_the_network_knows_the_pictures_and_has_blocks_that_can_go():
    model = MODELS / "resnet20.onnx"
    found = ld.inspect(model, probe=False)
    assert sum(block.collapsible for block in found.blocks) == 9
    accuracy = ld.compare(model, model, f"cifar10:{MODELS / 'images.zip'}").accuracy
    assert accuracy is not None
    assert accuracy.a > 75


def test_pictures_of_a_part_are_taken_evenly_over_the_classes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(MODELS))
    import make

    with zipfile.ZipFile(MODELS / "images.zip") as archive:
        names = archive.namelist()
        assert len(names) == CONTENTS["pictures"]["train"] + CONTENTS["pictures"]["test"]
        few = make.chosen(archive, "test", 20)
    assert len({name.split("/")[1] for name in few}) == 10
    make.pictures(MODELS / "images.zip", tmp_path / "again.zip", {"train": 400, "test": 300})
    assert (tmp_path / "again.zip").read_bytes() == (MODELS / "images.zip").read_bytes()


@pytest.mark.slow
def test_a_few_hundred_pictures_cut_and_heal_it(tmp_path):
    model, data = MODELS / "resnet20.onnx", f"cifar10:{MODELS / 'images.zip'}"
    learn = ld.DataOptions(data, split="train")
    ld.collapse(model, tmp_path / "cut.onnx", data=learn, count=3)
    healing = ld.HealOptions(steps=60, augment=("flip", "crop"))
    ld.heal(model, tmp_path / "cut.onnx", tmp_path / "healed.onnx", data=learn, options=healing)
    accuracy = ld.compare(model, tmp_path / "healed.onnx", data).accuracy
    assert accuracy.drop_points < 12
