"""What cutting and converting cost and gain, together and each alone: the account of `ship` on a network and its cut.

The network is cut by `collapse` on validation images, healed if asked for, then all are shipped; calibration, choice
and confirmation are on test images, so that what confirms chose neither blocks nor precision. Every file is run in a
fresh process by its folder's `run.py`, and the ORT file's answers are held against the ONNX file's.

    python samples/benchmarks/ship_table.py ResNet-20 runs/resnet20/model.onnx --data cifar10:PATH --count 3 \
        --heal 240 -o samples/benchmarks/results/shipping_cpu.json

Studies of other networks are added to the same file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np

from lacoot_deploy.api import collapse, ship
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.healing.options import HealOptions
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.workflow.healing_files import heal

CHAINS = ("int8", "fp16", "ort")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("name", help="what the table calls the network")
    parser.add_argument("model", type=Path)
    parser.add_argument("--heal", type=int, help="steps of healing for the cut, on training images")
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, required=True, help="blocks (or units) that go")
    parser.add_argument("--units", action="store_true", help="single residual units instead of blocks")
    parser.add_argument("--samples", type=int, default=2000, help="validation images for the cut")
    parser.add_argument("--tested", type=int, help="at most so many test images")
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument(
        "--more", action="append", default=[], help="further conversions, such as int8-dynamic"
    )
    parser.add_argument("--augment", action="append", default=[], help="of the images that heal: flip, crop")
    parser.add_argument("--min-time", type=float, default=6.0)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    runtime = Runtime("cpu", 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut = collapse(
            given.model,
            folder / "short.onnx",
            count=given.count,
            data=DataOptions(given.data, split="val", limit=given.samples),
            options=SearchOptions(granularity="unit" if given.units else "block"),
            runtime=runtime,
        )
        networks = [given.model, folder / "short.onnx"]
        if given.heal:
            networks.append(folder / "healed.onnx")
            heal(
                given.model,
                *networks[1:],
                data=DataOptions(given.data, split="train", limit=given.samples),
                options=HealOptions(steps=given.heal, minutes=None, augment=tuple(given.augment)),
                runtime=runtime,
            )
        account = ship(
            networks,
            folder / "out",
            data=DataOptions(given.data, split="test", limit=given.tested),
            conversions=(*CHAINS, *given.more),
            max_drop=given.max_drop,
            bench=BenchOptions(min_time=given.min_time),
            runtime=runtime,
        )
        study = {
            "name": given.name,
            "command": common.command(),
            "machine": common.machine(),
            "removed": [step.block for step in cut.plan.steps],
            "fresh_processes": checked(folder / "out"),
            "ort_differs_by": ort_difference(folder / "out"),
            "account": account.model_dump(mode="json"),
        }
    document = common.written(given.output, {"studies": []})
    others = [one for one in document["studies"] if one["name"] != given.name]
    common.write(given.output, {"studies": [*others, study]})
    for line in account.files:
        speed = "-" if line.latency is None else f"{line.latency.speedup:.2f}"
        drop = "-" if line.score is None else f"{line.score.drop:.2f}"
        print(f"{line.name:30} drop {drop:>6}  speed-up {speed:>5}  {line.verdict} {line.reason or ''}")
    print(study["fresh_processes"], study["ort_differs_by"])


def checked(folder: Path) -> list[str]:
    """What `run.py --check` says of every file, in a process of its own."""
    command = [sys.executable, str(folder / "run.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()


def ort_difference(folder: Path) -> dict[str, float]:
    """Largest difference of an ORT file's answers from those of the ONNX file that it was made from."""
    with np.load(folder / "samples.npz") as arrays:
        feeds: dict[str, Any] = {name: arrays[name] for name in arrays.files}
    found = {}
    for path in sorted(folder.glob("*.ort")):
        answers = [open_session(p, Runtime("cpu", 1)).run(feeds) for p in (path, path.with_suffix(".onnx"))]
        found[path.name] = max(float(np.abs(answers[0][n] - answers[1][n]).max()) for n in answers[0])
    return found


if __name__ == "__main__":
    main()
