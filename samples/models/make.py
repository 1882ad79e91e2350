"""The small network that the demo's second half starts from, and some pictures to choose, heal and judge by.

    lacoot-deploy train samples/recipes/resnet20-cifar10-plain.toml --set data=cifar10:cifar10.zip -o runs/resnet20
    python samples/models/make.py runs/resnet20 --archive cifar10.zip

Writes `resnet20.onnx` without the plan that its training recommends, `images.zip` with pictures of every
class (`train/` from the part that the network was trained on, `test/` from the other) and `contents.json` with the
hashes, which the tests hold them to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 2_000_000
"""Bytes that all of it may take."""


def chosen(archive: zipfile.ZipFile, part: str, count: int) -> list[str]:
    """Names of `count` pictures of a part, as many of every class, the first of each."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if parts[-3:-2] == [part] and not name.endswith("/"):
            by_class[parts[-2]].append(name)
    each = count // len(by_class)
    return [name for names in by_class.values() for name in names[:each]]


def pictures(source: Path, target: Path, counts: dict[str, int]) -> None:
    """Copy pictures into a small archive of the same layout, the same bytes in the same order whenever it is made."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for part, count in counts.items():
            for name in chosen(old, part, count):
                new.writestr(zipfile.ZipInfo("/".join(name.split("/")[-3:])), old.read(name))


def network(run: Path, target: Path) -> None:
    """The run's network with its record, but without a plan."""
    from lacoot_deploy.graph.model.io import load_model, save_model
    from lacoot_deploy.manifest import read_manifest, write_manifest

    model = load_model(run / "model.onnx")
    manifest = read_manifest(model)
    if manifest is not None:
        write_manifest(model, manifest.model_copy(update={"plan": None}))
    save_model(model, target)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the finished training")
    parser.add_argument("--archive", type=Path, required=True, help="CIFAR-10 as a zip of class folders")
    parser.add_argument("--train", type=int, default=400, help="pictures to choose and heal by")
    parser.add_argument("--test", type=int, default=300, help="pictures to judge by")
    given = parser.parse_args()
    pictures(given.archive, HERE / "images.zip", {"train": given.train, "test": given.test})
    network(given.run, HERE / "resnet20.onnx")
    files = [HERE / "resnet20.onnx", HERE / "images.zip"]
    contents = {
        "recipe": "samples/recipes/resnet20-cifar10-plain.toml",
        "pictures": {
            "train": given.train,
            "test": given.test,
            "from": "CIFAR-10 (A. Krizhevsky, 2009), as JPEG",
        },
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    (HERE / "contents.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in files)
    print(f"{size / 1e6:.2f} MB")
    return 0 if size <= LIMIT else 4


if __name__ == "__main__":
    sys.exit(main())
