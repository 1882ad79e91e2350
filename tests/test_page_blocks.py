"""Every block of commands and Python in the README and docs/ runs as it stands, page by page, on little data."""

from __future__ import annotations

import functools
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pages import PAGES, REPOSITORY, TRAINING, blocks, run_block, run_command

import lacoot_deploy as ld

TESTED = {
    page: {block.slow for block in blocks(page) if block.runs}
    for page in PAGES
    if any(block.runs for block in blocks(page))
}


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
    """A trained network with one branch dead, so that a block surely goes for nothing, and without a manifest."""
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
    """What a reader has at hand on any page: samples, a trained run, a model of their own and what was cut from it."""
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("pages")
    digits = load_digits()
    images = (digits.images[:400, None] / 16).astype(np.float32)
    for name in ("calibration", "test"):
        np.savez(folder / f"{name}.npz", input=images, labels=digits.target[:400])
    images_as_cifar10(folder / "cifar10.zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_command(TRAINING.split())
        network_of_their_own(folder / "runs/digits/model.onnx", folder / "model.onnx")
        run_command(["lacoot-deploy", "collapse", "model.onnx", "--lossless", "-o", "short.onnx"])
    return folder


def page_runs(page: str, whole: bool, workshop: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page's short blocks, or its slow ones, in a folder of its own."""
    shutil.copytree(workshop, folder)
    (folder / "samples").symlink_to(REPOSITORY / "samples")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(
        ld, "benchmark", functools.partial(ld.benchmark, options=ld.BenchOptions(min_time=0.3)), raising=False
    )
    given = np.load(folder / "calibration.npz")
    names = {"my_images": given["input"], "my_labels": given["labels"]}
    for block in blocks(page):
        if block.runs and block.slow == whole:
            run_block(block, names)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [page for page, kinds in TESTED.items() if False in kinds])
def test_the_short_blocks_of_a_page_work_in_order(page, workshop, tmp_path, monkeypatch):
    page_runs(page, False, workshop, tmp_path / "here", monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page, kinds in TESTED.items() if True in kinds])
def test_the_long_blocks_of_a_page_work_in_order(page, workshop, tmp_path, monkeypatch):
    page_runs(page, True, workshop, tmp_path / "here", monkeypatch)


def test_the_pages_that_matter_are_among_those_that_run():
    assert {"README.md", "docs/guides/any-onnx.md", "docs/guides/python.md", "docs/guides/ci.md"} <= set(
        TESTED
    )
    assert TRAINING in PAGES["README.md"]
