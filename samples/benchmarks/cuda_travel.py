"""What travels to a machine without network, in parts of at most 58 MB, and how it is put together there.

Here, where there is a network (wheels given as a folder, such as `pip download` or `pip wheel` leaves it):

    python samples/benchmarks/cuda_travel.py models -o networks
    python samples/benchmarks/cuda_travel.py pack --wheels wheels --data cifar10.zip --models networks -o parts

There, with nothing but Python and the parts:

    python samples/benchmarks/cuda_travel.py unpack parts -o there
    there/venv/bin/python samples/benchmarks/cuda_figures.py --data cifar10:there/data/cifar10.zip --models there/models

`models` leaves the weights out of the untrained networks, since latency does not depend on them; `unpack` draws them.
The parts are numbered slices of one stream of files, held to the SHA-256 of each part and of each file; `parts.json`
lists them. Only the standard library is needed until the wheels are installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT = 58 * 10**6
"""Bytes of a part at most."""

CHUNK = 1 << 20
LARGE = 4096
"""Elements from which on a weight is left out of a model and drawn anew."""


def chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a piece at a time."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def sha256(path: Path) -> str:
    """A file's hash."""
    found = hashlib.sha256()
    for piece in chunks(path):
        found.update(piece)
    return found.hexdigest()


def what_travels(wheels: Path | None, data: Path | None, models: Path | None) -> list[tuple[str, Path]]:
    """Names on arrival and the files, in one order."""
    found: list[tuple[str, Path]] = []
    for kind, source in (("wheels", wheels), ("data", data), ("models", models)):
        if source is None:
            continue
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        if not files:
            raise SystemExit(f"{source} holds no file")
        base = source.parent if source.is_file() else source
        found += [(f"{kind}/{path.relative_to(base).as_posix()}", path) for path in files]
    return found


def pack(files: list[tuple[str, Path]], target: Path, limit: int = LIMIT) -> dict[str, Any]:
    """Write the parts and `parts.json`, which is returned."""
    target.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    room = 0
    for _, path in files:
        for piece in chunks(path):
            while piece:
                if room == 0:
                    parts.append(target / f"part-{len(parts):03}")
                    parts[-1].write_bytes(b"")
                    room = limit
                with parts[-1].open("ab") as part:
                    part.write(piece[:room])
                taken = min(room, len(piece))
                piece, room = piece[taken:], room - taken
    listing = {
        "files": [
            {"name": name, "bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files
        ],
        "parts": [{"name": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)} for p in parts],
    }
    (target / "parts.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    return listing


def unpack(source: Path, target: Path) -> list[Path]:
    """Put the files together again, every part and every file held to its hash.

    Raises:
        SystemExit: A part is missing or damaged, or a name leads out of the folder.
    """
    listing = json.loads((source / "parts.json").read_text(encoding="utf-8"))
    for part in listing["parts"]:
        path = source / part["name"]
        if not path.is_file() or sha256(path) != part["sha256"]:
            raise SystemExit(f"{path} is missing or damaged; bring it again")
    stream = (piece for part in listing["parts"] for piece in chunks(source / part["name"]))
    made, rest = [], b""
    for entry in listing["files"]:
        path = (target / entry["name"]).resolve()
        if not path.is_relative_to(target.resolve()):
            raise SystemExit(f"{entry['name']!r} leads out of {target}")
        path.parent.mkdir(parents=True, exist_ok=True)
        left = entry["bytes"]
        with path.open("wb") as file:
            while left:
                rest = rest or next(stream)
                file.write(rest[:left])
                taken = min(left, len(rest))
                rest, left = rest[taken:], left - taken
        if sha256(path) != entry["sha256"]:
            raise SystemExit(f"{path} is not what was packed")
        made.append(path)
    return made


def install(wheels: Path, environment: Path) -> None:
    """An environment with everything from a folder of wheels; no network is asked."""
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--find-links",
        str(wheels),
        "--no-deps",
    ]
    subprocess.run([*pip, *map(str, sorted(wheels.rglob("*.whl")))], check=True)


def without_weights(model: Any) -> Any:
    """A copy of a model whose large weights are left out, their spread kept in the place of the values."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    light = type(model)()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and values.size >= LARGE:
            tensor.doc_string = f"drawn:{float(np.std(values)):.6g}"
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return light


def with_weights(light: Any) -> Any:
    """The model again, the weights that were left out drawn from a normal distribution of that spread."""
    import numpy as np

    for index, tensor in enumerate(light.graph.initializer):
        if tensor.doc_string.startswith("drawn:"):
            spread = np.float32(tensor.doc_string.removeprefix("drawn:"))
            values = np.random.default_rng(index).standard_normal(tuple(tensor.dims), dtype=np.float32)
            tensor.raw_data = (spread * values).tobytes()
            tensor.ClearField("doc_string")
    return light


def export_models(target: Path, names: list[str]) -> None:
    """Export the networks of the latency stage, without their weights."""
    import onnx
    from cuda_stages import export_network

    for name in names:
        path = target / f"{name}.onnx"
        export_network(name, path)
        onnx.save(without_weights(onnx.load(str(path))), str(path))
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


DRAW = """
import sys, pathlib, onnx
sys.path.insert(0, sys.argv[1])
from cuda_travel import with_weights
for path in pathlib.Path(sys.argv[2]).glob("*.onnx"):
    onnx.save(with_weights(onnx.load(str(path))), str(path))
"""


def arrive(source: Path, target: Path) -> None:
    """Unpack, install, draw the weights."""
    made = unpack(source, target)
    print(f"{len(made)} files are whole")
    environment = target / "venv"
    python = Path(sys.executable)
    if (target / "wheels").is_dir():
        install(target / "wheels", environment)
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if (target / "models").is_dir():
        here = str(Path(__file__).resolve().parent)
        subprocess.run([str(python), "-c", DRAW, here, str(target / "models")], check=True)
    print(f"ready: {python}")


def main(words: list[str] | None = None) -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    models = commands.add_parser("models", help="export the networks, their weights left out")
    models.add_argument("--networks", nargs="+", help="default: all of the latency stage")
    packing = commands.add_parser("pack", help="split what travels into parts")
    packing.add_argument("--wheels", type=Path, help="folder of wheels, the project's own among them")
    packing.add_argument("--data", type=Path, help="archive or folder of CIFAR-10")
    packing.add_argument("--models", type=Path, help="folder that `models` made")
    packing.add_argument("--megabytes", type=float, default=LIMIT / 1e6, help="of a part at most")
    unpacking = commands.add_parser("unpack", help="put the parts together and install them, without network")
    unpacking.add_argument("parts", type=Path)
    for command in (models, packing, unpacking):
        command.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(words)
    if given.command == "models":
        from cuda_stages import NETWORKS

        export_models(given.output, given.networks or list(NETWORKS))
    elif given.command == "pack":
        files = what_travels(given.wheels, given.data, given.models)
        listing = pack(files, given.output, int(given.megabytes * 1e6))
        print(f"{len(listing['files'])} files in {len(listing['parts'])} parts in {given.output}")
    else:
        arrive(given.parts, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
