"""The README's commands and Python run as they stand, in order, in one folder, on little data and for few epochs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

SHORTER = """
import sys
from lacoot_deploy_cli.main import main
words = sys.argv[1:]
if words[:1] == ["train"]:
    words += ["--set", "epochs=1"] if "--heal" in words else ["--set", "epochs=3", "--set", "max_drop=100"]
    if any(word.endswith(".toml") for word in words):
        words += ["--set", "warmup=0", "--set", "batch_size=60"]
elif words[:1] == ["bench"] or "--bench" in words:
    words += ["--min-time", "0.3"]
sys.argv[1:] = words
main()
"""
"""The command itself, told to be quick where a reader would wait."""

PREPARED = """
import functools
import numpy as np
import lacoot_deploy as ld
ld.benchmark = functools.partial(ld.benchmark, min_time=0.3)
given = np.load("given.npz")
my_images, my_labels = given["input"], given["labels"]
"""
"""What the README's reader has at hand: images and labels of their own."""


def images_as_cifar10(target: Path) -> None:
    """A zip of class folders with made-up pictures of CIFAR-10's shape."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(target, "w") as archive:
        for part, count in (("train", 24), ("test", 4)):
            for label in range(10):
                for index in range(count):
                    pixels = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)
                    pixels[label : label + 10, :, label % 3] += 55
                    buffer = BytesIO()
                    Image.fromarray(pixels).save(buffer, "PNG")
                    archive.writestr(f"{part}/class{label}/{index}.png", buffer.getvalue())


def network_of_their_own(trained: Path, target: Path) -> None:
    """The network that the README trained before, one branch of it dead, so that a block surely goes for nothing."""
    import onnx
    from onnx import numpy_helper

    from lacoot_deploy.manifest import MANIFEST_KEY

    model = onnx.load(trained)
    last = [i for i in model.graph.initializer if "layer1.1.conv2" in i.name]
    assert last
    for initializer in last:
        zero = numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(initializer)), initializer.name)
        initializer.CopyFrom(zero)
    kept = [p for p in model.metadata_props if p.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, target)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("readme")
    (folder / "samples").symlink_to(REPOSITORY / "samples")
    images_as_cifar10(folder / "cifar10.zip")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[:400, None] / 16).astype(np.float32)
    for name in ("given", "test"):
        np.savez(folder / f"{name}.npz", input=images, labels=digits.target[:400])
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "shorter.py").write_text(SHORTER)
    script = bin_ / "lacoot-deploy"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore "{bin_ / "shorter.py"}" "$@"\n')
    script.chmod(0o755)
    return folder


def run(folder: Path, kind: str, block: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    if kind == "python":
        block = PREPARED + block.replace("epochs=30", "epochs=3")
        command = [sys.executable, "-W", "ignore", "-c", block]
    else:
        command = ["bash", "-euc", block]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


LONG = ("resnet20", "easier")
"""What blocks name that train for CIFAR-10 or in rounds, a minute even on a handful of images."""


@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.name == "nt", reason="the README's commands are for a POSIX shell")
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=[pytest.mark.slow])])
def test_the_blocks_of_the_readme_work_in_order(workshop, whole):
    ran = []
    for kind, block in BLOCKS:
        # What make does is tested by itself below; the short test leaves the long blocks to the long one.
        if "make " in block or any(word in block for word in LONG) != whole:
            continue
        if (
            not whole
            and "model.onnx" in block
            and not (workshop / "model.onnx").exists()
            and "runs/digits" not in block
        ):
            network_of_their_own(workshop / "runs/digits/model.onnx", workshop / "model.onnx")
        done = run(workshop, kind, block)
        assert done.returncode == 0, f"{block}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"
        ran.append(kind)
    if whole:
        assert ran == ["sh"] * 3
        return
    assert ran.count("sh") == 4
    assert ran.count("python") == 2
    assert {"report.html", "api.html", "short.onnx"} <= {path.name for path in workshop.iterdir()}


def test_make_targets_and_files_that_the_readme_names_exist():
    targets = set(re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?=[`\s])", " ".join(b for _, b in BLOCKS))) <= targets
    assert set(re.findall(r"`make ([a-z-]+)`", TEXT)) <= targets
    named = re.findall(r"`((?:samples|lacoot_deploy|tests|cli)/[\w./*-]+)`", TEXT)
    missing = [name for name in named if not list(REPOSITORY.glob(name.rstrip("/")))]
    assert not missing


def test_links_inside_the_readme_lead_somewhere():
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert {link for link in re.findall(r"\]\(#([\w-]+)\)", TEXT)} <= anchors


def test_the_commands_and_functions_of_the_readme_are_those_that_exist():
    from lacoot_deploy_cli.main import COMMANDS

    import lacoot_deploy

    table = re.search(r"^## Commands\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL).group(1)
    assert re.findall(r"^\| `([a-z]+)", table, re.MULTILINE) == list(COMMANDS)
    api = re.search(r"^### The same in Python\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL).group(1)
    shown = set(re.findall(r"\bld\.([a-z]+)\(", api))
    mirrored = {"benchmark" if name == "bench" else name for name in COMMANDS}
    assert mirrored <= shown
    assert shown <= set(lacoot_deploy.__all__)


def test_options_that_the_readme_names_exist():
    import click
    from lacoot_deploy_cli.main import COMMANDS, cli

    context = click.Context(cli)
    known = {
        option
        for name in COMMANDS
        for parameter in cli.get_command(context, name).params
        for option in parameter.opts + parameter.secondary_opts
    }
    scripts = {
        o for p in (REPOSITORY / "samples").rglob("*.py") for o in re.findall(r'"(--[\w-]+)"', p.read_text())
    }
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", TEXT)) - {"--help"}
    assert named <= known | scripts
