"""The page's "the same again": the printed command gives the same bytes, whatever the plan was made with."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import random_feeds, residual_cnn, run
from lacoot_deploy_cli.main import run as command
from PIL import Image

from lacoot_deploy import Limit, LineariseOptions, SearchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.healing.options import HealOptions
from lacoot_deploy.manifest import HealRecord, parse_plan, to_json
from lacoot_deploy.workflow.collapsing import CollapseRequest
from lacoot_deploy.workflow.commands import collapse_words, heal_words

NPZ = ["--data", "npz:data.npz"]
IMAGES = [
    "--data",
    "imagefolder:images",
    "--trust-labels",
    "--mean",
    "0.5,0.4,0.3",
    "--std",
    "0.2,0.25,0.123456789",
    "--size",
    "8",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network of residual blocks, samples for it as arrays and as pictures."""
    folder = tmp_path_factory.mktemp("again")
    model, _ = residual_cnn(4)
    onnx.save(model, folder / "dense.onnx")
    feeds = random_feeds(model, batch=48, seed=3)
    labels = run(model, feeds)[0].argmax(axis=1).astype(np.int64)
    np.savez(folder / "data.npz", **feeds, labels=labels)
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 12), ("test", 12)):
        for number in range(count):
            place = folder / "images" / part / f"class{number % 3}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{number:03}.png")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--count", "2", "--repair", "none", "--form", "bypass", "--units", "--threads", "1", *NPZ],
        ["--blocks", "block1,block2", "--repair", "affine", "--no-refit", "--no-probe", *NPZ],
        ["--max-drift", "1.5", "--samples", "40", "--seed", "5", "--search", "ranked", *NPZ],
        ["--count", "2", "--criterion", "cosine", "--split", "train", "--provider", "cpu", *IMAGES],
        ["--linearise", "all", "--count", "2", "--criterion", "entropy", "--fit", "pieces", *NPZ],
        [
            "--linearise",
            "auto",
            "--max-drift",
            "2",
            "--merge",
            "always",
            "--inexact",
            "--search",
            "ranked",
            *NPZ,
        ],
        ["--count", "1", "--criterion", "random", "--seed", "9"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_the_printed_command_gives_the_same_bytes(folder, tmp_path, monkeypatch, capsys, words):
    blocks = [block["name"] for block in listed(folder / "dense.onnx", capsys)]
    words = [",".join(blocks[1:3]) if word == "block1,block2" else word for word in words]
    for name in ("dense.onnx", "data.npz", "images"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    # As it was asked for the paths were others.
    asked = [
        word.replace("npz:", f"npz:{tmp_path}/").replace("imagefolder:", f"imagefolder:{tmp_path}/")
        for word in words
    ]
    made = ["-o", "short.onnx", "--plan-out", "plan.json", "-q"]
    assert command(["collapse", str(tmp_path / "dense.onnx"), *made, *asked]) == 0
    capsys.readouterr()
    assert (
        command(["report", "dense.onnx", "short.onnx", "plan.json", "-o", "page.html", "--json", "-q"]) == 0
    )
    (printed,) = [
        line
        for line in json.loads(capsys.readouterr().out)["reproduction"]["commands"]
        if " collapse " in line
    ]
    assert "--plan" not in printed
    before = (tmp_path / "short.onnx").read_bytes()
    (tmp_path / "short.onnx").unlink()
    assert command([*shlex.split(printed)[1:], "-q"]) == 0
    assert (tmp_path / "short.onnx").read_bytes() == before, printed


def listed(path: Path, capsys) -> list[dict[str, object]]:
    assert command(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["blocks"]


def test_what_one_command_cannot_say_is_replayed_from_the_plan():
    both = CollapseRequest(
        Path("m.onnx"),
        limit=Limit(count=1),
        linearise=LineariseOptions("all", Limit(count=2)),
        data=DataOptions("npz:x.npz"),
    )
    assert collapse_words(both.options()) is None
    seeds = CollapseRequest(Path("m.onnx"), limit=Limit(count=1), data=DataOptions("digits", seed=1))
    assert collapse_words(seeds.options()) is None


def test_options_survive_in_a_plan_and_tell_no_folder():
    request = CollapseRequest(
        Path("m.onnx"),
        limit=Limit(count=1),
        search=SearchOptions(seed=3),
        data=DataOptions("npz:/home/x/y.npz", seed=3),
    )
    plan = parse_plan('{"steps": [], "evidence": {"measured": true, "later": {"x": 1}}}')
    assert "options" not in json.loads(to_json(plan))
    assert json.loads(to_json(plan))["evidence"] == {"measured": True, "later": {"x": 1}}
    plan.options = request.options()
    again = parse_plan(to_json(plan))
    assert again == plan
    assert again.options.data.spec == "npz:y.npz"
    assert "/home" not in to_json(plan)


def test_a_healing_is_asked_for_again_with_what_was_not_so_anyway():
    options = asdict(HealOptions(steps=20, augment=("flip", "crop"), bf16=True))
    record = HealRecord.model_construct(
        data="imagefolder:/home/x/images [val]", options=json.loads(json.dumps(options))
    )
    assert heal_words(record) == [
        "--data", "imagefolder:images", "--split", "val", "--steps", "20", "--augment", "flip,crop", "--bf16",
    ]  # fmt: skip
