"""What is fuzzed: each target takes bytes from a stranger, and ends well or in an error of ours.

A target raises what it finds: any exception that is no `LacootError`, or an `AssertionError` where a result cannot be
read again.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from builders import residual_mlp
from mutants import Reader, bases, mutant

from lacoot_deploy.data import InputInfo, load_images, load_samples
from lacoot_deploy.data.pickled import read_batch
from lacoot_deploy.errors import LacootError
from lacoot_deploy.graph.discovery import survey
from lacoot_deploy.graph.model.io import fingerprint, load_model, save_model
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.manifest import (
    Manifest,
    Plan,
    SourceRecord,
    parse_manifest,
    parse_plan,
    read_manifest,
    to_json,
    write_manifest,
)
from lacoot_deploy.selection.matching import plan_steps, resolve_plan, resolve_refits
from lacoot_deploy.workflow.inspecting import recorded_distances
from lacoot_deploy.workflow.measuring import block_records


@dataclass(frozen=True)
class Target:
    """One thing that is fuzzed.

    Attributes:
        run: Takes the bytes and a folder to work in.
        seeds: Makes inputs to start from.
        runs: Executions of the long run.
        short: Executions of the short run that every change is tested with.
    """

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    runs: int
    short: int = 60


def _through(path: Path, folder: Path) -> None:
    """Load, look through, cut, save, load again."""
    model = load_model(path)
    manifest = read_manifest(model, path=path)
    before = path.read_bytes()
    first = fingerprint(model)
    found = survey(model)
    recorded_distances(manifest, found.blocks)
    able = [block for block in found.blocks if block.collapsible]
    # One of them or all, in their first form or their last, as the file's length has it.
    able = able[: 1 if len(before) % 3 == 0 else len(able)]
    output = folder / "out.onnx"
    output.unlink(missing_ok=True)
    try:
        smaller = collapse_blocks(model, [Cut(block, block.forms[-(len(before) % 2)]) for block in able])
        manifest = manifest or Manifest()
        left = survey(smaller, cut_from=found)
        manifest.blocks = block_records(left.blocks, {}, manifest)
        write_manifest(smaller, manifest)
        save_model(smaller, output, source=path)
    except LacootError:
        assert not output.exists()
    else:
        again = load_model(output)
        assert read_manifest(again) is not None
        assert len(again.graph.node) <= len(model.graph.node) + len(able)
        assert [block.name for block in survey(again).blocks] == [block.name for block in left.blocks]
    assert path.read_bytes() == before
    assert fingerprint(model) == first


def model_bytes(data: bytes, folder: Path) -> None:
    """An ONNX file of arbitrary bytes."""
    path = folder / "in.onnx"
    path.write_bytes(data)
    _through(path, folder)


_BASES: list[onnx.ModelProto] = []


def model_graph(data: bytes, folder: Path) -> None:
    """An ONNX file whose graph was damaged."""
    if not _BASES:
        _BASES.extend(bases())
    path, weights = folder / "in.onnx", folder / "w.bin"
    if not weights.exists():
        weights.write_bytes(bytes(256))
    path.write_bytes(mutant(data, _BASES).SerializeToString())
    _through(path, folder)


def manifest(data: bytes, folder: Path) -> None:
    """The text of a manifest: what is read is written and read again."""
    found = parse_manifest(data.decode("utf-8", "replace"))
    text = to_json(found)
    assert to_json(parse_manifest(text)) == text
    model, blocks = residual_mlp(2, width=4)
    recorded_distances(found, blocks)
    found.blocks = block_records(blocks, {}, found)
    write_manifest(model, found)
    parsed = onnx.ModelProto()
    parsed.ParseFromString(model.SerializeToString())
    assert read_manifest(parsed) is not None


def plan(data: bytes, folder: Path) -> None:
    """The text of a plan, applied to a model that it may fit."""
    found = parse_plan(data.decode("utf-8", "replace"))
    assert parse_plan(to_json(found)).digest() == found.digest()
    model, blocks = residual_mlp(2, width=4)
    cuts, _ = resolve_plan(found, blocks)
    refits = resolve_refits(found, blocks)
    smaller = collapse_blocks(model, cuts, refits)
    output = folder / "planned.onnx"
    output.unlink(missing_ok=True)
    save_model(smaller, output)
    load_model(output)


def recipe(data: bytes, folder: Path) -> None:
    """A recipe file."""
    from lacoot_deploy.training.recipe import load_recipe

    path = folder / "r.toml"
    path.write_bytes(data)
    loaded = load_recipe(path)
    assert loaded.model_dump(mode="json") is not None


def checkpoint(data: bytes, folder: Path) -> None:
    """A checkpoint of a training run."""
    from lacoot_deploy.training.checkpoint import read_checkpoint

    path = folder / "checkpoint.safetensors"
    path.write_bytes(data)
    assert read_checkpoint(path).recipe is not None


def weights(data: bytes, folder: Path) -> None:
    """Weights to start from: the first byte says in which format."""
    from lacoot_deploy.training.weights import read_weights

    path = folder / ("w.safetensors" if data[:1] == b"s" else "w.pt")
    path.write_bytes(data[1:])
    assert read_weights(path)


def arrays(data: bytes, folder: Path) -> None:
    """Samples in an npz file."""
    path = folder / "d.npz"
    path.write_bytes(data)
    infos = [InputInfo("x", ("n", 4), "float32")]
    assert len(load_samples(f"npz:{path}", inputs=infos)) > 0


def images(data: bytes, folder: Path) -> None:
    """A zip archive of pictures."""
    path = folder / "d.zip"
    path.write_bytes(data)
    for kind in ("imagefolder", "cifar10"):
        assert load_images(f"{kind}:{path}", "train", size=(4, 4)).images.shape[1:] == (3, 4, 4)


def picture(data: bytes, folder: Path) -> None:
    """One picture."""
    for name in ("a/0.png", "b/0.png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(data)
    assert len(load_images(f"imagefolder:{folder}", "train", size=(4, 4))) > 0


def idx(data: bytes, folder: Path) -> None:
    """The images of Fashion-MNIST, plain or packed."""
    read = Reader(data)
    packed = read.below(2)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"):
        (folder / name).unlink(missing_ok=True)
    (folder / ("t10k-images-idx3-ubyte.gz" if packed else "t10k-images-idx3-ubyte")).write_bytes(data[1:])
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + b"\0\1")
    assert len(load_images(f"fashion-mnist:{folder}", "test")) == 2


def batch(data: bytes, folder: Path) -> None:
    """A pickled CIFAR-10 batch."""
    pictures, labels = read_batch(data, "batch")
    assert len(pictures) == len(labels)


def tar(data: bytes, folder: Path) -> None:
    """A tar archive of CIFAR-10 batches."""
    path = folder / "c.tar"
    path.write_bytes(data)
    load_images(f"cifar10:{path}", "test")


def _models() -> list[bytes]:
    found = []
    for number, model in enumerate(bases()):
        if number:
            write_manifest(model, Manifest(producer="seed"))
        found.append(model.SerializeToString())
    return found


def _graphs() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [
        bytes([base, *rng.integers(0, 256, 4 * n, np.uint8).tolist()])
        for base in range(3)
        for n in range(1, 8)
    ]


def _plans() -> list[bytes]:
    from lacoot_deploy.graph.model.blocks import Form
    from lacoot_deploy.graph.surgery.cuts import Refit, Repair
    from lacoot_deploy.selection.matching import refit_records

    _, blocks = residual_mlp(2, width=4)
    ones, matrix = np.ones(4, np.float32), np.eye(4, dtype=np.float32)
    repairs = (None, Repair(1, ones, ones), Repair(1, ones, matrix=matrix))
    made = []
    for repair in repairs:
        steps = plan_steps([Cut(blocks[0], Form.BYPASS, repair)])
        made.append(Plan(steps=steps, limit={"count": 1}))
    refit = Refit(blocks[1], Repair(1, ones, matrix=matrix))
    made.append(Plan(steps=plan_steps([Cut(blocks[0], Form.SHORTCUT)]), refits=refit_records([refit])))
    return [to_json(p).encode() for p in made]


def _manifests() -> list[bytes]:
    _, blocks = residual_mlp(2, width=4)
    distances = {block.name: {} for block in blocks}
    filled = Manifest(
        producer="seed",
        source=SourceRecord(model="m", recipe={"val_fraction": 0.1}),
        blocks=block_records(blocks, distances, None),
        plan=parse_plan(_plans()[1].decode()),
    )
    record = {
        "name": "layer0",
        "input": "a",
        "output": "b",
        "distances": {"mswd": {"value": 1.5, "floor": 0.1}},
    }
    more = {
        "preprocessing": {"mean": [0.5], "std": [1], "size": [4, 4], "channels": 1},
        "blocks": [record],
        "history": [{"plan_sha256": "a", "model_sha256_before": "b", "blocks": ["layer0"]}],
    }
    return [b"{}", to_json(filled).encode(), json.dumps(more).encode()]


def _recipes() -> list[bytes]:
    folder = Path(__file__).resolve().parents[2] / "samples" / "recipes"
    return [path.read_bytes() for path in sorted(folder.glob("*.toml"))] + [
        b"model_args = {a = 1}\nsize = 1979-05-27"
    ]


def _checkpoints() -> list[bytes]:
    import tempfile

    import torch

    from lacoot_deploy.manifest import PreprocessingRecord
    from lacoot_deploy.training.checkpoint import Checkpoint, CheckpointHeader, save_checkpoint
    from lacoot_deploy.training.recipe import Recipe

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "c.safetensors"
        header = CheckpointHeader(
            epoch=1,
            recipe=Recipe().model_dump(mode="json"),
            classes=["a", "b"],
            channels=1,
            preprocessing=PreprocessingRecord(mean=[0.5], std=[1], size=(4, 4), channels=1),
            seconds=1.0,
        )
        optimizer = {"state": {0: {"m": torch.zeros(2), "step": 3}}, "param_groups": [{"lr": 0.1}]}
        examples = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
        save_checkpoint(path, Checkpoint(header, {"w": torch.ones(2)}, optimizer, examples))
        return [path.read_bytes()]


def _weights() -> list[bytes]:
    import torch

    file, old = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(2)}}, file)
    torch.save({"w": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    return [b"p" + file.getvalue(), b"p" + old.getvalue(), b"s" + _checkpoints()[0]]


def _arrays() -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, x=np.ones((2, 4), np.float32), labels=np.arange(2))
        found.append(file.getvalue())
    return found


def _pictures() -> list[bytes]:
    from PIL import Image

    found = []
    for kind in ("PNG", "JPEG", "BMP", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (5, 6), (1, 2, 3)).save(file, kind)
        found.append(file.getvalue())
    palette = io.BytesIO()
    Image.new("P", (5, 6)).save(palette, "PNG")
    return [*found, palette.getvalue()]


def _archives() -> list[bytes]:
    found = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name in ("a/0", "b/0", "a/1", "b/1"):
                archive.writestr(f"{name}.png", _pictures()[0])
        found.append(file.getvalue())
    return found


def _idx() -> list[bytes]:
    import gzip

    plain = struct.pack(">4I", 0x803, 2, 3, 3) + bytes(18)
    return [b"\0" + plain, b"\1" + gzip.compress(plain)]


def _batches() -> list[bytes]:
    content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2], b"batch_label": b"x"}
    return [pickle.dumps(content, protocol=protocol) for protocol in range(5)]


def _tars() -> list[bytes]:
    found = []
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as archive:
            data = _batches()[4]
            info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        found.append(file.getvalue())
    return found


TARGETS = {
    "model_bytes": Target(model_bytes, _models, 40_000),
    "model_graph": Target(model_graph, _graphs, 30_000, 120),
    "manifest": Target(manifest, _manifests, 35_000),
    "plan": Target(plan, _plans, 25_000),
    "recipe": Target(recipe, _recipes, 15_000),
    "checkpoint": Target(checkpoint, _checkpoints, 15_000, 30),
    "weights": Target(weights, _weights, 10_000, 30),
    "arrays": Target(arrays, _arrays, 15_000),
    "images": Target(images, _archives, 15_000),
    "picture": Target(picture, _pictures, 15_000),
    "idx": Target(idx, _idx, 10_000),
    "batch": Target(batch, _batches, 15_000),
    "tar": Target(tar, _tars, 8_000),
}


def scratch() -> Path | None:
    """A folder in memory for the files of a long run; None for the system's own."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else None
