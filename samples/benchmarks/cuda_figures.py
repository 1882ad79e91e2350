"""Every figure that only a GPU can give, in one run of ten minutes, the ones that are worth most first.

    python samples/benchmarks/cuda_figures.py --minutes 10 --data cifar10:PATH --folder runs
    python samples/benchmarks/cuda_figures.py --list
    python samples/benchmarks/cuda_figures.py --device cpu --small -o small.json     # everything, in little

Each stage is a process of its own with a share of the time that is left (see cuda_stages.py). It writes every figure as
soon as it has it, so one that fails or runs out of time keeps what it has; the reason stands beside it and the next one
runs. The document of figures is added to by later runs. Exit codes: 0 done, 1 some stage failed (which, and why, is the
last thing said), 7 no CUDA here, nothing measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

STAGES_SCRIPT = Path(__file__).with_name("cuda_stages.py")
GRACE = 5.0
"""Seconds beyond its time after which a stage that does not mind it is ended."""


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    Attributes:
        name: Its name, on the command line and in the document.
        share: Its part of the time; what earlier stages leave unused is shared by the later ones.
        what: What it measures.
    """

    name: str
    share: float
    what: str


STAGES = (
    Stage("ready", 0.08, "doctor, the provider that really runs a model, the tests marked gpu"),
    Stage("latency", 0.32, "dense against collapsed on ONNX Runtime: batches, types, TF32, host copies, CUDA graphs"),
    Stage("step", 0.14, "the distance beside POT's, and what the penalty adds to a training step"),
    Stage("search", 0.12, "search and healing on the device and on the CPU"),
    Stage("recipe", 0.29, "the paper's ResNet-18: as many epochs as there is time for, cut, healed"),
    Stage("tensorrt", 0.05, "dense against collapsed on TensorRT, where its provider loads"),
)  # fmt: skip


def arguments_of(words: list[str] | None) -> argparse.Namespace:
    """The options of this run."""
    parser = common.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all stages together")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--small", action="store_true", help="small networks, few rounds: to see that it runs"
    )
    parser.add_argument("--data", help="CIFAR-10, such as cifar10:cifar10.zip; the digits if not given")
    parser.add_argument("--models", type=Path, help="folder of networks exported beforehand (cuda_travel.py)")
    parser.add_argument("--folder", type=Path, default=Path("runs/cuda"), help="folder of what is trained")
    parser.add_argument("-o", "--output", type=Path, help="document of figures; default: among the results")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    parser.add_argument("--list", action="store_true", help="show the stages and their time, run nothing")
    given = parser.parse_args(words)
    unknown = sorted(set(given.only or ()) - {stage.name for stage in STAGES})
    if unknown:
        known = ", ".join(stage.name for stage in STAGES)
        parser.error(f"there is no stage {', '.join(unknown)}; there are: {known}")
    if given.output is None:
        given.output = (
            common.RESULTS / "cuda_figures.json" if given.device == "cuda" else Path("cuda_figures.json")
        )
    return given


def run_stage(stage: Stage, limit: float, given: argparse.Namespace) -> dict[str, Any]:
    """Run a stage in a process of its own, `limit` seconds at most.

    Returns:
        `status` (done, failed, out of time), `why`, `seconds`, `limit` and `figures`, whatever it came to.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cuda-stage-") as folder:
        target, said = Path(folder) / "figures.json", Path(folder) / "stderr"
        command = [
            *(sys.executable, str(STAGES_SCRIPT), stage.name, "--device", given.device),
            *("--seconds", f"{limit:.1f}", "--folder", str(given.folder), "-o", str(target)),
        ]
        for option, value in (("--data", given.data), ("--models", given.models)):
            command += [] if value is None else [option, str(value)]
        command += ["--small"] if given.small else []
        status, why = "done", None
        with said.open("w") as stderr:
            child = subprocess.Popen(command, stderr=stderr, start_new_session=True)
            try:
                if child.wait(timeout=limit * 1.1 + GRACE) != 0:
                    status, why = "failed", _last_line(said) or f"exit code {child.returncode}"
            except subprocess.TimeoutExpired:
                status, why = "out of time", f"ended after {limit:.0f} s"
            finally:
                _end(child)
        found = common.written(target)
    seconds = round(time.monotonic() - began, 1)
    return {"status": status, "why": why, "seconds": seconds, "limit": round(limit, 1), "figures": found}


def _last_line(path: Path) -> str | None:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of a stage, the processes that it started included."""
    if child.poll() is None:
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait()


def added(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """A stage's entry: the new figures in place of old ones of the same name, the others kept."""
    return new | {"figures": {**(old or {}).get("figures", {}), **new["figures"]}}


def cuda_problem() -> str | None:
    """Why CUDA does not work here; None where it does."""
    import lacoot_deploy as ld

    cuda = next(provider for provider in ld.doctor().providers if provider.name == "cuda")
    return None if cuda.works else str(cuda.problem)


def main(words: list[str] | None = None) -> int:
    """Run the stages, each within its share of the time."""
    given = arguments_of(words)
    chosen = [stage for stage in STAGES if not given.only or stage.name in given.only]
    whole = sum(stage.share for stage in chosen)
    if given.list:
        for stage in chosen:
            print(f"{stage.name}: {60 * given.minutes * stage.share / whole:.0f} s: {stage.what}")
        return 0
    if given.device == "cuda" and (problem := cuda_problem()) is not None:
        print(f"CUDA does not work here: {problem}", file=sys.stderr)
        return 7
    deadline = time.monotonic() + 60 * given.minutes
    document = common.written(given.output, {"stages": {}})
    failed = []
    for place, stage in enumerate(chosen):
        share = stage.share / sum(later.share for later in chosen[place:])
        limit = max(1.0, share * (deadline - time.monotonic()))
        print(f"== {stage.name}: {stage.what} ({limit:.0f} s)", flush=True)
        found = run_stage(stage, limit, given)
        document["stages"][stage.name] = added(document["stages"].get(stage.name), found)
        document |= {"command": common.command(), "device": given.device, "small": given.small}
        document["machine"] = common.machine()
        common.write(given.output, document)
        print(
            f"== {stage.name}: {found['status']} in {found['seconds']:.0f} s, {found['why'] or 'no trouble'}\n"
        )
        if found["status"] != "done":
            failed.append(f"{stage.name} ({found['status']}: {found['why']})")
    if failed:
        print(f"Not whole: {'; '.join(failed)}.", file=sys.stderr)
    print(json.dumps({name: len(entry["figures"]) for name, entry in document["stages"].items()}))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
